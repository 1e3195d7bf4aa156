"""Calibration: the curves are those of least loss, and what was bent becomes straight."""

import numpy as np
import pytest

from extras.thresholds.calibration import (
    AS_IT_IS,
    FROM,
    bins,
    calibrate,
    expected_calibration_error,
    fit_isotonic,
    fit_temperature,
    log_loss,
)


def drawn(curve, n=4000, seed=0):
    """Return confidence, correct, image of boxes whose true chance is curve(confidence)."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(FROM, 1, n)
    return confidence, rng.uniform(size=n) < curve(confidence), rng.integers(0, 100, n)


def bent(confidence):
    logit = np.log(confidence / (1 - confidence + 1e-9))
    return 1 / (1 + np.exp(-(0.5 * logit - 1)))


def stepped(confidence):
    return np.select([confidence < 0.4, confidence < 0.7], [0.1, 0.5], 0.9)


@pytest.mark.parametrize(
    ("truth", "methods", "most"),
    [
        (lambda c: c, {"none", "temperature"}, 0.03),  # nothing to do
        (bent, {"temperature"}, 0.03),
        (stepped, {"isotonic"}, 0.03),
        (lambda c: 0.2 + 0 * c, {"temperature", "isotonic"}, 0.02),  # the confidence says nothing
    ],
)
def test_the_method_that_fits_is_chosen(truth, methods, most):
    found = calibrate(*drawn(truth))
    assert found.method in methods and found.ece_after < most
    assert found.ece_before >= found.ece_after or found.method == "none"
    grid = np.linspace(0.1, 0.95, 20)
    assert (np.diff(found.curve(grid)) >= 0).all()
    away_from_steps = np.abs(grid[:, None] - [0.4, 0.7]).min(1) > 0.06
    np.testing.assert_allclose(found.curve(grid)[away_from_steps], truth(grid)[away_from_steps], atol=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_the_maximum_of_likelihood(seed):
    from scipy.optimize import minimize

    confidence, correct, _ = drawn(bent, 300, seed)
    logit = np.log(confidence / (1 - confidence))

    def loss(ab):
        return np.logaddexp(0, -np.where(correct, 1, -1) * (ab[0] * logit + ab[1])).sum()

    a, b = minimize(loss, [1, 0]).x
    expected = 1 / (1 + np.exp(-(a * logit + b)))
    np.testing.assert_allclose(fit_temperature(confidence, correct)(confidence), expected, atol=5e-3)


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_steps_are_those_of_scipy(seed):
    from scipy.optimize import isotonic_regression

    from extras.thresholds.calibration import _pooled

    values = np.random.default_rng(seed).integers(0, 2, 200).astype(float)
    found = np.concatenate([np.full(part.stop - part.start, values[part].mean()) for part in _pooled(values)])
    np.testing.assert_allclose(found, isotonic_regression(values).x)


def test_a_confidence_that_parts_right_from_wrong_stays_finite():
    confidence = np.linspace(0.1, 0.9, 100)
    for fit in (fit_temperature, fit_isotonic):
        curve = fit(confidence, confidence > 0.5)
        assert np.isfinite(curve.chances).all() and curve(0.2) < 0.1 and curve(0.8) > 0.9


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [([], []), (np.full(99, 0.5), np.ones(99, bool)), (np.full(99, 0.01), np.arange(99) % 2 > 0)],
)
def test_too_little_to_learn_from(confidence, correct):
    found = calibrate(np.asarray(confidence, float), np.asarray(correct, bool), np.arange(len(confidence)))
    assert found.method == "none" and found.curve is AS_IT_IS and np.isnan(found.ece_before)


def test_expected_calibration_error_and_log_loss():
    chance, correct = np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True])
    count, mean, share = bins(chance, correct)
    assert count.tolist() == [2, *[0] * 8, 2] and share[[0, 9]].tolist() == [0.5, 1]
    np.testing.assert_allclose(expected_calibration_error(count, mean, share), (2 * 0.45 + 2 * 0.025) / 4)
    np.testing.assert_allclose(log_loss(np.array([0.5, 0.5]), [True, False]), np.log(2))
