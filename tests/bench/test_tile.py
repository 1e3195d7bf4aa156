"""The bench of tiles: what it counts on seams, and that a lower AP is refused."""

import numpy as np
import pytest

from bench.rows import tile

PICTURE = np.zeros((1280, 1280, 3), np.uint8)  # tiles of 640 px begin at 0, 320 and 640
TRUTH = np.array([[0, 300, 100, 400, 200], [1, 10, 10, 60, 60]], float)  # the first is on a seam


@pytest.fixture
def one_mosaic(monkeypatch):
    monkeypatch.setattr(tile, "mosaics", lambda count: [(PICTURE, TRUTH)])


def test_objects_on_seams():
    lines = np.array([[0, 0, 640, 640], [320, 0, 960, 640]])
    assert tile.crosses(TRUTH[:, 1:], lines).tolist() == [True, False]
    assert tile.crosses(np.array([[319.0, 0, 400, 9]]), lines).tolist() == [False]  # by a pixel


@pytest.mark.parametrize(
    ("boxes", "share"),
    [
        ([[300, 100, 400, 200, 0.9, 0]], 1),
        ([[300, 100, 400, 200, 0.1, 0]], 0),  # too little confidence
        ([[300, 100, 400, 200, 0.9, 1]], 0),  # another class
        ([[300, 100, 400, 200, 0.9, 0], [320, 100, 400, 200, 0.8, 0]], 0),  # twice
        ([[320, 100, 335, 200, 0.8, 0]], 0),  # a piece
    ],
)
def test_found_exactly_once(boxes, share, one_mosaic):
    assert tile.share_found_once([np.array(boxes, float)], 1) == share


def test_a_lower_ap_is_refused(one_mosaic):
    good = [np.array([[300, 100, 400, 200, 0.9, 0], [10, 10, 60, 60, 0.9, 1]], float)]
    bad = [good[0][:1]]
    assert tile.worse(good, bad, 1) == "" and "map 0.5000 is below 1.0000" in tile.worse(bad, good, 1)
