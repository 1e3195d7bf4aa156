"""The split of errors: each kind by hand, with the AP50 that its repair gives."""

import numpy as np
import pytest

from extras.compare.errors import CORRECT, KINDS, error_lines, error_split, find_errors
from tests.extras.compare.test_matching import collect, match_image, random_images

A, B = [0, 0, 0, 10, 10], [1, 40, 40, 50, 50]  # a target of class 0, one of class 1
GOOD_A, GOOD_B = [0, 0, 10, 10, 0.9, 0], [40, 40, 50, 50, 0.9, 1]


@pytest.mark.parametrize(
    "prediction, kind, target",
    [
        (GOOD_A, "correct", 0),
        ([0, 0, 10, 6, 0.8, 1], "class", 0),  # IoU 0.6 with A
        ([0, 0, 10, 5, 0.8, 1], "class", 0),  # 0.5 is enough
        ([0, 0, 10, 4, 0.8, 0], "location", 0),  # IoU 0.4
        ([0, 0, 10, 1, 0.8, 0], "location", 0),  # 0.1 is enough
        ([0, 0, 10, 4, 0.8, 1], "both", -1),
        ([0, 0, 10, 0.5, 0.8, 0], "background", -1),  # IoU 0.05
        ([70, 70, 80, 80, 0.8, 0], "background", -1),
        ([0, 0, 10, 10, 0.8, 7], "class", 0),  # a class without targets
    ],
)
def test_kinds(prediction, kind, target):
    kinds, targets = find_errors(match_image(np.array([prediction], float), np.array([A, B], float)))
    assert [*KINDS, "correct"][kinds[0]] == kind and targets[0] == target


def test_duplicate():
    kinds, targets = find_errors(match_image(np.array([GOOD_A, [0, 0, 10, 9, 0.8, 0]], float), np.array([A], float)))
    assert kinds.tolist() == [CORRECT, KINDS.index("duplicate")] and targets.tolist() == [0, -1]


def test_no_targets_in_the_image():
    kinds, targets = find_errors(match_image(np.array([GOOD_A], float), np.zeros((0, 5))))
    assert kinds.tolist() == [KINDS.index("background")] and targets.tolist() == [-1]


@pytest.mark.parametrize(
    "predictions, targets, map50, counts, gains",  # kinds that are not named have none
    [
        ([GOOD_A, GOOD_B], [A, B], 1, {}, {}),  # nothing to repair
        ([], [A], 0, {"missed": 1}, {"missed": 1}),  # nothing is left to be found
        ([], [], 0, {}, {}),
        ([[0, 0, 10, 6, 0.8, 1], GOOD_B], [A, B], 0.5, {"class": 1}, {"class": 0.5}),
        # a class error with more confidence than the only B: AP of B is 0.5 until it goes
        ([[0, 0, 10, 10, 0.95, 1], GOOD_A, GOOD_B], [A, B], 0.75, {"class": 1}, {"class": 0.25}),
        ([[0, 0, 10, 4, 0.9, 0]], [A], 0, {"location": 1}, {"location": 1}),
        # two that stand for one target, and that target is found: one true positive remains
        (
            [[0, 0, 10, 4, 0.95, 0], GOOD_A, [0, 0, 4, 10, 0.8, 0]],
            [A],
            0.5,
            {"location": 2},
            {"location": 0.5},
        ),
        (
            [[0, 0, 10, 4, 0.95, 1], GOOD_A, GOOD_B],
            [A, B],
            0.75,
            {"both": 1},
            {"both": 0.25},
        ),
        # a duplicate between the two true positives: precisions 1 (51 recalls) and 2/3 (50)
        (
            [GOOD_A, [0, 0, 10, 9, 0.8, 0], [60, 60, 70, 70, 0.7, 0]],
            [A, [0, 60, 60, 70, 70]],
            (51 + 50 * 2 / 3) / 101,
            {"duplicate": 1},
            {"duplicate": 50 / 3 / 101},
        ),
        ([[80, 80, 90, 90, 0.95, 0], GOOD_A], [A], 0.5, {"background": 1}, {"background": 0.5}),
        # one of two targets is not found: recall 0.5 is reached, 51 of 101 recalls
        ([GOOD_A], [A, [0, 60, 60, 70, 70]], 51 / 101, {"missed": 1}, {"missed": 50 / 101}),
        # background in a class without targets costs nothing
        ([GOOD_A, [80, 80, 90, 90, 0.95, 5]], [A], 1, {"background": 1}, {}),
    ],
)
def test_by_hand(predictions, targets, map50, counts, gains):
    split = error_split(collect([(predictions, targets)], 8))
    assert split.map50 == pytest.approx(map50)
    assert split.counts == {**dict.fromkeys(KINDS, 0), **counts}
    assert split.gains == pytest.approx({**dict.fromkeys(KINDS, 0), **gains})


@pytest.mark.parametrize("seed", range(3))
def test_every_box_and_target_is_in_the_account(seed):
    matches = collect(random_images(seed, 4, 12, 6, 40), 4)
    split = error_split(matches)
    true_positives = sum((image.target[:, 0] >= 0).sum() for image in matches)
    wrong = sum(split.counts[kind] for kind in KINDS if kind != "missed")
    assert true_positives + wrong == sum(len(image.predictions) for image in matches) > 0
    assert all(-1e-12 < gain <= 1 - split.map50 + 1e-12 for gain in split.gains.values())


def test_table():
    split = error_split(collect([([[0, 0, 10, 4, 0.9, 0]], [A])], 1))
    heading, *rows = error_lines(split)
    assert heading.split() == ["Error", "Number", "AP50", "gained"]
    assert [row.split() for row in rows][:2] == [["class", "0", "0.000"], ["location", "1", "1.000"]]
    assert [row.split()[0] for row in rows] == list(KINDS)
