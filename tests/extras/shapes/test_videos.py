"""Drawn videos: the same from the same seed, and each with what its name promises."""

import numpy as np
import pytest

from extras.shapes.videos import SCENES, VISIBLE_MIN, draw_video
from utils.boxes import box_iou

SMALL = {"width": 160, "height": 120}


def truths(scene: str, seed: int = 0) -> list:
    return [truth for _, truth in draw_video(scene, seed, **SMALL)]


@pytest.mark.parametrize("scene", SCENES)
def test_same_seed_same_video(scene):
    first, second, other = (next(iter(draw_video(scene, seed, **SMALL))) for seed in (3, 3, 4))
    assert (first[0] == second[0]).all() and (first[1].boxes_xyxy == second[1].boxes_xyxy).all()
    assert (first[0] != other[0]).any() and first[0].shape == (120, 160, 3) and first[0].dtype == np.uint8


def spans(found: list) -> dict:
    """Return the numbers of the frames in which each object is."""
    ids = sorted({one for truth in found for one in truth.ids.tolist()})
    return {one: [number for number, truth in enumerate(found) if one in truth.ids] for one in ids}


def test_crossing_objects_meet_and_stay():
    found = truths("crossing")
    overlaps = [box_iou(t.boxes_xyxy, t.boxes_xyxy)[~np.eye(len(t.ids), dtype=bool)].max() for t in found]
    assert max(overlaps) > 0.3 and len(spans(found)) == 4
    assert all(numbers[0] == 0 and numbers[-1] == 89 for numbers in spans(found).values())


def test_occluded_objects_are_away_and_come_back():
    for numbers in spans(truths("occlusion")).values():
        gaps = np.diff(numbers)
        assert (gaps > 1).sum() == 1 and gaps.max() > 15 and numbers[0] == 0 and numbers[-1] == 89


def test_leaving_objects_are_gone_and_others_come():
    found = truths("leaving")
    firsts = {one: numbers[0] for one, numbers in spans(found).items()}
    assert sorted(firsts.values())[:2] == [0, 0] and sorted(firsts.values())[2] > 40
    assert all(numbers[-1] < 60 for one, numbers in spans(found).items() if firsts[one] == 0)


def test_boxes_are_inside_the_picture():
    for truth in truths("leaving"):
        assert (truth.boxes_xyxy[:, :2] >= 0).all() and (truth.boxes_xyxy[:, 2:] <= [160, 120]).all()
        assert (truth.visible >= VISIBLE_MIN).all() and (truth.visible <= 1.01).all()
