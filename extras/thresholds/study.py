"""All that one validation says about confidences: the threshold of each class, and a calibration."""

from dataclasses import dataclass

import numpy as np

from extras.compare.bootstrap import RESAMPLES, Interval, sample_weights
from extras.thresholds.calibration import FROM, Calibration, bins, calibrate, expected_calibration_error
from extras.thresholds.choice import (
    MIN_TARGETS,
    Aim,
    Choice,
    ClassBoxes,
    boxes_by_class,
    choice_at,
    choose,
    figures_of,
    share_interval,
    together,
)
from models.backends.thresholds import Thresholds

DECIMALS = 4  # of the figures that go into a file


@dataclass(frozen=True)
class Study:
    """The choices by class number, and the calibration."""

    aim: Aim
    images: int
    choices: list[Choice]
    borrowed: list[int]  # classes that take the threshold of all classes together
    calibration: Calibration
    own: list[Choice]  # the same figures above the thresholds that the model has already; empty without any
    own_errors: tuple[float, float]  # expected calibration error of the model's confidences, and of its chances

    def thresholds(self, where: dict) -> Thresholds:
        """Return what goes into a checkpoint; where: what it was measured on."""
        curve = self.calibration.curve
        figures = dict(zip(("precision", "recall", "f1"), all_classes(self.choices)))
        measured = {
            **where,
            "images": self.images,
            "targets": [choice.targets for choice in self.choices],
            "all": {name: rounded(figure) for name, figure in figures.items()},
            "conf": [rounded(choice.conf) for choice in self.choices],
            "precision": [rounded(choice.precision) for choice in self.choices],
            "recall": [rounded(choice.recall) for choice in self.choices],
            "calibration": self.calibration.method,
            "ece": [_number(self.calibration.ece_before), _number(self.calibration.ece_after)],
        }
        is_calibrated = self.calibration.method != "none"
        return Thresholds(
            conf=[choice.conf.value for choice in self.choices],
            wanted=str(self.aim),
            scores=np.round(curve.scores, 6).tolist() if is_calibrated else [],
            chances=np.round(curve.chances, 6).tolist() if is_calibrated else [],
            measured=measured,
        )


def all_classes(choices: list[Choice]) -> tuple[Interval, ...]:
    """Return precision, recall and F1 of the boxes of all classes together, each above its class's threshold."""
    counts = sum(choice.counts for choice in choices)
    return tuple(share_interval(values) for values in figures_of(*counts))


def rounded(figure: Interval) -> list:
    """Return value, low and high as plain numbers, None for nan."""
    return [_number(value) for value in (figure.value, figure.low, figure.high)]


def _number(value: float) -> float | None:
    return round(float(value), DECIMALS) if np.isfinite(value) else None


def study_of(predictions: list, truths: list, names: dict, aim: Aim, own: Thresholds | None = None) -> Study:
    """Return the study of images' boxes [n, 6] (xyxy, confidence, class) and true boxes [m, 5] (class, xyxy).

    own: what the model has already. ValueError if nothing was found, or there is nothing to find.
    """
    classes = boxes_by_class(predictions, truths, len(names))
    pool = together(classes)
    if not pool.correct.any():
        found = f"{len(pool.correct)} boxes and {pool.targets} targets"
        raise ValueError(f"thresholds: expected boxes that find a target, found {found} in {len(predictions)} images")
    weights = sample_weights(len(predictions), RESAMPLES)
    common = choose(pool, aim, weights).conf
    borrowed = [cls for cls, boxes in enumerate(classes) if boxes.targets < MIN_TARGETS or not boxes.correct.any()]
    choices = [
        choice_at(boxes, common, weights) if cls in borrowed else choose(boxes, aim, weights)
        for cls, boxes in enumerate(classes)
    ]
    calibration = calibrate(pool.confidence, pool.correct, pool.image)
    kept, errors = [], (np.nan, np.nan)
    if own is not None:
        fixed = [Interval(conf, np.nan, np.nan) for conf in own.conf]
        kept = [choice_at(boxes, conf, weights) for boxes, conf in zip(classes, fixed)]
        errors = tuple(error_of(values, pool) for values in (pool.confidence, own.calibrated(pool.confidence)))
    return Study(aim, len(predictions), choices, borrowed, calibration, kept, errors)


def error_of(chance: np.ndarray, boxes: ClassBoxes) -> float:
    """Return the expected calibration error of what is said of boxes, by their confidence those of calibrate()."""
    counted = boxes.confidence >= FROM
    return expected_calibration_error(*bins(chance[counted], boxes.correct[counted]))
