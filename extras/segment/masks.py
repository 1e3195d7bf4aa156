"""Masks in numpy: made from prototypes and coefficients at any size, compared, and as polygons or run lengths.

Masks are bool [n, h, w]. Coordinates are those of boxes: the centre of the first pixel is at (0.5, 0.5). Prototypes and
coefficients may be arrays or tensors; what is returned is always an array. Free of torch.
"""

from typing import NamedTuple

import cv2
import numpy as np

from utils.boxes import letterbox_ratio_pad
from utils.nms import as_float32

CHUNK_VALUES = 1 << 22  # float32 values (16 MB) that are made at a time, whatever the number of masks
PROTO_STRIDE_PX = 4  # pixels of the model's input on a pixel of the prototypes


def box_pixels(boxes_xyxy, y, x):
    """Return bool [n, h, w]: whether the box n of [n, 4] holds the point (y[h], x[w]). Arrays or tensors."""
    left, top, right, bottom = (boxes_xyxy[:, i, None] for i in range(4))
    return ((top <= y) & (y < bottom))[:, :, None] & ((left <= x) & (x < right))[:, None]


def crop_mask(masks, boxes_xyxy):
    """Return masks [n, h, w] with zeros for pixels whose centre is outside of their box [n, 4], in mask pixels."""
    y, x = (np.arange(size) + 0.5 for size in masks.shape[1:])
    return masks * box_pixels(boxes_xyxy, y, x)


def process_mask(protos, coefficients, boxes_xyxy, shape_hw, upsample=False) -> np.ndarray:
    """Return the masks bool [n, h, w] of n boxes: sigmoid(coefficients @ prototypes) > 0.5 inside the box.

    protos [nm, ph, pw], coefficients [n, nm], boxes [n, 4] in pixels of the model's input, whose size is shape_hw.
    The masks have the prototypes' size; with `upsample` that of the input, interpolated before the threshold.
    """
    ph, pw = protos.shape[1:]
    h, w = shape_hw if upsample else (ph, pw)
    boxes = as_float32(boxes_xyxy) * np.tile(np.float32([w / shape_hw[1], h / shape_hw[0]]), 2)
    return _combine(protos, coefficients, boxes, Axis.of(h, scale=ph / h), Axis.of(w, scale=pw / w))


def process_mask_native(
    protos, coefficients, boxes_xyxy, shape0_hw, ratio_pad=None, stride=PROTO_STRIDE_PX
) -> np.ndarray:
    """Return the masks bool [n, h0, w0] of n boxes at the size (h0, w0) of the original image, interpolated once.

    protos [nm, ph, pw] of the letterboxed image, coefficients [n, nm], boxes [n, 4] in pixels of the original image.
    ratio_pad: as in utils.boxes.scale_boxes. stride: pixels of the letterboxed image on a pixel of the prototypes.
    A large image takes h0 * w0 bytes a mask: give the boxes in several calls, if that is too much at a time.
    """
    shape1_hw = [size * stride for size in protos.shape[1:]]
    axes = _letterbox_axes(shape1_hw, shape0_hw, ratio_pad, 1 / stride)
    return _combine(protos, coefficients, as_float32(boxes_xyxy), *axes)


def scale_masks(img1_shape, masks, img0_shape, ratio_pad=None) -> np.ndarray:
    """Return masks bool [n, h0, w0] of the original from those [n, h, w] of a letterboxed image, bool or 0 to 1.

    The mask counterpart of utils.boxes.scale_boxes. The masks cover the letterboxed image of size img1_shape (height,
    width) and may be smaller than it.
    """
    y, x = _letterbox_axes(img1_shape, img0_shape, ratio_pad, masks.shape[1] / img1_shape[0])
    scaled = np.zeros((len(masks), y.size, x.size), bool)
    for source, target in zip(masks, scaled):
        left, top, width, height = cv2.boundingRect(np.ascontiguousarray(source > 0).view(np.uint8))
        x1, x2 = x.between(left - 1, left + width)
        y1, y2 = y.between(top - 1, top + height)
        if x1 < x2 and y1 < y2:
            np.greater(_sample(as_float32(source), y, x, (x1, y1, x2, y2)), 0.5, out=target[y1:y2, x1:x2])
    return scaled


class Axis(NamedTuple):
    """Rows or columns: `size` pixels, of which number i lies at start + i * step in another image.

    Positions count from the centre of its first pixel, which is 0.
    """

    size: int
    start: float
    step: float

    @classmethod
    def of(cls, size: int, ratio=1.0, pad=0.0, scale=1.0) -> "Axis":
        """Return the axis on which coordinates go into the other image by * ratio, + pad, * scale."""
        return cls(size, (0.5 * ratio + pad) * scale - 0.5, ratio * scale)

    def between(self, low: float, high: float) -> tuple:
        """Return the first pixel that lies at `low` or behind, and the first behind `high`, both from 0 to size."""
        first, last = ((position - self.start) / self.step for position in (low, high))
        return tuple(int(np.clip(number, 0, self.size)) for number in (np.ceil(first), np.floor(last) + 1))

    def around(self, first: int, end: int, limit: int) -> slice:
        """Return the pixels, of `limit`, of the other image that surround the pixels from `first` to before `end`."""
        low, high = (np.clip(self.start + i * self.step, 0, limit - 1) for i in (first, end - 1))
        return slice(int(low), int(high) + 2)


