"""Augmentation of uint8 BGR images and their boxes. Free of torch; all randomness comes from a given Generator."""

import math
from typing import NamedTuple, Optional

import cv2
import numpy as np

from utils.boxes import bbox_ioa, clip_boxes, xyn2xy, xywhn2xyxy

GREY = 114  # level of what lies outside an image
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


class Polygons(NamedTuple):
    """The polygons of n label rows: points [P, 2] one polygon after the other, counts [n]; 0 for a row without one."""

    points: np.ndarray
    counts: np.ndarray

    @classmethod
    def none(cls, n: int) -> "Polygons":
        return cls(np.zeros((0, 2), np.float32), np.zeros(n, np.int32))

    @classmethod
    def from_list(cls, segments, n: int) -> "Polygons":
        """From a list of n arrays [k, 2]; an empty list means that no row has a polygon."""
        if len(segments) == 0:
            return cls.none(n)
        return cls(np.concatenate(segments).reshape(-1, 2), np.array([len(s) for s in segments], np.int32))

    @classmethod
    def join(cls, parts: list) -> "Polygons":
        return cls(np.concatenate([p.points for p in parts]), np.concatenate([p.counts for p in parts]))

    def take(self, rows: np.ndarray) -> "Polygons":
        """The rows where the bool array [n] is True."""
        return Polygons(self.points[np.repeat(rows, self.counts)], self.counts[rows])

    def to_list(self) -> list:
        return np.split(self.points, np.cumsum(self.counts)[:-1]) if len(self.counts) else []

    def moved(self, points: np.ndarray) -> "Polygons":
        return Polygons(points, self.counts)

    def mirrored(self, axis: int, size: float) -> "Polygons":
        """Up-down (axis 0) or left-right (axis 1) in an image of `size` pixels along that axis."""
        points = self.points.copy()
        points[:, 1 - axis] = size - points[:, 1 - axis]
        return self.moved(points)

    def next_points(self) -> np.ndarray:
        """For each point the index [P] of the one after it; the last of a polygon is followed by its first."""
        counts = self.counts[self.counts > 0]
        starts = np.cumsum(counts) - counts
        following = np.arange(1, len(self.points) + 1)
        following[starts + counts - 1] = starts
        return following


def mosaic(images, labels, polygons, imgsz: int, rng: np.random.Generator, exact: bool = False):
    """Put 4 or 9 images around a random point of a canvas of twice the image size.

    images: BGR, no side longer than `imgsz`. labels: arrays [n, 5] class, xywhn. polygons: `Polygons` with normalised
    points. exact: cut polygons along the edges of their images, and drop the rows of those that are outside; without
    it their points are moved to the edges one by one, which is faster and enough for boxes. Returns (canvas
    [2 imgsz, 2 imgsz, 3], labels [m, 5] class, xyxy in canvas pixels, cut to what is visible, `Polygons` in canvas
    pixels). Source of the mosaic of four: YOLOv4, arXiv 2004.10934.
    """
    side = 2 * imgsz
    canvas = np.full((side, side, 3), GREY, np.uint8)
    cuts_x, cuts_y = _mosaic_cuts(images, imgsz, rng)
    all_labels, all_polygons = [], []
    for k, (image, rows, polys) in enumerate(zip(images, labels, polygons)):
        row, column = divmod(k, len(cuts_x) - 1)
        cell_x, cell_y = cuts_x[column : column + 2], cuts_y[row : row + 2]
        h, w = image.shape[:2]
        # the first column's images end at its right edge, the others start at their cell's left edge; rows likewise
        left = cell_x[1] - w if column == 0 else cell_x[0]
        top = cell_y[1] - h if row == 0 else cell_y[0]
        x1, x2 = np.clip((left, left + w), *cell_x)
        y1, y2 = np.clip((top, top + h), *cell_y)
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        rows = rows.copy()
        rows[:, 1:] = xywhn2xyxy(rows[:, 1:], w, h, left, top)
        low, high = np.array([x1, y1], np.float32), np.array([x2, y2], np.float32)
        rows[:, 1:] = rows[:, 1:].clip(np.tile(low, 2), np.tile(high, 2))
        polys = polys.moved(xyn2xy(polys.points, w, h, left, top))
        if exact:
            was_box, polys = polys.counts == 0, clip_polygons(polys, low, high)
            keep = was_box | (polys.counts > 0)  # or a polygon without points would pass for a box
            rows, polys = rows[keep], polys.take(keep)
        else:
            polys = polys.moved(polys.points.clip(low, high))
        all_labels.append(rows)
        all_polygons.append(polys)
    return canvas, np.concatenate(all_labels), Polygons.join(all_polygons)


