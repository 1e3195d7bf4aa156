"""The views of a picture: they cover it, overlap as they should, and are all inside it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extras.tile.grid import LARGEST_STRIP, ROUNDED_PX, views_of


@pytest.mark.parametrize(
    ("height", "width", "tile_px", "overlap", "expected"),
    [
        (640, 640, 640, 0.2, [[0, 0, 640, 640]]),  # it fits into a tile: no tiles
        (100, 200, 640, 0.2, [[0, 0, 200, 100]]),
        (100, 641, 640, 0.0, [[0, 0, 641, 100], [0, 0, 640, 100], [1, 0, 641, 100]]),
        (100, 300, 100, 0.0, [[0, 0, 300, 100], *([x, 0, x + 100, 100] for x in (0, 100, 200))]),
        (100, 300, 100, 0.2, [[0, 0, 300, 100], *([x, 0, x + 100, 100] for x in (0, 67, 133, 200))]),
        (2560, 2560, 640, 0.2, None),
    ],
)
def test_views(height, width, tile_px, overlap, expected):
    views = views_of(height, width, tile_px, overlap)
    assert len(views) == 26 if expected is None else views.tolist() == expected


@pytest.mark.parametrize(
    ("height", "width", "sides"),
    [
        (2560, 2560, {(1344, 2560)}),  # two strips for 25 tiles
        (600, 2000, {(600, 2000)}),  # one, as high as the picture
        (2000, 600, {(2000, 600)}),
        (1000, 5120, {(1000, 1792)}),  # two would be a little too long
        (3000, 5120, {(1088, 1792)}),
    ],
)
def test_joined_tiles(height, width, sides):
    whole, *strips = views_of(height, width, 640, 0.2, joined=True)
    found = {(y2 - y1, x2 - x1) for x1, y1, x2, y2 in (view.tolist() for view in strips)}
    assert found == sides


@pytest.mark.parametrize("joined", [False, True])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(99, 700), st.sampled_from([0.0, 0.2, 0.5]))
def test_tiles_cover_the_picture_and_overlap(joined, height, width, tile_px, overlap):
    whole, *tiles = views_of(height, width, tile_px, overlap, joined).tolist()
    assert whole == [0, 0, width, height]
    for axis, side in ((0, width), (1, height)):
        spans = sorted({(tile[axis], tile[axis + 2]) for tile in tiles} or {(0, side)})
        assert spans[0][0] == 0 and spans[-1][1] == side
        for (_, end), (start, _) in zip(spans, spans[1:]):
            assert end - start >= tile_px * overlap - 1
    most = tile_px * max(LARGEST_STRIP) + ROUNDED_PX if joined else tile_px
    assert all(np.ptp(tile[axis::2]) <= most for tile in tiles for axis in (0, 1))