def _letterbox_axes(shape1_hw, shape0_hw, ratio_pad, scale) -> tuple:
    """Return the Axis of the rows and of the columns of an original image, letterboxed, times `scale`."""
    (ratio_h, ratio_w), (pad_w, pad_h) = letterbox_ratio_pad(shape1_hw, shape0_hw) if ratio_pad is None else ratio_pad
    height, width = shape0_hw[:2]
    return Axis.of(height, ratio_h, pad_h, scale), Axis.of(width, ratio_w, pad_w, scale)


def _sample(image, y: Axis, x: Axis, box) -> np.ndarray:
    """Return float32 values of the image at the pixels (x1, y1, x2, y2) of the axes, linear between its own pixels.

    OpenCV before version 5 rounds the positions to 1/32.
    """
    x1, y1, x2, y2 = box
    matrix = np.array([[x.step, 0, x.start + x1 * x.step], [0, y.step, y.start + y1 * y.step]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _combine(protos, coefficients, boxes_xyxy, y: Axis, x: Axis) -> np.ndarray:
    """Return masks bool [n, y.size, x.size], cut to boxes in their pixels; the axes lie in the prototypes."""
    protos, coefficients = as_float32(protos), as_float32(coefficients)
    nm, ph, pw = protos.shape
    # the first pixel whose centre is in the box, and the first behind it
    edges = np.ceil(boxes_xyxy - 0.5).clip(0, np.tile([x.size, y.size], 2)).astype(int)
    masks = np.zeros((len(boxes_xyxy), y.size, x.size), bool)
    chunk = max(1, CHUNK_VALUES // (ph * pw))
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        logits = (coefficients[part] @ protos.reshape(nm, -1)).reshape(-1, ph, pw)
        for mask, logit, (x1, y1, x2, y2) in zip(masks[part], logits, edges[part].tolist()):
            if x1 >= x2 or y1 >= y2:
                continue
            rows, columns = y.around(y1, y2, ph), x.around(x1, x2, pw)
            # sigmoid(logit) = (1 + tanh(logit / 2)) / 2, which is over 0.5 where the tanh is over 0
            values = np.tanh(logit[rows, columns] / 2)
            moved = [axis._replace(start=axis.start - near.start) for axis, near in ((y, rows), (x, columns))]
            np.greater(_sample(values, *moved, (x1, y1, x2, y2)), 0, out=mask[y1:y2, x1:x2])
    return masks


def mask_iou(a, b) -> np.ndarray:
    """IoU [n, m] of every mask of a [n, h * w] with every one of b [m, h * w], 0 or 1; two empty masks have 0."""
    shared = np.zeros((len(a), len(b)))
    chunk = max(1, CHUNK_VALUES // max(len(a) + len(b), 1))
    for start in range(0, a.shape[1], chunk):
        part = slice(start, start + chunk)
        shared += as_float32(a[:, part]) @ as_float32(b[:, part]).T
    union = np.count_nonzero(a, 1)[:, None] + np.count_nonzero(b, 1)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def masks_to_polygons(masks) -> list:
    """Return the outline of each mask's largest part, float32 [k, 2] (x, y) in mask pixels; [0, 2] for none.

    It runs half way between the centres of pixels inside and outside, so that it fills to the same mask again. Holes
    and further parts are left out; pixels that touch at a corner are one part.
    """
    return [_outline(np.ascontiguousarray(mask, bool).view(np.uint8)) for mask in masks]


def _outline(mask: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return np.zeros((0, 2), np.float32)
    m = np.pad(mask[top : top + height, left : left + width], 1)
    # the points that belong to the part: centres of pixels, middles of their sides, corners of two or more pixels
    points = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    points[1::2, 1::2] = m[1:-1, 1:-1]
    points[::2, 1::2] = m[:-1, 1:-1] | m[1:, 1:-1]
    points[1::2, ::2] = m[1:-1, :-1] | m[1:-1, 1:]
    points[::2, ::2] = m[:-1, :-1] + m[:-1, 1:] + m[1:, :-1] + m[1:, 1:] > 1
    contours, _ = cv2.findContours(points, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return max(contours, key=cv2.contourArea)[:, 0].astype(np.float32) / 2 + np.float32([left, top])


def encode_rle(masks) -> list:
    """Return masks [n, h, w] as COCO's run lengths: {"size": [h, w], "counts": str} each, the same as pycocotools'."""
    from faster_coco_eval.core.mask import frPyObjects

    codes = []
    for mask in masks:
        h, w = mask.shape
        mask = np.ascontiguousarray(mask, bool).view(np.uint8)
        left, _, width, _ = cv2.boundingRect(mask)
        pixels = mask[:, left : left + width].T.ravel()  # run lengths go down the columns
        changes = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0), append=np.uint8(0))) + left * h
        counts = np.diff(np.concatenate([[0], changes, [h * w]]))
        counts = counts if counts[-1] else counts[:-1]
        code = frPyObjects({"size": [h, w], "counts": counts.tolist()}, h, w)
        codes.append({"size": [h, w], "counts": code["counts"].decode("ascii")})
    return codes


def polygons_to_rle(polygons, shape_hw) -> list:
    """Return polygons [k, 2] (x, y) in pixels of an image, filled by COCO's rules, in the form of encode_rle()."""
    from faster_coco_eval.core.mask import frPyObjects

    h, w = shape_hw
    for i, polygon in enumerate(polygons):
        if len(polygon) < 3:
            raise ValueError(f"polygon {i}: expected at least 3 points, found {len(polygon)}")
    flat = [np.asarray(polygon, np.float64).ravel().tolist() for polygon in polygons]
    codes = frPyObjects(flat, h, w) if flat else []
    return [{"size": [h, w], "counts": code["counts"].decode("ascii")} for code in codes]
