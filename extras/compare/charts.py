"""Charts of compare.py and of the intervals of a validation."""

import numpy as np

from utils.plots.charts import RESULT_COLUMNS, known_points, new_figure, plain_text, save_figure, unit_rgb
from utils.plots.palette import colors


def plot_error_split(gains: dict, path) -> None:
    """Draw bars of the AP50 gained when one kind of error is repaired: {run: {kind: AP50}}, a colour for each run.

    The names of the runs are shown if there are several.
    """
    kinds = list(next(iter(gains.values()), {}))
    figure, axes = new_figure(size=(9, 5))
    axis, width = axes[0, 0], 0.8 / max(len(gains), 1)
    for i, (run, values) in enumerate(gains.items()):
        left = np.arange(len(kinds)) + (i - (len(gains) - 1) / 2) * width
        style = {"color": unit_rgb(colors(i + 1)), "label": plain_text(run)}
        bars = axis.bar(left, [values[kind] for kind in kinds], width, **style)
        axis.bar_label(bars, fmt="%.3f", fontsize=9 if len(gains) < 4 else 6)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set_axisbelow(True)
    axis.set(ylabel="AP50 gained when repaired", title="What each kind of error costs")
    axis.grid(axis="y", alpha=0.3)
    if len(gains) > 1:
        figure.legend(loc="outside lower center", fontsize=9)
    save_figure(figure, path, dpi=150)


def plot_learning_curves(runs: dict, path) -> None:
    """Draw the metrics of trainings into one picture: {run: columns of read_results()}, a line for each run.

    The upper row is over epochs. Where a run has a column `time` (seconds of training), a lower row is over hours.
    """
    names = [name for name in RESULT_COLUMNS if name.startswith("metrics/")]
    names = [name for name in names if any(name in columns for columns in runs.values())]
    rows = ["epoch", "time"] if any("time" in columns for columns in runs.values()) else ["epoch"]
    figure, axes = new_figure(len(rows), max(len(names), 1), size=(4 * max(len(names), 1), 3.5 * len(rows) + 0.5))
    for row, position in enumerate(rows):
        for column, name in enumerate(names):
            axis = axes[row, column]
            for i, (run, columns) in enumerate(runs.items()):
                if position not in columns or name not in columns:
                    continue
                x = columns["time"] / 3600 if position == "time" else columns["epoch"]
                label = plain_text(run) if (row, column) == (0, 0) else None
                line = {"marker": ".", "markersize": 4, "color": unit_rgb(colors(i + 1)), "label": label}
                axis.plot(*known_points(x, columns[name]), **line)
            axis.set(title=plain_text(name), xlabel="hours of training" if position == "time" else "epoch")
            axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9)
    save_figure(figure, path, dpi=150)
