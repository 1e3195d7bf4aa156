"""The study of thresholds in words."""

import numpy as np

from extras.compare.bootstrap import LEVEL, RESAMPLES, Interval
from extras.thresholds.calibration import FROM
from extras.thresholds.choice import MIN_TARGETS, Choice
from extras.thresholds.study import Study, all_classes
from models.backends.thresholds import Thresholds
from utils.console.text import aligned

MAX_LISTED = 20  # classes in a remark


def report_lines(study: Study, names: dict) -> list[str]:
    """Return a table with a row for each class, and what must be said besides."""
    how = f"{RESAMPLES} resamples of {study.images} images, {LEVEL * 100:.0f} % intervals"
    lines = [
        f"\nThresholds for {study.aim} in each class, boxes as detect.py finds them; {how}:",
        table(study.choices, names),
    ]
    if study.borrowed:
        few = f"fewer than {MIN_TARGETS} targets, or none found: the threshold of all classes together"
        lines.append(f"{listed(study.borrowed, names)}: {few}")
    missed = [c for c, choice in enumerate(study.choices) if not choice.reached and c not in study.borrowed]
    if missed:
        lines.append(f"{listed(missed, names)}: {study.aim} is not reached; this is the nearest to it")
    return [*lines, calibration_line(study.calibration)]


def own_lines(study: Study, own: Thresholds, names: dict) -> list[str]:
    """Return a table of what the thresholds in the model do on these images, and whether its calibration holds."""
    wanted = f" for {own.wanted}" if own.wanted else ""
    lines = [f"\nThe model's own thresholds{wanted} on these images:", table(study.own, names)]
    before, after = study.own_errors
    if own.scores:
        lines.append(f"its calibration: expected calibration error {before:.4f} before, {after:.4f} after")
    return lines


def table(choices: list[Choice], names: dict) -> str:
    """Return the table; its last row counts the boxes of all classes."""
    rows = [("class", "targets", "threshold", "precision", "recall", "F1")]
    for cls, choice in enumerate(choices):
        figures = (choice.conf, choice.precision, choice.recall, choice.f1)
        rows.append((names.get(cls, cls), choice.targets, *map(shown, figures)))
    total = sum(choice.targets for choice in choices)
    rows.append(("all", total, "", *map(shown, all_classes(choices))))
    return aligned(rows, left=(0,))


def shown(figure: Interval) -> str:
    """Return '0.951 (0.93 to 0.97)', or '-' where nothing is known."""
    if np.isnan(figure.value):
        return "-"
    spread = "" if np.isnan(figure.low) else f" ({figure.low:.2f} to {figure.high:.2f})"
    return f"{figure.value:.3f}{spread}"


def listed(classes: list[int], names: dict) -> str:
    """Return the names of the classes, not too many."""
    more = f" and {len(classes) - MAX_LISTED} more" if len(classes) > MAX_LISTED else ""
    return ", ".join(str(names.get(cls, cls)) for cls in classes[:MAX_LISTED]) + more


def calibration_line(calibration) -> str:
    """Return what the confidences are worth, before and after."""
    boxes = f"{calibration.boxes} boxes from confidence {FROM:g} on"
    if np.isnan(calibration.ece_before):
        return f"no calibration: too little to learn from in {boxes}"
    errors = f"{calibration.ece_before:.4f} before, {calibration.ece_after:.4f} after"
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in calibration.log_loss.items())
    return f"calibration by {calibration.method}: expected calibration error {errors}, of {boxes} (log loss: {losses})"
