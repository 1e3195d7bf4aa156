"""bench track: figures by trackeval of ids that are right, swapped, or missing."""

import numpy as np
import pytest

from extras.shapes.videos import Truth

BOXES = np.float32([[0, 0, 10, 10], [50, 50, 60, 60]])


def truths(frames: int = 10) -> list:
    return [Truth(np.array([1, 2]), np.zeros(2, int), BOXES, np.ones(2)) for _ in range(frames)]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([(5, 9)] * 10, {"MOTA": 1.0, "IDF1": 1.0, "HOTA": 1.0}),  # whatever the numbers are
        ([(5, 9)] * 5 + [(9, 5)] * 5, {"MOTA": 0.9, "IDF1": 0.5}),  # two of 20 boxes change their id
        ([(5, 0)] * 10, {"MOTA": 0.5, "IDF1": 2 / 3}),  # one object is never found
        ([(0, 0)] * 10, {"MOTA": 0.0, "IDF1": 0.0, "HOTA": 0.0}),
    ],
)
def test_scores(ids, expected):
    pytest.importorskip("trackeval", reason="needs trackeval")
    from bench.rows.track import score

    found = score([truths()], [[(np.array(each), BOXES) for each in ids]])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
