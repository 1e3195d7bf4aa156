"""Merging at seams: what a perfect detector sees in tiles becomes exactly the objects of the picture."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extras.tile.grid import views_of
from extras.tile.merge import is_piece, merge_views

LEAST_SIDE_OF_WHOLE_PX = 60  # a perfect detector of the whole picture sees no smaller objects
LEAST_PIECE_PX = 3
GAP_PX = 12  # between objects: more than what counts as touching

VIEWS = np.array([[0, 0, 360, 200], [0, 0, 200, 200], [160, 0, 360, 200]])  # 40 px are in both tiles


def seen(objects, views, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return what a perfect detector finds: boxes [n, 6], and their views [n]. objects [m, 5]: xyxy, class."""
    boxes, view = [], []
    for number, (x1, y1, x2, y2) in enumerate(views):
        for *box, cls in objects:
            part = np.clip(box, [x1, y1, x1, y1], [x2, y2, x2, y2])
            least = LEAST_PIECE_PX if number or len(views) == 1 else LEAST_SIDE_OF_WHOLE_PX
            if min(part[2] - part[0], part[3] - part[1]) >= least:
                boxes.append([*part, rng.uniform(0.1, 1), cls])
                view.append(number)
    return np.array(boxes, np.float32).reshape(-1, 6), np.array(view, int)


def scattered(rng, width: int, height: int, count: int) -> np.ndarray:
    """Return objects [m, 5] of all sizes that keep GAP_PX apart."""
    objects = []
    for _ in range(count):
        w, h = np.exp(rng.uniform(np.log(6), np.log([width, height]))).astype(int)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        apart = all(
            x > o[2] + GAP_PX or o[0] > x + w + GAP_PX or y > o[3] + GAP_PX or o[1] > y + h + GAP_PX for o in objects
        )
        if apart:
            objects.append((x, y, x + w, y + h, rng.integers(2)))
    return np.array(objects, float).reshape(-1, 5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(100, 900),
    height=st.integers(100, 900),
    overlap=st.sampled_from([0.1, 0.2, 0.5]),
    agnostic=st.booleans(),
)
def test_a_perfect_detector_stays_perfect(seed, width, height, overlap, agnostic):
    rng = np.random.default_rng(seed)
    views, objects = views_of(height, width, 200, overlap), scattered(rng, width, height, 40)
    boxes, view = seen(objects, views, rng)
    found = merge_views(boxes, view, views, 0.5, agnostic)
    assert (np.diff(found[:, 4]) <= 0).all()
    expected = objects[np.lexsort(objects.T)]
    rows = found[:, [0, 1, 2, 3, 5]]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected)
    for box in found:  # the best of its views
        inside = (boxes[:, :2] >= box[:2]).all(1) & (boxes[:, 2:4] <= box[2:4]).all(1)
        assert box[4] == boxes[inside, 4].max()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_views_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    views = views_of(500, 700, 200, 0.2)
    boxes, view = seen(scattered(rng, 700, 500, 30), views, rng)
    shuffled = rng.permutation(len(boxes))
    first, second = (merge_views(boxes[i], view[i], views, 0.5) for i in (slice(None), shuffled))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # an object that both tiles see whole, in the 40 px that they share
        ([(165, 9, 190, 40, 0.9, 0, 1), (166, 9, 190, 40, 0.8, 0, 2)], [(165, 9, 190, 40, 0.9)]),
        # whole in the left tile, cut in the right one: one object, though the IoU is 0.3, with the higher confidence
        ([(110, 9, 190, 40, 0.5, 0, 1), (160, 9, 190, 40, 0.9, 0, 2)], [(110, 9, 190, 40, 0.9)]),
        # cut in both, and seen by neither as a whole
        ([(90, 9, 200, 40, 0.5, 0, 1), (160, 9, 300, 40, 0.9, 0, 2)], [(90, 9, 300, 40, 0.9)]),
        # the same, and whole in the picture: its box is taken
        (
            [(90, 9, 200, 40, 0.5, 0, 1), (160, 9, 300, 40, 0.9, 0, 2), (88, 8, 301, 41, 0.3, 0, 0)],
            [(88, 8, 301, 41, 0.9)],
        ),
        # pieces that look different where both tiles see them are two objects
        (
            [(90, 9, 200, 40, 0.5, 0, 1), (160, 30, 300, 90, 0.9, 0, 2)],
            [(160, 30, 300, 90, 0.9), (90, 9, 200, 40, 0.5)],
        ),
        # pieces of two classes
        ([(90, 9, 200, 40, 0.5, 0, 1), (160, 9, 300, 40, 0.9, 1, 2)], [(160, 9, 300, 40, 0.9), (90, 9, 200, 40, 0.5)]),
        # a small object before a large one of its class stays: it touches no border
        (
            [(20, 20, 350, 190, 0.9, 0, 0), (50, 50, 100, 100, 0.8, 0, 1)],
            [(20, 20, 350, 190, 0.9), (50, 50, 100, 100, 0.8)],
        ),
        # the border of the picture cuts nothing
        ([(0, 9, 50, 40, 0.9, 0, 1), (330, 9, 360, 40, 0.8, 0, 2)], [(0, 9, 50, 40, 0.9), (330, 9, 360, 40, 0.8)]),
        ([], []),
    ],
)
def test_by_hand(found, expected):
    rows = np.array(found, float).reshape(-1, 7)
    merged = merge_views(rows[:, :6], rows[:, 6].astype(int), VIEWS, 0.5)
    np.testing.assert_allclose(merged[:, :5], np.array(expected).reshape(-1, 5), rtol=1e-6)


def test_no_more_than_wanted():
    rows = np.array([(10 * i, 9, 10 * i + 8, 40, 0.1 + i / 50, 0) for i in range(12)])
    merged = merge_views(rows, np.ones(12, int), VIEWS, 0.5, max_det=3)
    np.testing.assert_allclose(merged[:, 4], 0.1 + np.array([11, 10, 9]) / 50, rtol=1e-6)


def test_pieces_touch_a_border_inside_the_picture():
    boxes = np.array([(0, 0, 50, 200), (150, 9, 197, 40), (150, 9, 190, 40)])
    assert is_piece(boxes, VIEWS[[1, 1, 1]], VIEWS[0]).tolist() == [False, True, False]
