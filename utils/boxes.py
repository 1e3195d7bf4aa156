"""Box and polygon maths for numpy arrays and torch tensors alike. Imports numpy alone.

Formats: xyxy = left, top, right, bottom; xywh = centre x, centre y, width, height; both in pixels. xywhn: xywh divided
by the image's width and height. Columns after the fourth are carried through. Functions return new arrays; clip_boxes
and scale_boxes also change their input in place.
"""

import sys

import numpy as np


def _namespace(x):
    """Return the module whose functions take `x`: torch for a tensor (then it is loaded already), else numpy."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(x, torch.Tensor) else np


def xyxy2xywh(x):
    """Return [..., 4+] xyxy -> xywh."""
    low, high = x[..., :2], x[..., 2:4]
    return _namespace(x).concatenate([(low + high) / 2, high - low, x[..., 4:]], -1)


def xywh2xyxy(x):
    """Return [..., 4+] xywh -> xyxy."""
    centre, half = x[..., :2], x[..., 2:4] / 2
    return _namespace(x).concatenate([centre - half, centre + half, x[..., 4:]], -1)


def xywhn2xyxy(x, w=640, h=640, padw=0, padh=0):
    """Return [..., 4+] xywhn of a w x h image -> xyxy in that image moved right and down by padw, padh pixels."""
    columns = _scale_and_shift(xywh2xyxy(x[..., :4]), w, h, padw, padh)
    return _namespace(x).concatenate([columns, x[..., 4:]], -1)


def xyxy2xywhn(x, w=640, h=640, clip=False, eps=0.0):
    """Return [..., 4+] xywhn of xyxy in a w x h image. With `clip`, boxes are cut to `eps` px inside it before."""
    boxes = x[..., :4]
    if clip:
        boxes = clip_boxes(boxes + 0, (h - eps, w - eps))
    columns = _scale_and_shift(xyxy2xywh(boxes), 1 / w, 1 / h, 0, 0)
    return _namespace(x).concatenate([columns, x[..., 4:]], -1)


def xyn2xy(x, w=640, h=640, padw=0, padh=0):
    """Turn points [..., 2], divided by image width and height, into pixels, moved right and down by padw, padh."""
    return _scale_and_shift(x, w, h, padw, padh)


def _scale_and_shift(x, w, h, dx, dy):
    """Return x values (even columns) * w + dx, y values (odd columns) * h + dy."""
    columns = [x[..., i] * (h if i % 2 else w) + (dy if i % 2 else dx) for i in range(x.shape[-1])]
    return _namespace(x).stack(columns, -1)


def segment2box(segment, width=640, height=640):
    """Return the bounding box [4] xyxy of the polygon points [n, 2] inside a width x height image, or zeros."""
    x, y = segment[:, 0], segment[:, 1]
    inside = segment[(x >= 0) & (y >= 0) & (x <= width) & (y <= height)]
    if len(inside) == 0:
        return np.zeros(4, dtype=segment.dtype)
    return np.concatenate([inside.min(0), inside.max(0)])


def segments2boxes(segments):
    """Return the bounding boxes [N, 4] xywh of N polygons, each [n, 2]; units stay what they are."""
    if len(segments) == 0:
        return np.zeros((0, 4), dtype=np.float32)
    return xyxy2xywh(np.stack([np.concatenate([s.min(0), s.max(0)]) for s in segments]))


def resample_segments(segments, n=1000):
    """Return closed polygons [n, 2] float32 with points at equal distances along the outlines of polygons [k, 2]."""
    return [_resample(np.asarray(segment), n) for segment in segments]


def _resample(segment, n):
    closed = np.concatenate([segment, segment[:1]])
    travelled = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    positions = np.linspace(0, travelled[-1], n)
    return np.stack([np.interp(positions, travelled, closed[:, i]) for i in (0, 1)], 1).astype(np.float32)


def clip_boxes(boxes, shape_hw):
    """Cut [..., 4+] xyxy boxes to an image of shape (height, width), in place; returns them too."""
    height, width = shape_hw[:2]
    boxes[..., 0:4:2] = boxes[..., 0:4:2].clip(0, width)
    boxes[..., 1:4:2] = boxes[..., 1:4:2].clip(0, height)
    return boxes


def scale_boxes(img1_shape, boxes, img0_shape, ratio_pad=None):
    """Map [..., 4+] xyxy boxes from a letterboxed image back to the original and cut them to it.

    In place; returns them too. img1_shape (height, width) of the letterboxed image, img0_shape of the original;
    ratio_pad ((ratio_h, ratio_w), (pad_w, pad_h)) as the data loader gives it. Without it, the letterbox is taken to be
    the tightest: one ratio, equal borders.
    """
    if ratio_pad is None:
        ratio_pad = letterbox_ratio_pad(img1_shape, img0_shape)
    (ratio_h, ratio_w), (pad_w, pad_h) = ratio_pad
    boxes[..., 0:4:2] = (boxes[..., 0:4:2] - pad_w) / ratio_w
    boxes[..., 1:4:2] = (boxes[..., 1:4:2] - pad_h) / ratio_h
    return clip_boxes(boxes, img0_shape)


def letterbox_ratio_pad(img1_shape, img0_shape):
    """Return the common ratio and the (half) borders that letterbox reports for these shapes."""
    ratio = min(img1_shape[0] / img0_shape[0], img1_shape[1] / img0_shape[1])
    height, width = (round(side * ratio) for side in img0_shape[:2])
    return (ratio, ratio), ((img1_shape[1] - width) / 2, (img1_shape[0] - height) / 2)


def _intersection_area(a, b):
    """Return the area shared by [..., 4] xyxy boxes; the leading dimensions broadcast."""
    xp = _namespace(a)
    sides = (xp.minimum(a[..., 2:4], b[..., 2:4]) - xp.maximum(a[..., :2], b[..., :2])).clip(0)
    return sides[..., 0] * sides[..., 1]


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(box1, box2, eps=1e-7):
    """Return the IoU [N, M] of every box of [N, 4] with every one of [M, 4], both xyxy."""
    a, b = box1[:, None], box2[None]
    inter = _intersection_area(a, b)
    return inter / (_area(a) + _area(b) - inter + eps)


def bbox_iou(box1, box2, xywh=True, GIoU=False, DIoU=False, CIoU=False, eps=1e-7):
    """Return the IoU [...] of pairs of boxes [..., 4] (leading dimensions broadcast), or a relative, in (-3, 1].

    GIoU: arXiv 1902.09630. DIoU, CIoU: arXiv 1911.08287; the weight alpha of CIoU's aspect term gets no gradient.
    """
    xp = _namespace(box1)
    a, b = (xywh2xyxy(box1), xywh2xyxy(box2)) if xywh else (box1, box2)
    inter = _intersection_area(a, b)
    union = _area(a) + _area(b) - inter + eps
    iou = inter / union
    if not (GIoU or DIoU or CIoU):
        return iou
    hull = xp.maximum(a[..., 2:4], b[..., 2:4]) - xp.minimum(a[..., :2], b[..., :2])
    if GIoU:
        hull_area = hull[..., 0] * hull[..., 1] + eps
        return iou - (hull_area - union) / hull_area
    centre_shift = (b[..., :2] + b[..., 2:4] - a[..., :2] - a[..., 2:4]) / 2
    distance = (centre_shift**2).sum(-1) / ((hull**2).sum(-1) + eps)
    if DIoU:
        return iou - distance
    aspect = 4 / xp.pi**2 * (_box_angle(b, eps) - _box_angle(a, eps)) ** 2
    alpha = aspect / (aspect - iou + (1 + eps))
    alpha = alpha.detach() if hasattr(alpha, "detach") else alpha
    return iou - distance - alpha * aspect


def _box_angle(boxes_xyxy, eps):
    """Return the angle, in radians, whose tangent is width / height."""
    sides = boxes_xyxy[..., 2:4] - boxes_xyxy[..., :2]
    return _namespace(boxes_xyxy).arctan(sides[..., 0] / (sides[..., 1] + eps))


def bbox_ioa(box1, box2, eps=1e-7):
    """Return the share [..., M] of each box of box2 [M, 4] that box1 ([4] or [..., 4]) covers; both xyxy."""
    return _intersection_area(box1[..., None, :], box2) / (_area(box2) + eps)


def wh_iou(wh1, wh2, eps=1e-7):
    """Return the IoU [N, M] of boxes of sizes [N, 2] with boxes of sizes [M, 2], all with one common centre."""
    inter = _namespace(wh1).minimum(wh1[:, None], wh2[None]).prod(-1)
    return inter / (wh1.prod(-1)[:, None] + wh2.prod(-1)[None] - inter + eps)
