"""Mosaics: where several images lie on a canvas, and what a part of it shows of them and of their labels."""

from typing import NamedTuple

import numpy as np

from utils.boxes import xyn2xy, xywh2xyxy
from utils.data.images import GREY
from utils.data.polygons import Polygons, clip_polygons


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
        """Return x1, y1, x2, y2 of what a rectangle of the canvas shows of the image; zeros if that is nothing."""
        x1, y1 = max(self.x1, part[0]), max(self.y1, part[1])
        x2, y2 = min(self.x2, part[2]), min(self.y2, part[3])
        return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else (0, 0, 0, 0)

    def is_in(self, part) -> bool:
        return any(self.seen_in(part))


def mosaic_tiles(sizes_wh, imgsz: int, rng: np.random.Generator) -> list:
    """Return the Tiles of 4 or 9 images (at most `imgsz` px) around a random point of a canvas of twice that.

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
    """Return the rectangle `part` (x1, y1, x2, y2) of the canvas with these images on it, uint8 [h, w, 3] BGR."""
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
    """Return the images' labels and polygons in pixels of the mosaic's canvas, cut to what is not cut off.

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
    low, high = np.array([[tile.x1, tile.y1], [tile.x2, tile.y2]], np.float32)
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
