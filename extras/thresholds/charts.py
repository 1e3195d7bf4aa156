"""The chart of a study of thresholds."""

import numpy as np

from extras.compare.bootstrap import Interval
from extras.thresholds.calibration import BINS, Calibration
from extras.thresholds.study import Study
from utils.plots.charts import new_figure, plain_text, save_figure, unit_rgb
from utils.plots.palette import colors

MAX_CLASSES = 30  # with more of them the names would not fit: those with the most targets are shown


def plot_study(study: Study, names: dict, path) -> None:
    """Draw thresholds, precision and recall of the classes with their intervals, and what confidences are worth."""
    by_targets = sorted(range(len(study.choices)), key=lambda cls: -study.choices[cls].targets)
    shown = sorted(by_targets[:MAX_CLASSES])
    figure, axes = new_figure(1, 3, size=(15, max(5, 1.5 + 0.3 * len(shown))))
    left, middle, right = axes[0]
    labels = [plain_text(names.get(cls, cls)) for cls in shown]
    _dots(left, [study.choices[cls].conf for cls in shown], 0, "threshold")
    left.set(title=f"Thresholds for {study.aim}", xlabel="confidence")
    for offset, figure_name in ((-0.12, "precision"), (0.12, "recall")):
        _dots(middle, [getattr(study.choices[cls], figure_name) for cls in shown], offset, figure_name)
    if study.aim.least is not None:
        middle.axvline(study.aim.least, color="grey", linestyle="--", label=f"wanted {study.aim}")
    middle.set(title="Precision and recall above them", xlabel="share, with 95 % interval")
    for axis in (left, middle):
        axis.set_yticks(range(len(shown)), labels)
        axis.set(ylim=(len(shown) - 0.5, -0.5), xlim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    middle.legend(fontsize=9)
    plot_reliability(right, study.calibration)
    save_figure(figure, path, dpi=130)


def _dots(axis, figures: list[Interval], offset: float, name: str) -> None:
    """Draw a dot for each figure, and its interval as a line."""
    values = np.array([(one.value, one.low, one.high) for one in figures])
    spread = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
    color = unit_rgb(colors({"threshold": 0, "precision": 1, "recall": 6}[name]))
    rows = np.arange(len(figures)) + offset
    axis.errorbar(values[:, 0], rows, xerr=spread, fmt="o", color=color, capsize=3, label=name)


def plot_reliability(axis, calibration: Calibration) -> None:
    """Draw the share of right boxes over the confidence that was claimed, before and after."""
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
    kinds = (("the network's confidence", calibration.before, calibration.ece_before, 1),)
    kinds += ((f"calibrated ({calibration.method})", calibration.after, calibration.ece_after, 6),)
    for name, counted, error, color in kinds if calibration.before else ():
        count, chance, share = counted
        known = count > 0
        style = {"color": unit_rgb(colors(color)), "label": f"{name}, error {error:.3f}"}
        axis.plot(chance[known], share[known], marker="o", **style)
    title = f"What a confidence is worth ({calibration.boxes} boxes)"
    axis.set(title=title, xlabel=f"confidence, {BINS} bins", ylabel="share of right boxes", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=9)
    axis.grid(alpha=0.3)
