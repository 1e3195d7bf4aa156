"""The embedded data set: scenes of simple shapes on cluttered backgrounds, drawn from a seed, with exact labels.

A label is the tight box of everything that was drawn of an object, clipped to the image; parts that later objects cover
count as well. By construction at least VISIBLE_MIN of every object can be seen. With `masks` a label is the outline of
the same pixels, a hollow object being filled.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from extras.shapes.background import VIVID, degrade, draw_background, draw_curves, random_color
from extras.shapes.folder import SPLITS, check_options, keep_drawn
from utils.console.text import brief, progress_bar

VERSION = 5  # raise it when the same seed gives other pictures, so that old folders are drawn anew
KINDS = ("circle", "square", "triangle", "star", "cross", "arrow", "crescent", "heart")
ASPECTS_WH = ((1.0, 1.0), (1.0, 0.75), (1.0, 5 / 6), (5 / 6, 1.0), (0.75, 1.0))  # a picture's sides, times imgsz
EMPTY_SHARE = 0.06  # pictures without any object
MAX_OBJECTS = 10
SIZE_RANGES = ((0.12, 0.20), (0.20, 0.38), (0.38, 0.62))  # length of an object / long side of the picture
SIZE_SHARES = (0.1, 0.55, 0.35)
ROTATION_DEGREES = 25  # at most, in either direction
OUTLINE_SHARE = 0.18  # share of the objects that are large enough for an outline of OUTLINE_MIN_PX
OUTLINE_MIN_PX = 1.8
VISIBLE_MIN = 0.85  # share of an object's pixels that later objects leave visible
INSIDE_MIN = 0.75  # share of an object that is inside the picture
BOX_IOU_MAX = 0.12  # between any two boxes
PLACING_TRIES = 20
CONTRAST_MIN = 130  # distance of an object's colour to the mean of what it covers, in BGR levels
SUPERSAMPLING = 4
OUTLINE_ERROR_PX = 0.3  # the polygons' distance from the outline of the pixels
DRAWN_BY = "utils/shapes.py"


def draw_dataset(
    folder, seed: int = 0, train: int = 800, val: int = 160, test: int = 80, imgsz: int = 192, masks: bool = False
) -> None:
    """Draw images/{train,val,test}/*.jpg and labels/.../*.txt into `folder`, unless exactly that is there already.

    A folder that was drawn with other options is drawn anew; files that are not from here stay untouched.
    Interruption at any moment leaves no folder that looks complete.

    Args:
        seed: same seed, same files.
        train, val, test: number of pictures.
        imgsz: long side of the pictures in pixels.
        masks: label objects by polygons, not boxes; the pictures are the same.

    Raises:
        FileExistsError: `folder` has content, but not from here.
    """
    wanted = {"seed": seed, "train": train, "val": val, "test": test, "imgsz": imgsz}
    check_options(wanted, {"imgsz": 32, "train": 1, "val": 1})
    if not isinstance(masks, bool):
        raise ValueError(f"drawing shapes: 'masks' must be true or false, found {brief(masks)}")
    if masks:
        wanted["masks"] = True
    keep_drawn(folder, {"drawn_by": DRAWN_BY, "version": VERSION, **wanted}, _draw_files, _all_file_names)


def _draw_files(folder: Path, options: dict) -> None:
    for split in SPLITS:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    jobs = [(split_index, i) for split_index, split in enumerate(SPLITS) for i in range(options[split])]
    for split_index, i in progress_bar(jobs, f"Drawing {len(jobs)} pictures of shapes", unit=""):
        rng = np.random.default_rng([options["seed"], split_index, i])
        width, height = (round(options["imgsz"] * side) for side in ASPECTS_WH[i % len(ASPECTS_WH)])
        image, labels = draw_scene(rng, width, height, "masks" in options)
        image_name, label_name = _file_names(SPLITS[split_index], i)
        (folder / image_name).write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        rows = [" ".join([f"{row[0]:.0f}", *(f"{value:.6f}" for value in row[1:])]) for row in labels]
        (folder / label_name).write_text("".join(f"{row}\n" for row in rows))


def _file_names(split: str, i: int) -> tuple[str, str]:
    return f"images/{split}/{i:05d}.jpg", f"labels/{split}/{i:05d}.txt"


def _all_file_names(options: dict) -> set[str]:
    return {name for split in SPLITS for i in range(options[split]) for name in _file_names(split, i)}


def draw_scene(rng: np.random.Generator, width: int, height: int, masks: bool = False) -> tuple:
    """Draw a picture, uint8 BGR [h, w, 3], and return it with its labels, float32 [n, 5]: kind, xywh normalised.

    With `masks` the labels are a list of n arrays [1 + 2k]: kind, x, y, x, y ..., normalised.
    """
    image = draw_background(rng, width, height)
    objects = draw_objects(rng, image)
    draw_curves(rng, image, count=int(rng.integers(0, 3)))
    image = degrade(rng, image)
    size = np.float32([width, height])
    if masks:
        return image, [np.append(np.float32(o.kind), mask_to_polygon(o.silhouette) / size) for o in objects]
    boxes = np.array([mask_to_box(o.mask) for o in objects], np.float32).reshape(-1, 4) / np.tile(size, 2)
    labels = np.zeros((len(objects), 5), np.float32)
    labels[:, 0] = [o.kind for o in objects]
    labels[:, 1:3] = (boxes[:, :2] + boxes[:, 2:]) / 2
    labels[:, 3:] = boxes[:, 2:] - boxes[:, :2]
    return image, labels


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight box xyxy in pixels of a bool mask [H, W]; the right and lower edges are one past the last pixel."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def mask_to_polygon(mask: np.ndarray) -> np.ndarray:
    """Outline float32 [k, 2] (x, y) in pixels of the largest part of a bool mask [H, W]; its holes are left out.

    It passes through the middles of the edges between pixels inside and outside, and is then simplified.
    """
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # the contour is that of the outermost pixels; of the doubled mask, it tells on which side of a pixel the edge is
    corners = (max(contours, key=cv2.contourArea)[:, 0] + 1) // 2
    following = np.roll(corners, -1, axis=0)
    middles = ((corners + following) / 2)[(corners != following).any(1)].astype(np.float32)
    return cv2.approxPolyDP(middles, OUTLINE_ERROR_PX, True)[:, 0]


class DrawnObject(NamedTuple):
    kind: int
    mask: np.ndarray  # bool [H, W]: where the object covers at least half of a pixel
    silhouette: np.ndarray  # the same with what a hollow object encloses


def draw_objects(rng, image: np.ndarray) -> list[DrawnObject]:
    """Paint a random number of objects over `image` (float32 BGR, in place); return what was painted."""
    height, width = image.shape[:2]
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_OBJECTS + 1))
    ranges = rng.choice(len(SIZE_RANGES), size=count, p=SIZE_SHARES)
    sizes = [rng.uniform(*SIZE_RANGES[k]) * max(width, height) for k in ranges]
    objects, visible = [], []
    for size in sorted(sizes, reverse=True):  # large first: small ones then lie on top of them, not under them
        for _ in range(PLACING_TRIES):
            kind = int(rng.integers(len(KINDS)))
            stencil, is_filled = object_stencil(rng, KINDS[kind], size)
            corner = _choose_corner(rng, len(stencil), width, height)
            alpha = _place(stencil, corner, width, height)
            mask = alpha >= 0.5
            still_visible = [v & ~mask for v in visible]
            if mask.any() and _is_clear(mask, [o.mask for o in objects], still_visible):
                break
        else:
            continue
        paint(rng, image, alpha, mask, size, is_filled)
        silhouette = mask if is_filled else _place(_without_holes(stencil), corner, width, height, least=0) >= 0.5
        objects.append(DrawnObject(kind, mask, silhouette))
        visible = [*still_visible, mask]
    return objects


def _is_clear(mask, masks: list, still_visible: list) -> bool:
    """True if earlier objects keep VISIBLE_MIN of their pixels and no box overlaps the new one above BOX_IOU_MAX."""
    if any(v.sum() < VISIBLE_MIN * m.sum() for v, m in zip(still_visible, masks)):
        return False
    x1, y1, x2, y2 = mask_to_box(mask)
    for left, top, right, bottom in map(mask_to_box, masks):
        shared = max(min(x2, right) - max(x1, left), 0) * max(min(y2, bottom) - max(y1, top), 0)
        if shared > BOX_IOU_MAX * ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared):
            return False
    return True


def object_stencil(rng, kind: str, size: float) -> tuple[np.ndarray, bool]:
    """Return a rotated object of `size` pixels: coverage float32 [side, side] in 0..1, and whether it is filled."""
    points = outline(kind)
    points = points / np.ptp(points, axis=0).max() * size * [1.0, rng.uniform(0.85, 1.0)]
    angle = np.radians(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))
    points = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    side = int(np.ceil(np.abs(points).max())) * 2 + 2
    canvas = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(canvas, [np.round((points + side / 2) * SUPERSAMPLING).astype(np.int32)], 255)
    is_filled = rng.random() > OUTLINE_SHARE
    if not is_filled:
        depth = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
        thickness = rng.uniform(0.25, 0.4) * depth.max()
        is_filled = thickness < OUTLINE_MIN_PX * SUPERSAMPLING
        if not is_filled:
            canvas[depth > thickness] = 0
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA) * np.float32(1 / 255), is_filled


def _without_holes(stencil: np.ndarray) -> np.ndarray:
    """Return the stencil with 1 for what its pixels enclose, before an edge of the picture cuts it open."""
    contours, _ = cv2.findContours((stencil >= 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(stencil.copy(), contours, -1, 1.0, cv2.FILLED)


def _choose_corner(rng, side: int, width: int, height: int) -> tuple[int, int]:
    """Return where the left upper corner (x, y) of a stencil goes: at most a quarter of its side is beyond an edge."""
    return tuple(int(rng.integers(-side // 4, max(length - 3 * side // 4, 1))) for length in (width, height))


def _place(stencil: np.ndarray, corner: tuple[int, int], width: int, height: int, least=INSIDE_MIN) -> np.ndarray:
    """Return the stencil in a picture, [height, width]; zeros if less than the share `least` would be inside."""
    (x, y), side = corner, len(stencil)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    alpha = np.zeros((height, width), np.float32)
    inside = stencil[top - y : bottom - y, left - x : right - x]
    if inside.sum() >= least * stencil.sum():
        alpha[top:bottom, left:right] = inside
    return alpha


def paint(rng, image, alpha, mask, size: float, is_filled: bool) -> None:
    """Paint an object in a colour that stands out: flat or shaded, some with an edge, some with a soft shadow."""
    x1, y1, x2, y2 = mask_to_box(mask)
    margin = int(0.3 * size) + 4  # room for the shadow
    region = np.s_[max(y1 - margin, 0) : y2 + margin, max(x1 - margin, 0) : x2 + margin]
    image, alpha, mask = image[region], alpha[region], mask[region]  # views: what follows writes into the picture
    height, width = alpha.shape
    if rng.random() < 0.35:
        shift = np.float32([[1, 0, rng.uniform(-0.1, 0.1) * size], [0, 1, rng.uniform(0.02, 0.1) * size]])
        shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, (width, height)), (0, 0), 1 + 0.05 * size)
        image *= 1 - np.float32(rng.uniform(0.2, 0.5)) * shadow[..., None]
    color = random_color(rng, VIVID, away_from=image[mask].mean(0), distance=CONTRAST_MIN)
    paint = np.broadcast_to(color, image.shape)
    if rng.random() < 0.4:
        angle = rng.uniform(0, 2 * np.pi)
        ys, xs = np.ogrid[:height, :width]
        ramp = ((xs - width / 2) * np.cos(angle) + (ys - height / 2) * np.sin(angle)) / size
        paint = paint + (ramp * rng.uniform(10, 60)).clip(-45, 45).astype(np.float32)[..., None]
    if is_filled and rng.random() < 0.3:
        depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
        edge = np.clip(max(1.5, 0.05 * size) - depth + 0.5, 0, 1)[..., None]
        paint = paint + (random_color(rng, VIVID, away_from=color, distance=CONTRAST_MIN) - paint) * edge
    image += (paint - image) * alpha[..., None]


def outline(kind: str) -> np.ndarray:
    """Corner points float64 [n, 2] of one of KINDS, around the origin, in a unit of its own."""
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    if kind == "circle":
        points = np.stack([np.cos(t), np.sin(t)], 1)
    elif kind == "star":
        t = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        points = np.stack([np.cos(t), np.sin(t)], 1) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
    elif kind == "crescent":  # the left part of a circle, without a circle that is shifted to the right
        outer = np.linspace(0.3 * np.pi, 1.7 * np.pi, 48)
        tip, centre_x = np.array([np.cos(0.3 * np.pi), np.sin(0.3 * np.pi)]), 0.45
        start = np.arctan2(tip[1], tip[0] - centre_x)
        inner = np.linspace(2 * np.pi - start, start, 48)
        radius = np.hypot(tip[0] - centre_x, tip[1])
        x = np.concatenate([np.cos(outer), centre_x + radius * np.cos(inner)])
        y = np.concatenate([np.sin(outer), radius * np.sin(inner)])
        points = np.stack([x, y], 1)
    elif kind == "heart":
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        points = np.stack([16 * np.sin(t) ** 3, -y], 1)
    else:
        points = np.array(POLYGONS[kind], float)
    return points - (points.max(0) + points.min(0)) / 2


POLYGONS = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (0.866, 0.5), (-0.866, 0.5)],
    "cross": list(zip((-3, -1, -1, 1, 1, 3, 3, 1, 1, -1, -1, -3), (-1, -1, -3, -3, -1, -1, 1, 1, 3, 3, 1, 1))),
    "arrow": [(-10, -3), (1, -3), (1, -8), (10, 0), (1, 8), (1, 3), (-10, 3)],
}