def _mosaic_cuts(images, imgsz: int, rng) -> tuple[list, list]:
    """Column and row limits in pixels of the 2 x 2 or 3 x 3 cells. Of 3 x 3, the middle image fills the middle one."""
    side = 2 * imgsz
    if len(images) == 4:
        x, y = (int(v) for v in rng.uniform(imgsz / 2, imgsz * 3 / 2, 2))
        return [0, x, side], [0, y, side]
    h, w = images[4].shape[:2]
    x, y = (int(v) for v in rng.uniform(0, imgsz, 2))
    return [0, x, x + w, side], [0, y, y + h, side]


def clip_polygons(polygons: Polygons, low, high) -> Polygons:
    """What of the polygons is inside the rectangle from `low` to `high` (x, y); count 0 where nothing is.

    Where a concave polygon falls apart, its parts stay joined along the rectangle's side. Source: Sutherland and
    Hodgman, 1974.
    """
    if ((polygons.points >= low) & (polygons.points <= high)).all():
        return polygons
    rows = np.repeat(np.arange(len(polygons.counts)), polygons.counts)
    for axis, limit, sign in ((0, low[0], 1), (0, high[0], -1), (1, low[1], 1), (1, high[1], -1)):
        points, following = polygons.points, polygons.next_points()
        depth = (points[:, axis] - limit) * sign
        inside = depth >= 0
        crosses = inside != inside[following]
        share = depth / np.where(crosses, depth - depth[following], 1)
        cuts = points + share[:, None] * (points[following] - points)
        cuts[:, axis] = limit
        kept = np.stack([inside, crosses], 1)  # of each point and of the cut after it
        rows = np.stack([rows, rows], 1)[kept]
        counts = np.bincount(rows, minlength=len(polygons.counts)).astype(np.int32)
        polygons = Polygons(np.stack([points, cuts], 1)[kept], counts)
    return polygons


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
    rng: Optional[np.random.Generator] = None,
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
    matrix, zoom = random_matrix(image.shape, out_hw, rng, degrees, translate, scale, shear, perspective)
    return warp(image, targets, polygons, matrix, zoom, out_hw)[:2]


def warp(image, targets, polygons: Polygons, matrix, zoom: float, out_hw):
    """Move the image, targets [n, 5] (class, xyxy in pixels) and polygons by the 3 x 3 matrix from `random_matrix`.

    Returns (image of out_hw, targets [m, 5], polygons of these m rows).
    """
    h, w = out_hw
    if (h, w) != image.shape[:2] or not np.array_equal(matrix, np.eye(3)):
        if matrix[2, :2].any():
            image = cv2.warpPerspective(image, matrix, (w, h), borderValue=FILL)
        else:
            image = cv2.warpAffine(image, matrix[:2], (w, h), borderValue=FILL)
    if len(targets) == 0:
        return image, targets, polygons
    boxes = _bounding_boxes(_corners(targets[:, 1:]), matrix, w, h)
    has_polygon = polygons.counts > 0
    polygons = polygons.moved(_apply(matrix, polygons.points))
    if has_polygon.any():
        boxes[has_polygon] = visible_boxes(polygons.take(has_polygon), w, h)
    # the box of a turned polygon is tight, while a turned box grows: so less of the area needs to be left
    keep = box_candidates(targets[:, 1:] * zoom, boxes, area_thr=np.where(has_polygon, 0.01, 0.1))
    targets = np.concatenate([targets[keep, :1], boxes[keep]], 1)
    return image, targets, polygons.take(keep)


def random_matrix(in_shape, out_hw, rng, degrees=0.0, translate=0.0, scale=0.0, shear=0.0, perspective=0.0):
    """3 x 3 matrix from input to output pixels, and the zoom in it. See `random_perspective` for the ranges."""
    h, w = in_shape[:2]
    tilt_x, tilt_y = rng.uniform(-perspective, perspective, 2)
    angle = math.radians(rng.uniform(-degrees, degrees))
    zoom = rng.uniform(1 - scale, 1 + scale)
    shear_x, shear_y = np.tan(np.radians(rng.uniform(-shear, shear, 2)))
    shift_x, shift_y = rng.uniform(0.5 - translate, 0.5 + translate, 2)
    to_origin = np.array([[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]])
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    place = np.array([[1, 0, shift_x * out_hw[1]], [0, 1, shift_y * out_hw[0]], [0, 0, 1]])
    return place @ slant @ rotate @ tilt @ to_origin, zoom


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 2] through a 3 x 3 matrix, float32."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return (moved[..., :2] / moved[..., 2:]).astype(np.float32)


def _corners(boxes_xyxy: np.ndarray) -> np.ndarray:
    """[n, 4] -> the four corners [n, 4, 2]."""
    return boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def _bounding_boxes(corners: np.ndarray, matrix: np.ndarray, w: int, h: int) -> np.ndarray:
    corners = _apply(matrix, corners)
    return clip_boxes(np.concatenate([corners.min(1), corners.max(1)], 1), (h, w))


