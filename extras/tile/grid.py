"""The parts of a large picture that a detector looks at: the whole, and tiles that overlap. Imports numpy alone."""

import math

import numpy as np

LARGEST_STRIP = (2.25, 4)  # height and width of joined tiles, in tiles: what memory should hold
ROUNDED_PX = 32  # sides of joined tiles are multiples of it, so that little is padded


def views_of(height: int, width: int, tile_px: int, overlap: float, joined: bool = False) -> np.ndarray:
    """Return the views int [k, 4] xyxy of a picture: the whole, and tiles of tile_px unless it fits into one.

    overlap: the least share of a tile that its neighbour sees too, 0 up to 1; the tiles are spread evenly.
    joined: neighbours become one view, up to LARGEST_STRIP, so that less is looked at twice.
    """
    whole = [0, 0, width, height]
    if max(height, width) <= tile_px:
        return np.array([whole])
    shared = tile_px * overlap
    if joined:
        most = LARGEST_STRIP if height <= width else LARGEST_STRIP[::-1]
        rows, columns = (_strips(side, n * tile_px, shared) for side, n in zip((height, width), most))
    else:
        rows, columns = (_spread(side, tile_px, shared) for side in (height, width))
    return np.array([whole, *([x1, y1, x2, y2] for y1, y2 in rows for x1, x2 in columns)])


def _spread(side: int, length: int, shared: float) -> list[tuple[int, int]]:
    """Return begin and end of the fewest spans of `length` that cover a side and share enough, px."""
    if side <= length:
        return [(0, side)]
    count = math.ceil((side - shared) / max(length - shared, 1))
    starts = np.linspace(0, side - length, count).round().astype(int).tolist()
    return [(start, start + length) for start in starts]


def _strips(side: int, most: float, shared: float) -> list[tuple[int, int]]:
    """Return the same for spans of at most `most`, as long as they must be."""
    count = max(math.ceil((side - shared) / (most - shared)), 1)
    length = (side + (count - 1) * shared) / count
    return _spread(side, math.ceil(length / ROUNDED_PX) * ROUNDED_PX, shared)
