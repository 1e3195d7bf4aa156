"""Thresholds: they reach their aim, are the extreme ones that do, and hold for other images of the same kind."""

import numpy as np
import pytest

from extras.compare.bootstrap import sample_weights
from extras.thresholds.choice import Aim, ClassBoxes, boxes_by_class, choose, figures_of, together

ONE_IMAGE = sample_weights(1, 1)


def boxes_of(confidence, correct, targets, image=None, images=1) -> ClassBoxes:
    n_targets = np.zeros(images, int)
    n_targets[0] = targets
    image = np.zeros(len(confidence), int) if image is None else image
    return ClassBoxes(np.array(confidence), np.array(correct, bool), image, n_targets)


# by falling confidence: right, right, wrong, right, wrong; 4 targets
BOXES = boxes_of([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 0, 1, 0], 4)


@pytest.mark.parametrize(
    ("aim", "threshold", "precision", "recall", "reached"),
    [
        (Aim(), 0.55, 3 / 4, 3 / 4, True),  # F1 0.75 is the best
        (Aim("precision", 1.0), 0.75, 1, 2 / 4, True),  # the lowest with it
        (Aim("precision", 0.7), 0.55, 3 / 4, 3 / 4, True),  # a dip below it on the way does not count
        (Aim("precision", 0.1), 0.25, 3 / 5, 3 / 4, True),  # all boxes
        (Aim("recall", 0.5), 0.75, 1, 2 / 4, True),  # the highest with it
        (Aim("recall", 0.6), 0.55, 3 / 4, 3 / 4, True),
        (Aim("recall", 0.9), 0.55, 3 / 4, 3 / 4, False),  # never: the most that there is
    ],
)
def test_the_threshold_of_an_aim(aim, threshold, precision, recall, reached):
    found = choose(BOXES, aim, ONE_IMAGE)
    assert (found.conf.value, found.reached, found.targets) == (pytest.approx(threshold), reached, 4)
    assert (found.precision.value, found.recall.value) == (pytest.approx(precision), pytest.approx(recall))


@pytest.mark.parametrize(("boxes", "threshold", "reached"), [(9, 0.25, False), (10, 0.6, True)])
def test_a_few_lucky_boxes_make_no_threshold(boxes, threshold, reached):
    """Of many targets a few sure boxes are right, the others wrong; a promise by fewer than ten says little."""
    right = boxes_of([0.9] + [0.7] * (boxes - 1) + [0.5] * 40, [1] * boxes + [0] * 40, 80)
    found = choose(right, Aim("precision", 0.95), ONE_IMAGE)
    assert (found.conf.value, found.reached) == (pytest.approx(threshold), reached)


def test_boxes_of_one_confidence_stay_together():
    found = choose(boxes_of([0.8, 0.8, 0.8], [1, 0, 0], 1), Aim("precision", 0.9), ONE_IMAGE)
    assert found.conf.value == 0.4 and found.precision.value == pytest.approx(1 / 3) and not found.reached


def test_nothing_to_choose_by():
    for boxes in (boxes_of([], [], 3), boxes_of([0.5], [0], 0)):
        with pytest.raises(ValueError, match="found none"):
            choose(boxes, Aim(), ONE_IMAGE)


def test_figures_of_nothing_are_unknown():
    precision, recall, f1 = figures_of(*(np.array([float(x)]) for x in (0, 0, 2)))
    assert np.isnan(precision[0]) and recall[0] == 0 and f1[0] == 0


def test_boxes_are_matched_as_coco_does():
    truth = np.array([[1, 0, 0, 10, 10], [1, 20, 20, 30, 30]], float)
    found = np.array(
        [
            [0, 0, 10, 10, 0.9, 1],  # right
            [0, 0, 10, 9, 0.8, 1],  # a second one for the same target
            [20, 20, 30, 30, 0.7, 0],  # another class
            [20, 20, 30, 26, 0.6, 1],  # IoU 0.6
        ]
    )
    none, cls = boxes_by_class([found, np.zeros((0, 6))], [truth, truth[:1]], 2)
    assert cls.correct.tolist() == [True, False, True] and cls.n_targets.tolist() == [2, 1]
    assert none.correct.tolist() == [False] and none.targets == 0
    assert together([none, cls]).confidence.tolist() == [0.9, 0.8, 0.7, 0.6]


def drawn(seed: int, images: int = 80) -> ClassBoxes:
    """Return the boxes of images in which a box of confidence c is right with a chance of sqrt(c)."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), 6)
    confidence = rng.uniform(0.05, 1, len(image))
    correct = rng.uniform(size=len(image)) < np.sqrt(confidence)
    order = np.argsort(-confidence)
    n_targets = np.bincount(image[correct], minlength=images) + 1
    return ClassBoxes(confidence[order], correct[order], image[order], n_targets)


def test_the_promise_holds_for_other_images():
    """Over 30 small samples the mean precision elsewhere is the wanted one, and the interval holds it as it says."""
    weights, aim, others = sample_weights(80, 200), Aim("precision", 0.9), drawn(1000, 20_000)
    choices = [choose(drawn(seed), aim, weights) for seed in range(30)]
    naive = [choose(drawn(seed), aim, np.ones((80, 2), np.int32)) for seed in range(30)]  # it sees no optimism

    def elsewhere(found):
        return np.array([others.correct[others.confidence > choice.conf.value].mean() for choice in found])

    truth = elsewhere(choices)
    assert abs(truth.mean() - 0.9) < 0.01 and elsewhere(naive).mean() < truth.mean()
    within = [c.precision.low <= true <= c.precision.high for c, true in zip(choices, truth)]
    assert np.mean(within) > 0.85