def visible_boxes(polygons: Polygons, w: int, h: int) -> np.ndarray:
    """Boxes [n, 4] xyxy around the parts of the polygons inside a w x h image; zeros where nothing is inside.

    Exact: every edge is cut at the image's sides (Liang and Barsky, 1984), and image corners inside the polygon count.
    """
    points = polygons.points.astype(np.float64)
    starts = np.concatenate([[0], np.cumsum(polygons.counts)[:-1]])
    step = points[polygons.next_points()] - points
    slope = np.where(step == 0, 1e-12, step)
    at_low, at_high = -points / slope, (np.array([w, h]) - points) / slope
    enter = np.minimum(at_low, at_high).max(1).clip(0)[:, None]
    leave = np.maximum(at_low, at_high).min(1).clip(None, 1)[:, None]
    ends = np.stack([points + enter * step, points + leave * step])  # [2, P, 2] of the visible part of each edge
    visible = enter <= leave
    low = np.minimum.reduceat(np.where(visible, ends, np.inf).min(0), starts)
    high = np.maximum.reduceat(np.where(visible, ends, -np.inf).max(0), starts)
    for corner in ((0, 0), (w, 0), (w, h), (0, h)):
        inside = _contains(points, step, starts, corner)[:, None]
        low, high = np.where(inside, np.minimum(low, corner), low), np.where(inside, np.maximum(high, corner), high)
    boxes = np.concatenate([low, high], 1)
    boxes[~np.isfinite(boxes).all(1)] = 0
    return clip_boxes(boxes, (h, w)).astype(np.float32)


def _contains(points, step, starts, corner) -> np.ndarray:
    """Which polygons [n] contain the point `corner`: an odd number of edges lies to the right of it."""
    x, y = points.T
    crosses = (y > corner[1]) != (y + step[:, 1] > corner[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        to_the_right = x + (corner[1] - y) / step[:, 1] * step[:, 0] > corner[0]
    return np.add.reduceat(crosses & to_the_right, starts, dtype=np.int64) % 2 == 1


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


def copy_paste(image: np.ndarray, labels: np.ndarray, segments, p: float, rng: np.random.Generator):
    """Paste a share `p` of the objects mirrored left-right, where they cover less than 30 % of any other object's box.

    labels [n, 5]: class, xyxy in pixels; segments: n polygons [k, 2] in pixels (empty for none). Returns the image,
    labels and segments with the pasted objects at the end. Source: arXiv 2012.07177.
    """
    candidates = [i for i, polygon in enumerate(segments) if len(polygon)]
    chosen = rng.permutation(candidates)[: round(p * len(candidates))].astype(int)
    segments, width = list(segments), image.shape[1]
    mask = np.zeros(image.shape[:2], np.uint8)
    for i in chosen:
        cls, x1, y1, x2, y2 = labels[i]
        mirrored = np.array([cls, width - x2, y1, width - x1, y2], np.float32)
        if (bbox_ioa(mirrored[1:], labels[:, 1:]) < 0.3).all():
            labels = np.concatenate([labels, mirrored[None]])
            polygon = segments[i] * np.float32([-1, 1]) + np.float32([width, 0])
            segments.append(polygon)
            cv2.fillPoly(mask, [polygon.round().astype(np.int32)], 255)
    if mask.any():
        image = cv2.copyTo(cv2.flip(image, 1), mask, image.copy())
    return image, labels, segments


def mixup(image: np.ndarray, labels: np.ndarray, image2: np.ndarray, labels2: np.ndarray, rng: np.random.Generator):
    """Blend two images of one shape in a ratio from Beta(32, 32); all labels [n, 5] stay. Source: arXiv 1710.09412."""
    ratio = rng.beta(32.0, 32.0)
    return cv2.addWeighted(image, ratio, image2, 1 - ratio, 0), np.concatenate([labels, labels2])


def augment_hsv(image: np.ndarray, hgain=0.5, sgain=0.5, vgain=0.5, rng: Optional[np.random.Generator] = None) -> None:
    """Multiply hue, saturation and value of a uint8 BGR image, in place, each by a random factor 1 +- its gain."""
    if not (hgain or sgain or vgain):
        return
    rng = rng if rng is not None else np.random.default_rng()
    factors = 1 + rng.uniform(-1, 1, 3) * (hgain, sgain, vgain)
    levels = np.arange(256)[:, None] * factors  # [256, 3]
    levels[:, 0] %= 180  # OpenCV's hue takes 0 to 179
    table = levels.clip(0, 255).astype(np.uint8)[None]
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=image)
