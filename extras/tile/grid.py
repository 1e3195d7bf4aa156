"""The parts of a large picture that a detector looks at: the whole, and tiles that overlap. Imports numpy alone."""

import math

import numpy as np


def views_of(height: int, width: int, tile_px: int, overlap: float) -> np.ndarray:
    """Return the views int [k, 4] xyxy of a picture: the whole, and tiles of tile_px unless it fits into one.

    overlap: the least share of a tile that its neighbour sees too, 0 up to 1; the tiles are spread evenly.
    """
    whole = [0, 0, width, height]
    if max(height, width) <= tile_px:
        return np.array([whole])
    rows, columns = (_starts(side, tile_px, overlap) for side in (height, width))
    tiles = [[x, y, min(x + tile_px, width), min(y + tile_px, height)] for y in rows for x in columns]
    return np.array([whole, *tiles])


def _starts(side: int, tile_px: int, overlap: float) -> list[int]:
    """Return where the tiles begin along a side, px."""
    if side <= tile_px:
        return [0]
    step = max(tile_px * (1 - overlap), 1)
    count = math.ceil((side - tile_px) / step) + 1
    return np.linspace(0, side - tile_px, count).round().astype(int).tolist()
