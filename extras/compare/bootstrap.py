"""How far AP would move with other images of the same kind: the bootstrap (Efron, 1979) over images.

A resample draws as many images as there are, with replacement; the spread of AP over resamples is the interval. It
speaks of the choice of images alone, not of the chance in training: another seed gives another model.

The AP of few images is on average too high, and that of a resample, which has fewer different ones, higher still. So
the resamples are moved until their mean is the figure of the sample; else it could lie outside its own interval.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # the intervals' confidence


@dataclass(frozen=True)
class Interval:
    """A figure of the whole sample and the middle 95 % of its resamples; nan where nothing can be said."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def sample_weights(n_images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each image is drawn, int32 [images, 1 + resamples]; the first column is all 1."""
    if n_images < 1 or resamples < 1:
        raise ValueError(f"expected at least 1 image and 1 resample, found {n_images} and {resamples}")
    drawn = np.random.default_rng(seed).multinomial(n_images, np.full(n_images, 1 / n_images), size=resamples)
    return np.ascontiguousarray(np.concatenate([np.ones((1, n_images)), drawn]).T, dtype=np.int32)


def mean_ap(ap) -> tuple:
    """Return mAP50 [r] and mAP50-95 [r] of AP [r, k, 10], over the classes that have targets; nan if none has."""
    return _mean(ap[..., 0]), _mean(ap.reshape(len(ap), -1))


def _mean(values) -> np.ndarray:
    """Mean of each row [r, n] without its nan; nan for a row of nothing else."""
    known = ~np.isnan(values)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def resampled(values) -> np.ndarray:
    """Return the known resamples of a figure [1 + resamples], moved until their mean is the sample's own."""
    known = values[1:][~np.isnan(values[1:])]
    return known + (values[0] - known.mean()) if len(known) else known


def interval(values) -> Interval:
    """Return the interval of a figure [1 + resamples], the first being that of the sample itself."""
    spread = resampled(values)
    if len(spread) == 0:
        return Interval(float(values[0]), np.nan, np.nan)
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high))


def p_value(differences) -> float:
    """Return Two-sided p of a paired difference [1 + resamples] being 0; never less than 2 / (resamples + 1)."""
    spread = resampled(differences)
    fewest = min((spread <= 0).sum(), (spread >= 0).sum())
    return float(min(2 * (1 + fewest) / (1 + len(spread)), 1.0))
