"""extras/classify/metrics.py: scores by hand, against a plain definition, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.classify.metrics import ClassificationMetrics, Mistake, probabilities


def compute(nc, *batches, **kwargs):
    metrics = ClassificationMetrics(nc, **kwargs)
    for predictions, targets, *paths in batches:
        metrics.update(np.array(predictions, float).reshape(-1, nc), targets, *paths)
    return metrics.compute()


def ranked(nc, order) -> list:
    """A row of logits that ranks the classes of `order` first, the others behind them."""
    row = np.zeros(nc)
    row[list(order)] = np.arange(len(order), 0, -1)
    return row.tolist()


@pytest.mark.parametrize(
    "nc, predictions, targets, top1, top5",
    [
        (3, [[9, 1, 1], [1, 9, 1]], [0, 1], 1, 1),  # all right
        (3, [[9, 1, 1], [1, 9, 1]], [0, 0], 0.5, 1),  # with three classes top-5 is top-3: always right
        (1, [[0.3]], [0], 1, 1),  # a single class
        (7, [ranked(7, [6, 5, 4, 3, 2])], [2], 0, 1),  # fifth
        (7, [ranked(7, [6, 5, 4, 3, 2, 1])], [1], 0, 0),  # sixth
        (7, [[0] * 7, [0] * 7], [0, 6], 0.5, 0.5),  # of equal ones the first counts
        (4, [], [], 0, 0),  # no image
    ],
)
def test_by_hand(nc, predictions, targets, top1, top5):
    result = compute(nc, (predictions, targets))
    assert (result.top1, result.top5, result.images) == (top1, top5, len(targets))
    assert result.fitness == (top1 + top5) / 2


def test_arrays_by_class_and_matrix():
    rows = [ranked(6, [0]), ranked(6, [2, 0]), ranked(6, [2]), ranked(6, [5, 4, 3, 2, 1])]
    result = compute(6, (rows, [0, 0, 2, 0]))
    assert result.counts.tolist() == [3, 0, 1, 0, 0, 0]
    np.testing.assert_allclose(result.top1_per_class, [1 / 3, np.nan, 1, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(result.top5_per_class, [2 / 3, np.nan, 1, np.nan, np.nan, np.nan])
    expected = np.zeros((6, 6))
    expected[0, 0], expected[2, 0], expected[5, 0], expected[2, 2] = 1, 1, 1, 1  # predicted row, true column
    np.testing.assert_array_equal(result.matrix, expected)


def test_the_worst_mistakes_are_the_most_confident_ones():
    paths = [f"{i}.jpg" for i in range(4)]
    first = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]
    result = compute(2, (first, [1, 0, 1, 0], paths), ([[0.05, 0.95]], [0], ["x.jpg"]), worst=3)
    assert result.worst == [Mistake("x.jpg", 0, 1, 0.95), Mistake("0.jpg", 1, 0, 0.9), Mistake("3.jpg", 0, 1, 0.7)]
    assert compute(2, (first, [1, 0, 1, 0])).worst[0] == Mistake("", 1, 0, 0.9)  # paths are not needed


def test_logits_become_probabilities_and_those_stay():
    logits = np.array([[1000.0, 0.0], [0.0, np.log(3)]])
    np.testing.assert_allclose(probabilities(logits), [[1, 0], [0.25, 0.75]])
    chances = np.array([[0.25, 0.75], [0.503, 0.503]])  # a little off, as in half precision
    assert probabilities(chances) is chances


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), nc=st.integers(1, 12), n=st.integers(1, 30))
def test_the_same_as_its_definition_in_any_batches(seed, nc, n):
    rng = np.random.default_rng(seed)
    predictions, targets = rng.normal(size=(n, nc)), rng.integers(0, nc, n)
    ranks = [sorted(range(nc), key=lambda c: -row[c]).index(true) for row, true in zip(predictions, targets)]
    cut = int(rng.integers(0, n + 1))
    result = compute(nc, (predictions[:cut], targets[:cut]), (predictions[cut:], targets[cut:]))
    assert result.top1 == pytest.approx(np.mean([rank == 0 for rank in ranks]))
    assert result.top5 == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    assert result.matrix.sum() == n and len(result.worst) == min(16, sum(rank > 0 for rank in ranks))


def test_reset_and_length():
    metrics = ClassificationMetrics(2)
    metrics.update([[1, 0]], [1])
    assert len(metrics) == 1
    metrics.reset()
    assert len(metrics) == 0 and metrics.compute().worst == []


@pytest.mark.parametrize(
    "predictions, message",
    [
        ([[1, 2, 3]], r"expected predictions \[1, 2\], found \[1, 3\]"),
        ([[np.nan, 1]], "expected finite predictions, found nan"),
        ([[np.inf, 1]], "expected finite predictions"),
    ],
)
def test_wrong_predictions_are_refused(predictions, message):
    metrics = ClassificationMetrics(2)
    with pytest.raises(ValueError, match=message):
        metrics.update(predictions, [0])
    assert len(metrics) == 0
