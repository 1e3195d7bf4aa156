"""Augmentation of uint8 BGR images and their boxes. Free of torch; all randomness comes from a given Generator."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from utils.boxes import bbox_ioa
from utils.data.images import GREY
from utils.data.mosaic import Tile, paste
from utils.data.polygons import Polygons, visible_boxes
from utils.extras import lazy

__getattr__ = lazy({}, __name__)

FILL = (GREY, GREY, GREY)


def letterbox(
    image: np.ndarray,
    new_shape=(640, 640),
    color=FILL,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
):
    """Fit an image into `new_shape` (height, width; or one int for both) keeping its aspect ratio, and pad the rest.

    auto: pad only up to the next multiple of `stride`. scaleFill: stretch instead of padding. scaleup=False: shrink
    only. Returns (image, (ratio_w, ratio_h), (pad_w, pad_h)); the pads are in pixels, one side's half of the total.
    """
    target_h, target_w = (new_shape, new_shape) if isinstance(new_shape, int) else new_shape
    h, w = image.shape[:2]
    ratio = min(target_h / h, target_w / w)
    ratio_w, ratio_h = (target_w / w, target_h / h) if scaleFill else (ratio, ratio)
    if not scaleup:
        ratio_w, ratio_h = min(ratio_w, 1.0), min(ratio_h, 1.0)
    inner_w, inner_h = max(round(w * ratio_w), 1), max(round(h * ratio_h), 1)
    pad_w, pad_h = target_w - inner_w, target_h - inner_h
    if auto and not scaleFill:
        pad_w, pad_h = pad_w % stride, pad_h % stride
    pad_w, pad_h = pad_w / 2, pad_h / 2
    if (inner_w, inner_h) != (w, h):
        image = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    # an odd total puts the extra pixel at the bottom or right: 0.5 rounds to 0 before the image and to 1 after it
    left, right = round(pad_w - 0.1), round(pad_w + 0.1)
    top, bottom = round(pad_h - 0.1), round(pad_h + 0.1)
    if left or right or top or bottom:
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=color)
    return image, (ratio_w, ratio_h), (pad_w, pad_h)


def letterboxed_rgb(image_bgr: np.ndarray, new_shape_hw, auto: bool = False, stride: int = 32) -> tuple:
    """Return a model's input, contiguous uint8 RGB [H, W, 3], and its ratio_pad for utils.boxes.scale_boxes.

    new_shape_hw and the options are those of letterbox().
    """
    padded, ratio_wh, pad_wh = letterbox(image_bgr, new_shape_hw, auto=auto, stride=stride)
    return cv2.cvtColor(padded, cv2.COLOR_BGR2RGB), (ratio_wh[::-1], pad_wh)


def fit_wh(w: int, h: int, size_px: int) -> tuple[int, int]:
    """Width and height after scaling the longer side to `size_px`."""
    ratio = size_px / max(w, h)
    return min(math.ceil(w * ratio), size_px), min(math.ceil(h * ratio), size_px)


def random_perspective(
    image: np.ndarray,
    targets=(),
    segments=(),
    degrees=10,
    translate=0.1,
    scale=0.1,
    shear=10,
    perspective=0.0,
    border=(0, 0),
    rng: np.random.Generator | None = None,
):
    """Rotate, scale, shear, shift and tilt an image at random, with its boxes.

    targets [n, 5]: class, xyxy in pixels. segments: a list of n polygons [k, 2] in pixels (empty for a row without
    one), or nothing; a row with a polygon gets the box around its visible part. degrees, shear: +- degrees;
    translate: +- part of the image; scale: +- part; perspective: +- tilt per pixel (0 to 0.001). border (y, x):
    pixels added on each side, negative to cut a mosaic's canvas. Returns (image, targets) without the boxes that
    became too small, too thin or mostly hidden.
    """
    rng = rng if rng is not None else np.random.default_rng()
    targets = np.asarray(targets, np.float32).reshape(-1, 5)
    polygons = Polygons.from_list(segments, len(targets))
    out_hw = image.shape[0] + 2 * border[0], image.shape[1] + 2 * border[1]
    warp = random_warp(image.shape, out_hw, rng, degrees, translate, scale, shear, perspective)
    return warp_image(part_of(image, warp.part), warp), warp_labels(targets, polygons, warp)[0]


class Warp(NamedTuple):
    """A move of an image's pixels into an image of another size."""

    matrix: np.ndarray  # 3 x 3, from input to output pixels
    zoom: float  # factor on lengths
    out_hw: tuple
    part: tuple  # x1, y1, x2, y2 of the input from which the output is made; it may reach beyond the input
    is_crop: bool = False  # the output is nothing but this part, resized


