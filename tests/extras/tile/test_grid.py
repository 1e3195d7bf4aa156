"""The views of a picture: they cover it, overlap as they should, and are all inside it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extras.tile.grid import views_of


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(99, 700), st.sampled_from([0.0, 0.2, 0.5]))
def test_tiles_cover_the_picture_and_overlap(height, width, tile_px, overlap):
    whole, *tiles = views_of(height, width, tile_px, overlap).tolist()
    assert whole == [0, 0, width, height]
    for axis, side in ((0, width), (1, height)):
        spans = sorted({(tile[axis], tile[axis + 2]) for tile in tiles} or {(0, side)})
        assert spans[0][0] == 0 and spans[-1][1] == side
        for (_, end), (start, _) in zip(spans, spans[1:]):
            assert end - start >= tile_px * overlap - 1
    assert all(np.ptp(tile[axis::2]) <= tile_px for tile in tiles for axis in (0, 1))
