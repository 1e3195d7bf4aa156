"""Metrics: COCO-protocol AP against pycocotools, YOLOv5's recipe against plain definitions, the confusion matrix."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.boxes import box_iou
from utils.metrics import (
    ConfusionMatrix,
    DetectionMetrics,
    coco_ap,
    fitness,
    greedy_pairs,
)
from utils.plots.curves import IOU_THRESHOLDS, match_predictions


def random_image(rng, nc, targets, predictions):
    """(predictions [n, 6], targets [m, 5]): partly overlapping, of very different sizes, with equal confidences."""
    m, n = rng.integers(0, targets + 1), rng.integers(0, predictions + 1)
    xy, wh = rng.uniform(0, 400, (m, 2)), rng.choice([8, 40, 250], (m, 1)) * rng.uniform(0.6, 1.5, (m, 2))
    truth = np.concatenate([rng.integers(0, nc, (m, 1)), xy, xy + wh], 1)
    if m:
        source = truth[rng.integers(0, m, n)]
        boxes = source[:, 1:] + rng.normal(0, 0.08, (n, 4)) * np.tile(source[:, 3:] - source[:, 1:3], 2)
        cls = np.where(rng.random(n) < 0.8, source[:, 0], rng.integers(0, nc, n))
    else:
        boxes, cls = rng.uniform(0, 300, (n, 4)), rng.integers(0, nc, n)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    found = np.concatenate([boxes, rng.random((n, 1)).round(2), cls[:, None]], 1).astype(np.float32)
    return found, truth


def pycocotools_evaluation(images, nc):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for i, (predictions, targets) in enumerate(images):
        for cls, x1, y1, x2, y2 in np.asarray(targets, dtype=float).tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(truth) + 1, "image_id": i, "category_id": int(cls), "bbox": box}
            truth.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
        for x1, y1, x2, y2, conf, cls in np.asarray(predictions, dtype=float).tolist():
            found.append({"image_id": i, "category_id": int(cls), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": conf})
    gt = COCO()
    gt.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": i} for i in range(nc)],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def compute(images, nc):
    metrics = DetectionMetrics(nc)
    for predictions, targets in images:
        metrics.update(predictions, targets)
    return metrics.compute()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    nc=st.integers(1, 4),
    n_images=st.integers(1, 25),
    targets=st.sampled_from([1, 10]),
    predictions=st.sampled_from([1, 20, 250]),  # more than 100 of a class too
    ties=st.booleans(),
)
def test_equals_pycocotools(seed, nc, n_images, targets, predictions, ties):
    """ties: whole pixels, and every target twice, so that one overlaps as much as another, and of one area or not."""
    rng = np.random.default_rng(seed)
    images = [random_image(rng, nc, targets, predictions) for _ in range(n_images)]
    if ties:
        images = [(found.round(2), np.concatenate([true, true]).round()) for found, true in images]
    images.append((np.array([[10, 10, 40, 40, 0.5, 0]], np.float32), np.array([[0, 11, 10, 40, 42]])))  # at least one
    expected, actual = pycocotools_evaluation(images, nc), compute(images, nc)
    areas = [actual.ap_small, actual.ap_medium, actual.ap_large]
    stats = np.nan_to_num([actual.map, actual.map50, *areas], nan=-1)
    np.testing.assert_allclose(stats, expected.stats[[0, 1, 3, 4, 5]], atol=1e-6)
    precision = expected.eval["precision"][:, :, :, 0, -1]  # [10, 101, nc]
    np.testing.assert_allclose(actual.ap, precision.mean((0, 1))[actual.classes], atol=1e-6)
    np.testing.assert_allclose(actual.ap50, precision[0].mean(0)[actual.classes], atol=1e-6)
    ordered = [(found[np.argsort(-found[:, 4], kind="stable")].astype(float), true) for found, true in images]
    arguments = []
    for arrays in zip(*ordered):
        arguments += [np.concatenate(arrays), np.repeat(np.arange(len(images)), [len(x) for x in arrays])]
    by_area = coco_ap(*arguments, actual.classes)  # [10, k, 4]
    precision = expected.eval["precision"][..., -1][:, :, actual.classes]  # [10, 101, k, 4]
    np.testing.assert_allclose(np.nan_to_num(by_area, nan=-1), precision.mean(1), atol=1e-6)


PERFECT = np.array([[0, 0, 10, 10, 0.9, 0], [20, 20, 70, 70, 0.8, 2]])
TRUTH = np.array([[0, 0, 0, 10, 10], [2, 20, 20, 70, 70]])
NONE, NO_TARGETS = np.zeros((0, 6)), np.zeros((0, 5))


@pytest.mark.parametrize(
    "images, expected",  # precision, recall, mAP50, mAP50-95
    [
        ([(PERFECT, TRUTH)], (1, 1, 1, 1)),
        ([(PERFECT, TRUTH), (NONE, NO_TARGETS)], (1, 1, 1, 1)),  # an empty image changes nothing
        ([(NONE, TRUTH)], (0, 0, 0, 0)),  # no predictions
        ([(PERFECT, NO_TARGETS)], (0, 0, 0, 0)),  # no targets
        ([(NONE, NO_TARGETS)], (0, 0, 0, 0)),  # neither
        ([], (0, 0, 0, 0)),  # no images
        ([(PERFECT[:1], TRUTH)], (0.5, 0.5, 0.5, 0.5)),  # a class that is never predicted counts as 0
        ([(np.vstack([PERFECT, [[0, 0, 9, 9, 0.99, 1]]]), TRUTH)], (1, 1, 1, 1)),  # one without targets does not count
        ([([], [])], (0, 0, 0, 0)),  # plain empty lists
    ],
)
def test_by_hand(images, expected):
    result = compute(images, 3)
    found = result.precision, result.recall, result.map50, result.map
    assert found == pytest.approx(expected, abs=1e-9)
    assert result.v5 == pytest.approx(expected, abs=0.01)  # the recipe's trapezoids are a little off
    assert result.fitness == pytest.approx(0.1 * expected[2] + 0.9 * expected[3])
    assert result.maps.shape == (3,) and result.images == len(images)


def test_arrays_per_class():
    second = np.array([[2, 0, 0, 30, 30], [2, 50, 50, 80, 80]])
    result = compute([(PERFECT, TRUTH), (np.array([[0, 0, 30, 30, 0.7, 2]]), second)], 4)
    assert result.classes.tolist() == [0, 2]
    assert result.n_images.tolist() == [1, 2] and result.n_targets.tolist() == [1, 3] and result.targets == 4
    assert result.ap50.tolist() == pytest.approx([1, 67 / 101])  # two of three found: recalls 0 to 0.66
    assert result.maps.tolist() == pytest.approx([1, result.map, 67 / 101, result.map], abs=1e-6)
    assert result.true_positives.tolist() == [1, 2] and result.false_positives.tolist() == [0, 0]
    assert np.isnan(result.ap_large) and result.ap_small == pytest.approx((1 + 51 / 101) / 2, abs=1e-6)
    assert result.curves.precision.shape == (2, 1000) and result.curves.x[[0, -1]].tolist() == [0, 1]


def test_reset_and_length():
    metrics = DetectionMetrics(3)
    metrics.update(PERFECT, NO_TARGETS)
    assert len(metrics) == 1
    metrics.reset()
    metrics.update(PERFECT, TRUTH)
    assert len(metrics) == 1 and metrics.compute().map == 1


def test_update_does_not_depend_on_the_order_of_predictions():
    rng = np.random.default_rng(0)
    images = [random_image(rng, 3, 8, 30) for _ in range(10)]
    for predictions, _ in images:
        predictions[:, 4] = rng.permutation(len(predictions)) / 50  # distinct
    shuffled = [(rng.permutation(p), t) for p, t in images]
    first, second = compute(images, 3), compute(shuffled, 3)
    assert first.map == second.map and first.v5 == second.v5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_matching_follows_its_definition(seed):
    predictions, targets = random_image(np.random.default_rng(seed), 2, 6, 20)
    predictions = predictions[np.argsort(-predictions[:, 4], kind="stable")].astype(float)
    iou = box_iou(predictions[:, :4], targets[:, 1:])
    expected = np.zeros((len(predictions), 10), bool)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        taken = set()
        for row, prediction in enumerate(predictions):
            overlaps = [i if t[0] == prediction[5] else 0 for i, t in zip(iou[row], targets)]
            best = int(np.argmax(overlaps)) if overlaps else None
            if best is not None and overlaps[best] >= threshold and best not in taken:
                taken.add(best)
                expected[row, column] = True
    assert (match_predictions(predictions, targets) == expected).all()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(0, 8), columns=st.integers(0, 8), ties=st.booleans())
def test_greedy_pairs_takes_the_best_pair_first(seed, rows, columns, ties):
    scores = np.random.default_rng(seed).random((rows, columns))
    scores = scores.round(1) if ties else scores
    row, column = greedy_pairs(scores, 0.3)
    left, expected = scores.copy(), []
    while left.size and left.max() >= 0.3:
        i, j = np.unravel_index(left.argmax(), left.shape)
        expected.append((i, j))
        left[i], left[:, j] = -1, -1
    if not ties:
        assert sorted(zip(row, column)) == sorted(expected)
    assert len(set(row)) == len(row) and len(set(column)) == len(column)  # each line once
    remaining = np.delete(np.delete(scores, row, 0), column, 1)
    assert (remaining < 0.3).all() and (scores[row, column] >= 0.3).all()  # nothing left, nothing below


def test_fitness():
    assert fitness([0.9, 0.9, 0.5, 0.3]) == pytest.approx(0.32)
    assert fitness(np.array([[0, 0, 1, 0, 7], [0, 0, 0, 1, 7.0]])) == pytest.approx([0.1, 0.9])  # rows, columns beyond


BOX, OTHER = [0, 0, 10, 10], [50, 50, 60, 60]


@pytest.mark.parametrize(
    "detections, labels, expected",  # expected: {(predicted, true): count}, 2 is background
    [
        ([[*BOX, 0.9, 0]], [[0, *BOX]], {(0, 0): 1}),
        ([[*BOX, 0.9, 1]], [[0, *BOX]], {(1, 0): 1}),  # confused
        ([[*BOX, 0.2, 0]], [[0, *BOX]], {(2, 0): 1}),  # below the confidence: missed
        ([[*OTHER, 0.9, 1]], [[0, *BOX]], {(2, 0): 1, (1, 2): 1}),  # missed and invented
        ([[*BOX, 0.9, 1]], [], {(1, 2): 1}),  # no labels
        (None, [[0, *BOX], [1, *OTHER]], {(2, 0): 1, (2, 1): 1}),  # no detections
        ([[*BOX, 0.9, 0], [1, 0, 11, 10, 0.95, 0]], [[0, *BOX]], {(0, 0): 1, (0, 2): 1}),  # the better overlap counts
    ],
)
def test_confusion_matrix(detections, labels, expected):
    matrix = ConfusionMatrix(2)
    matrix.process_batch(detections if detections is None else np.array(detections), np.array(labels))
    counts = np.zeros((3, 3))
    for place, count in expected.items():
        counts[place] = count
    assert (matrix.matrix == counts).all()
    matrix.process_batch(None, np.zeros((0, 5)))  # an empty image adds nothing
    assert (matrix.matrix == counts).all()