def random_warp(in_shape, out_hw, rng, degrees=0.0, translate=0.0, scale=0.0, shear=0.0, perspective=0.0) -> Warp:
    """See `random_perspective` for the ranges."""
    h, w = in_shape[:2]
    tilt_x, tilt_y = rng.uniform(-perspective, perspective, 2)
    angle = math.radians(rng.uniform(-degrees, degrees))
    zoom = rng.uniform(1 - scale, 1 + scale)
    shear_x, shear_y = (math.tan(math.radians(x)) for x in rng.uniform(-shear, shear, 2))
    shift_x, shift_y = rng.uniform(0.5 - translate, 0.5 + translate, 2)
    if not (degrees or shear or perspective):
        return _upright_warp((h, w), out_hw, zoom, shift_x, shift_y)
    tilt = np.array([[1, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]])
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    matrix = _shift(shift_x * out_hw[1], shift_y * out_hw[0]) @ slant @ rotate @ tilt @ _shift(-w / 2, -h / 2)
    return Warp(matrix, zoom, out_hw, (0, 0, w, h))


def _upright_warp(in_hw, out_hw, zoom: float, shift_x: float, shift_y: float) -> Warp:
    """Zoom the input and put its middle at these parts of the output's width and height.

    What the output shows of the input begins and ends on whole pixels, for which zoom and shifts change by less than a
    pixel: then it can be cut out and resized, which is several times faster than a warp.
    """
    (h, w), (out_h, out_w) = in_hw, out_hw
    seen_w, seen_h = max(round(out_w / zoom), 1), max(round(out_h / zoom), 1)
    x1, y1 = round(w / 2 - shift_x * seen_w), round(h / 2 - shift_y * seen_h)
    scale_x, scale_y = out_w / seen_w, out_h / seen_h
    matrix = np.array([[scale_x, 0, -x1 * scale_x], [0, scale_y, -y1 * scale_y], [0, 0, 1]])
    is_crop = seen_w <= w and seen_h <= h  # or most of it would lie beyond the input
    return Warp(matrix, zoom, out_hw, (x1, y1, x1 + seen_w, y1 + seen_h) if is_crop else (0, 0, w, h), is_crop)


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def part_of(image: np.ndarray, part) -> np.ndarray:
    """Return the rectangle x1, y1, x2, y2 of an image, grey beyond it."""
    h, w = image.shape[:2]
    return image if part == (0, 0, w, h) else paste([image], [Tile(w, h, 0, 0, 0, 0, w, h)], part)


def warp_image(part: np.ndarray, warp: Warp) -> np.ndarray:
    """Return the output's image of that part of the input's."""
    h, w = warp.out_hw
    if warp.is_crop:
        return part if part.shape[:2] == (h, w) else cv2.resize(part, (w, h), interpolation=cv2.INTER_LINEAR)
    matrix = _shift(-0.5, -0.5) @ warp.matrix @ _shift(0.5, 0.5)  # OpenCV's coordinates are 0 in a pixel's middle
    if matrix[2, :2].any():
        return cv2.warpPerspective(part, matrix, (w, h), borderValue=FILL)
    return cv2.warpAffine(part, matrix[:2], (w, h), borderValue=FILL)


def warp_labels(targets: np.ndarray, polygons: Polygons, warp: Warp):
    """Return targets [n, 5] (class, xyxy in pixels) and polygons in the output, without those that are hardly left."""
    if len(targets) == 0:
        return targets, polygons
    h, w = warp.out_hw
    boxes = _moved_boxes(targets[:, 1:], warp.matrix, w, h)
    least_area: float | np.ndarray = 0.1
    if len(polygons.points):
        has_polygon = polygons.counts > 0
        polygons = polygons.moved(_apply(warp.matrix, polygons.points))
        boxes[has_polygon] = visible_boxes(polygons.take(has_polygon), w, h)
        # the box of a turned polygon is tight, while a turned box grows: so less of the area needs to be left
        least_area = np.where(has_polygon, 0.01, least_area)
    keep = box_candidates(targets[:, 1:] * warp.zoom, boxes, area_thr=least_area)
    return np.concatenate([targets[keep, :1], boxes[keep]], 1), polygons.take(keep)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points [..., 2] by a 3 x 3 matrix, float32."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return (moved[..., :2] / moved[..., 2:]).astype(np.float32)


