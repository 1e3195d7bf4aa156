"""Intervals and p-values: seeded, in the right place, and as wide as they must be."""

import numpy as np
import pytest

from extras.compare.bootstrap import interval, p_value, sample_weights


def test_weights():
    weights = sample_weights(30, 500)
    assert weights.shape == (30, 501) and (weights[:, 0] == 1).all() and (weights.sum(0) == 30).all()
    np.testing.assert_array_equal(weights, sample_weights(30, 500, seed=0))
    assert (weights != sample_weights(30, 500, seed=1)).any()
    assert 0.6 < (weights[:, 1:] > 0).mean() < 0.67  # 1 - 1/e of the images are in a resample


@pytest.mark.parametrize("n_images, resamples", [(0, 10), (5, 0)])
def test_weights_of_nothing(n_images, resamples):
    with pytest.raises(ValueError, match=f"found {n_images} and {resamples}"):
        sample_weights(n_images, resamples)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.5, 0.4, 0.6], (0.5, 0.405, 0.595)),  # between the two by 2.5 %
        ([0.5, 0.6, 0.8], (0.5, 0.405, 0.595)),  # moved onto the figure
        ([0.5, np.nan, 0.5], (0.5, 0.5, 0.5)),  # a resample without targets says nothing
        ([0.5, np.nan, np.nan], (0.5, np.nan, np.nan)),
    ],
)
def test_interval(values, expected):
    found = interval(np.array(values))
    np.testing.assert_allclose((found.value, found.low, found.high), expected)


def test_interval_is_that_of_a_mean():
    """Of 200 values with a known spread; the normal approximation is good there."""
    values = np.random.default_rng(3).normal(2, 1, 200)
    found = interval((values @ sample_weights(200, 4000)) / 200)
    half = 1.96 * values.std() / np.sqrt(200)
    np.testing.assert_allclose((found.low, found.value, found.high), values.mean() + [-half, 0, half], atol=0.01)


@pytest.mark.parametrize(
    "differences, expected",
    [
        ([0.0] * 101, 1.0),  # a run against itself
        ([1.0] + [0.9] * 50 + [1.1] * 50, 2 / 101),  # never nothing
        ([-1.0] + [-0.9] * 50 + [-1.1] * 50, 2 / 101),  # two-sided
        ([0.1] + [-0.1] * 20 + [0.15] * 80, 42 / 101),  # 20 of 100 on the other side
        ([np.nan] * 4, 1.0),
    ],
)
def test_p_value(differences, expected):
    assert p_value(np.array(differences)) == pytest.approx(expected)


def test_p_value_rejects_equal_things_in_one_of_twenty():
    """300 pairs of samples of 50 that differ by chance alone: about 5 % have p < 0.05."""
    rng = np.random.default_rng(0)
    weights = sample_weights(50, 400)
    p = np.array([p_value(rng.normal(size=50) @ weights / 50) for _ in range(300)])
    assert 0.02 < (p < 0.05).mean() < 0.1 and 0.4 < (p < 0.5).mean() < 0.6
