"""Augmentation of uint8 BGR images and their boxes. Free of torch; all randomness comes from a given Generator."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from utils.boxes import bbox_ioa, clip_boxes, xyn2xy, xywh2xyxy

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


def letterboxed_rgb(image_bgr: np.ndarray, new_shape_hw, auto: bool = False, stride: int = 32) -> tuple:
    """Return a model's input, contiguous uint8 RGB [H, W, 3], and its ratio_pad for utils.boxes.scale_boxes.

    new_shape_hw and the options are those of letterbox().
    """
    padded, ratio_wh, pad_wh = letterbox(image_bgr, new_shape_hw, auto=auto, stride=stride)
    return cv2.cvtColor(padded, cv2.COLOR_BGR2RGB), (ratio_wh[::-1], pad_wh)


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


class Tile(NamedTuple):
    """Where an image lies on a canvas, in pixels: its size, its corner, and the rectangle of it that is not cut off."""

    w: int
    h: int
    left: int
    top: int
    x1: int
    y1: int
    x2: int
    y2: int

    def seen_in(self, part) -> tuple:
        """x1, y1, x2, y2 of what a rectangle of the canvas shows of the image; zeros if that is nothing."""
        x1, y1 = max(self.x1, part[0]), max(self.y1, part[1])
        x2, y2 = min(self.x2, part[2]), min(self.y2, part[3])
        return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else (0, 0, 0, 0)

    def is_in(self, part) -> bool:
        return any(self.seen_in(part))


def mosaic_tiles(sizes_wh, imgsz: int, rng: np.random.Generator) -> list:
    """The Tiles of 4 or 9 images (no side longer than `imgsz`) around a random point of a canvas of twice that size.

    Source of the mosaic of four: YOLOv4, arXiv 2004.10934.
    """
    cuts_x, cuts_y = _mosaic_cuts(sizes_wh, imgsz, rng)
    tiles = []
    for k, (w, h) in enumerate(sizes_wh):
        row, column = divmod(k, len(cuts_x) - 1)
        x1, y1, x2, y2 = cuts_x[column], cuts_y[row], cuts_x[column + 1], cuts_y[row + 1]
        # the first column's images end at its right edge, the others start at their cell's left edge; rows likewise
        left = x2 - w if column == 0 else x1
        top = y2 - h if row == 0 else y1
        tiles.append(Tile(w, h, left, top, max(left, x1), max(top, y1), min(left + w, x2), min(top + h, y2)))
    return tiles


def paste(images, tiles, part) -> np.ndarray:
    """The rectangle `part` (x1, y1, x2, y2) of the canvas with these images on it, uint8 [y2 - y1, x2 - x1, 3] BGR."""
    left, top, right, bottom = part
    rectangles = [tile.seen_in(part) for tile in tiles]
    covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in rectangles)
    canvas = np.empty((bottom - top, right - left, 3), np.uint8)
    if covered < canvas.size // 3:
        canvas.fill(GREY)
    for image, tile, (x1, y1, x2, y2) in zip(images, tiles, rectangles):
        seen = image[y1 - tile.top : y2 - tile.top, x1 - tile.left : x2 - tile.left]
        canvas[y1 - top : y2 - top, x1 - left : x2 - left] = seen
    return canvas


def place_labels(tiles, labels, polygons, exact: bool = False):
    """Labels and polygons of the images of a mosaic, in pixels of its canvas and cut to what is not cut off.

    labels: for each image [n, 5] class, xywhn. polygons: for each its `Polygons`, normalised. exact: cut polygons along
    the edges of their tiles, and drop the rows of those that are outside; without it their points are moved to the
    edges one by one, which is faster and enough for boxes. Returns ([m, 5] class, xyxy, `Polygons`).
    """
    rows = np.concatenate([np.zeros((0, 5), np.float32), *labels])
    of_row = np.repeat(np.array(tiles, np.float32).reshape(-1, 8), [len(x) for x in labels], axis=0)
    boxes = xywh2xyxy(rows[:, 1:]) * of_row[:, [0, 1, 0, 1]] + of_row[:, [2, 3, 2, 3]]
    rows[:, 1:] = np.minimum(np.maximum(boxes, of_row[:, [4, 5, 4, 5]]), of_row[:, [6, 7, 6, 7]])
    if not any(len(p.points) for p in polygons):
        return rows, Polygons.none(len(rows))
    placed = Polygons.join([_place_polygons(*pair, exact) for pair in zip(tiles, polygons)])
    if not exact:
        return rows, placed
    was_box = np.concatenate([p.counts for p in polygons]) == 0
    keep = was_box | (placed.counts > 0)  # or a polygon without points would pass for a box
    return rows[keep], placed.take(keep)


def _place_polygons(tile: Tile, polygons: Polygons, exact: bool) -> Polygons:
    moved = polygons.moved(xyn2xy(polygons.points, tile.w, tile.h, tile.left, tile.top))
    low, high = np.float32([tile.x1, tile.y1]), np.float32([tile.x2, tile.y2])
    return clip_polygons(moved, low, high) if exact else moved.moved(moved.points.clip(low, high))


def _mosaic_cuts(sizes_wh, imgsz: int, rng) -> tuple[list, list]:
    """Column and row limits in pixels of the 2 x 2 or 3 x 3 cells. Of 3 x 3, the middle image fills the middle one."""
    side = 2 * imgsz
    if len(sizes_wh) == 4:
        x, y = (int(v) for v in rng.uniform(imgsz / 2, imgsz * 3 / 2, 2))
        return [0, x, side], [0, y, side]
    w, h = sizes_wh[4]
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
    zoom: float  # of lengths
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
    """The rectangle x1, y1, x2, y2 of an image, grey beyond it."""
    h, w = image.shape[:2]
    return image if part == (0, 0, w, h) else paste([image], [Tile(w, h, 0, 0, 0, 0, w, h)], part)


def warp_image(part: np.ndarray, warp: Warp) -> np.ndarray:
    """The output's image of that part of the input's."""
    h, w = warp.out_hw
    if warp.is_crop:
        return part if part.shape[:2] == (h, w) else cv2.resize(part, (w, h), interpolation=cv2.INTER_LINEAR)
    matrix = _shift(-0.5, -0.5) @ warp.matrix @ _shift(0.5, 0.5)  # OpenCV's coordinates are 0 in a pixel's middle
    if matrix[2, :2].any():
        return cv2.warpPerspective(part, matrix, (w, h), borderValue=FILL)
    return cv2.warpAffine(part, matrix[:2], (w, h), borderValue=FILL)


def warp_labels(targets: np.ndarray, polygons: Polygons, warp: Warp):
    """Targets [n, 5] (class, xyxy in pixels) and their polygons in the output, without those that are hardly left."""
    if len(targets) == 0:
        return targets, polygons
    h, w = warp.out_hw
    boxes = _moved_boxes(targets[:, 1:], warp.matrix, w, h)
    least_area = 0.1
    if len(polygons.points):
        has_polygon = polygons.counts > 0
        polygons = polygons.moved(_apply(warp.matrix, polygons.points))
        boxes[has_polygon] = visible_boxes(polygons.take(has_polygon), w, h)
        # the box of a turned polygon is tight, while a turned box grows: so less of the area needs to be left
        least_area = np.where(has_polygon, 0.01, least_area)
    keep = box_candidates(targets[:, 1:] * warp.zoom, boxes, area_thr=least_area)
    return np.concatenate([targets[keep, :1], boxes[keep]], 1), polygons.take(keep)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 2] through a 3 x 3 matrix, float32."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return (moved[..., :2] / moved[..., 2:]).astype(np.float32)


def _moved_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray, w: int, h: int) -> np.ndarray:
    """The boxes [n, 4] around the moved boxes, cut to a w x h image."""
    if not (matrix[0, 1] or matrix[1, 0] or matrix[2, :2].any()):  # the same, in fewer steps
        scale, shift = matrix[[0, 1, 0, 1], [0, 1, 0, 1]], matrix[[0, 1, 0, 1], 2]
        moved = (boxes_xyxy * scale + shift).astype(np.float32)
    else:
        corners = _apply(matrix, boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))
        moved = np.concatenate([corners.min(1), corners.max(1)], 1)
    return np.minimum(np.maximum(moved, 0), np.float32([w, h, w, h]))


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