def _moved_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray, w: int, h: int) -> np.ndarray:
    """Return the boxes [n, 4] around the moved boxes, cut to a w x h image."""
    if not (matrix[0, 1] or matrix[1, 0] or matrix[2, :2].any()):  # the same, in fewer steps
        scale, shift = matrix[[0, 1, 0, 1], [0, 1, 0, 1]], matrix[[0, 1, 0, 1], 2]
        moved = (boxes_xyxy * scale + shift).astype(np.float32)
    else:
        corners = _apply(matrix, boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))
        moved = np.concatenate([corners.min(1), corners.max(1)], 1)
    return np.minimum(np.maximum(moved, 0), np.array([w, h, w, h], np.float32))


def box_candidates(box1, box2, wh_thr=2, ar_thr=100, area_thr=0.1, eps=1e-16) -> np.ndarray:
    """Which boxes [n] are worth keeping: box1 [n, 4] xyxy before, box2 [n, 4] after augmentation.

    Sides above `wh_thr` pixels, aspect ratio below `ar_thr`, more than `area_thr` (a number or [n]) of the area left.
    """
    w1, h1 = box1[:, 2] - box1[:, 0], box1[:, 3] - box1[:, 1]
    w2, h2 = box2[:, 2] - box2[:, 0], box2[:, 3] - box2[:, 1]
    aspect = np.maximum(w2 / (h2 + eps), h2 / (w2 + eps))
    return (w2 > wh_thr) & (h2 > wh_thr) & (w2 * h2 / (w1 * h1 + eps) > area_thr) & (aspect < ar_thr)


def flip(image: np.ndarray, labels: np.ndarray, axis: int):
    """Mirror up-down (axis 0) or left-right (axis 1); labels [n, 5] class, xyxy in pixels. Returns both."""
    low, high = (2, 4) if axis == 0 else (1, 3)
    labels = labels.copy()
    labels[:, [low, high]] = image.shape[axis] - labels[:, [high, low]]
    return cv2.flip(image, axis), labels


def copy_paste(image: np.ndarray, labels: np.ndarray, segments, p: float = 0.5, rng: np.random.Generator | None = None):
    """Paste a share `p` of the objects mirrored left-right, where they cover less than 30 % of any other object's box.

    labels [n, 5]: class, xyxy in pixels; segments: n polygons [k, 2] in pixels (empty for none). Returns the image,
    labels and segments with the pasted objects at the end. Source: arXiv 2012.07177.
    """
    rng = rng if rng is not None else np.random.default_rng()
    candidates = [i for i, polygon in enumerate(segments) if len(polygon)]
    chosen = rng.permutation(candidates)[: round(p * len(candidates))].astype(int)
    segments, width = list(segments), image.shape[1]
    mask = np.zeros(image.shape[:2], np.uint8)
    for i in chosen:
        cls, x1, y1, x2, y2 = labels[i]
        mirrored = np.array([cls, width - x2, y1, width - x1, y2], np.float32)
        if (bbox_ioa(mirrored[1:], labels[:, 1:]) < 0.3).all():
            labels = np.concatenate([labels, mirrored[None]])
            polygon = segments[i] * np.array([-1, 1], np.float32) + np.array([width, 0], np.float32)
            segments.append(polygon)
            cv2.fillPoly(mask, [polygon.round().astype(np.int32)], 255)
    if mask.any():
        image = cv2.copyTo(cv2.flip(image, 1), mask, image.copy())
    return image, labels, segments


def mixup(image: np.ndarray, labels: np.ndarray, image2: np.ndarray, labels2: np.ndarray, rng=None):
    """Blend two images of one shape in a ratio from Beta(32, 32); all labels [n, 5] stay. Source: arXiv 1710.09412."""
    ratio = (rng if rng is not None else np.random.default_rng()).beta(32.0, 32.0)
    return cv2.addWeighted(image, ratio, image2, 1 - ratio, 0), np.concatenate([labels, labels2])


def augment_hsv(image: np.ndarray, hgain=0.5, sgain=0.5, vgain=0.5, rng: np.random.Generator | None = None) -> None:
    """Multiply hue, saturation and value of a uint8 BGR image, in place, each by a random factor 1 +- its gain."""
    if not (hgain or sgain or vgain):
        return
    rng = rng if rng is not None else np.random.default_rng()
    factors = 1 + rng.uniform(-1, 1, 3) * (hgain, sgain, vgain)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hue, saturation, value = planes = cv2.split(hsv)  # plane by plane it is several times faster
    turned = np.rint(np.arange(256) * factors[0]) % 180  # OpenCV's hue takes 0 to 179
    cv2.LUT(hue, turned.astype(np.uint8), dst=hue)
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=factors[1])
    cv2.convertScaleAbs(value, dst=value, alpha=factors[2])
    cv2.cvtColor(cv2.merge(planes, dst=hsv), cv2.COLOR_HSV2BGR, dst=image)
