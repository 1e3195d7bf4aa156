"""AP from stored matches is that of utils.metrics.coco_ap, for the images as they are and for any resample of them."""

import time

import numpy as np
import pytest
from conftest import SLOWNESS

from extras.compare.bootstrap import mean_ap, sample_weights
from extras.compare.matching import match_images, weighted_ap
from extras.compare.records import Evidence
from tests.utils.test_metrics import random_image
from utils.metrics import DetectionMetrics, is_counted


def random_images(seed, nc, n_images, targets, predictions):
    """Images as val.py gives them, float32; confidences of two digits, so that many are equal."""
    rng = np.random.default_rng(seed)
    images = [random_image(rng, nc, targets, predictions) for _ in range(n_images)]
    return [(found, true.astype(np.float32)) for found, true in images]


def collect(images, nc):
    evidence = Evidence(dict(enumerate(map(str, range(nc)))))
    for i, image in enumerate(images):
        evidence.add(f"{i}.jpg", *image)
    return match_images(evidence)


def match_image(predictions, targets):
    """The matches of one image alone, of any classes."""
    return collect([(predictions, targets)], 1)[0]


def reference(images, nc):
    metrics = DetectionMetrics(nc)
    for image in images:
        metrics.update(*image)
    return metrics.compute()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "nc, n_images, targets, predictions",
    [
        (1, 2, 3, 5),
        (3, 20, 8, 150),
        (2, 8, 5, 400),  # more than 100 of a class and image
        (80, 25, 10, 100),  # many classes, most in one image alone
        (4, 6, 1, 2),  # images without targets or predictions
    ],
)
def test_equals_coco_ap(seed, nc, n_images, targets, predictions):
    images = random_images(seed, nc, n_images, targets, predictions)
    expected = reference(images, nc)
    classes, ap = weighted_ap(collect(images, nc), np.ones((n_images, 1), np.int32))
    map50, map50_95 = mean_ap(ap)
    assert classes.tolist() == expected.classes.tolist() and len(classes) > 0
    np.testing.assert_allclose(ap[0].mean(1), expected.ap, atol=1e-9)
    np.testing.assert_allclose(ap[0, :, 0], expected.ap50, atol=1e-9)
    assert (map50[0], map50_95[0]) == pytest.approx((expected.map50, expected.map), abs=1e-9)


def test_a_weighted_image_is_that_many_images():
    """Each resample is also made of real copies of the images and scored by coco_ap."""
    images = random_images(7, 5, 15, 4, 60)
    rng = np.random.default_rng(1)
    for found, _ in images:
        found[:, 4] = rng.random(len(found))  # all different: among equals the order of the copies would count
    weights = sample_weights(15, 6)
    _, ap = weighted_ap(collect(images, 5), weights)
    for column, (map50, map50_95) in enumerate(zip(*mean_ap(ap))):
        expected = reference([images[i] for i in np.repeat(np.arange(15), weights[:, column])], 5)
        assert (map50, map50_95) == pytest.approx((expected.map50, expected.map), abs=1e-9)


def test_nothing_to_measure():
    classes, ap = weighted_ap(collect([([], []), ([[0, 0, 9, 9, 0.5, 0]], [])], 2), np.ones((2, 3), np.int32))
    assert len(classes) == 0 and ap.shape == (3, 0, 10) and np.isnan(mean_ap(ap)).all()


def test_a_sample_without_the_class_has_no_ap():
    images = [([[0, 0, 9, 9, 0.5, 0]], [[0, 0, 0, 9, 9]]), ([], [[1, 0, 0, 5, 5]])]
    _, ap = weighted_ap(collect(images, 2), np.array([[1, 2, 0], [1, 0, 2]]))
    np.testing.assert_allclose(ap[:, :, 0], [[1, 0], [1, np.nan], [np.nan, 0]])
    np.testing.assert_allclose(mean_ap(ap)[0], [0.5, 1, 0])


TWO = [[0, 0, 0, 10, 10], [0, 4, 0, 14, 10]]


@pytest.mark.parametrize(
    "predictions, expected",  # target of each prediction at IoU 0.5 and at 0.75
    [
        ([[0, 0, 10, 10, 0.9, 0]], [[0, 0]]),
        ([[1, 0, 11, 10, 0.9, 0]], [[0, 0]]),  # overlaps both, one of them more
        ([[0, 0, 10, 10, 0.9, 0], [1, 0, 11, 10, 0.8, 0]], [[0, 0], [1, -1]]),  # the better target is taken
        ([[2, 0, 12, 10, 0.9, 0]], [[1, -1]]),  # of equal ones the last
        ([[0, 0, 10, 10, 0.9, 1]], [[-1, -1]]),  # another class
        ([[0, 0, 10, 4, 0.9, 0]], [[-1, -1]]),  # IoU 0.4
        ([[0, 0, 10, 5, 0.9, 0]], [[0, -1]]),  # IoU exactly 0.5 counts
        ([], np.zeros((0, 2))),
    ],
)
def test_matching_by_hand(predictions, expected):
    matches = match_image(np.array(predictions, float).reshape(-1, 6), np.array(TWO, float))
    np.testing.assert_array_equal(matches.target[:, [0, 5]], expected)


def test_a_hundred_of_a_class_count():
    found = np.zeros((350, 6))
    found[:, 5] = [0] * 150 + [1] * 100 + [0] * 50 + [2] * 50
    kept = found[is_counted(found, np.zeros(350, int))]
    assert np.bincount(kept[:, 5].astype(int)).tolist() == [100, 100, 50]
    assert is_counted(found, np.arange(350) // 100).all()  # of one image


def test_a_thousand_resamples_of_128_images_and_80_classes_take_seconds():
    """300 boxes in every image. CPU seconds: others may use the machine as well."""
    rng = np.random.default_rng(0)
    images = random_images(0, 80, 128, 14, 300)
    for i, (found, true) in enumerate(images):
        xy = rng.uniform(0, 300, (300 - len(found), 2))
        more = [xy, xy + 50, rng.random((len(xy), 1)), rng.integers(0, 80, (len(xy), 1))]
        images[i] = np.concatenate([found, np.concatenate(more, 1)]), true
    start = time.process_time()
    classes, ap = weighted_ap(collect(images, 80), sample_weights(128, 1000))
    assert time.process_time() - start < 3 * SLOWNESS
    assert ap.shape == (1001, 80, 10) and len(classes) == 80
