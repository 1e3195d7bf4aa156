"""Charts of a data set, a training and a validation, with matplotlib's Figure objects: no global state, no window."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from utils.files import read_table, write_whole
from utils.plots.curves import SMOOTHING, smooth
from utils.plots.fonts import fitting_fonts
from utils.plots.palette import colors

NAMED_CLASSES = 30  # with more classes, names would not fit beside each other
LEGEND_CLASSES = 20  # with more classes, only the mean curve has a name
RESULT_COLUMNS = (  # in results.csv, as the chart shows them: training above, validation below
    "train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision", "metrics/recall",
    "val/box_loss", "val/obj_loss", "val/cls_loss", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95",
)  # fmt: skip


def new_figure(rows: int = 1, columns: int = 1, size=(9, 6)):
    """Return a figure and its axes, an array [rows, columns]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure, file: Path | str, dpi: int) -> None:
    """Write a figure in the format of the file's suffix, whole or not at all."""
    buffer = io.BytesIO()
    with fitting_fonts(figure):
        figure.savefig(buffer, dpi=dpi, format=Path(file).suffix[1:])
    write_whole(file, buffer.getvalue())


def plain_text(text) -> str:
    """Text that matplotlib takes literally: a dollar sign would start a formula."""
    return str(text).replace("$", r"\$")


def _name_list(names, count: int) -> list[str]:
    """Return the names (list, or mapping from 0) of `count` classes; numbers where there is none."""
    names = dict(names if isinstance(names, dict) else enumerate(names or ()))
    return [plain_text(names.get(i, i)) for i in range(count)]


def plot_labels(labels, names, save_dir) -> None:
    """Write labels.jpg and labels_correlogram.jpg of labels [n, 5]: class, xywh normalised."""
    labels = np.asarray(labels, dtype=np.float64).reshape(-1, 5)
    classes, boxes = labels[:, 0].astype(int), labels[:, 1:]
    nc = max(len(names or ()), classes.max(initial=-1) + 1, 1)
    figure, axes = new_figure(2, 2, size=(10, 10))
    (bars, overlay), (positions, sizes) = axes
    bars.bar(range(nc), np.bincount(classes, minlength=nc), color=[unit_rgb(colors(i)) for i in range(nc)])
    bars.set_ylabel("instances")
    if nc <= NAMED_CLASSES:
        bars.set_xticks(range(nc), _name_list(names, nc), rotation=90, fontsize=10)
    else:
        bars.set_xlabel("class")
    overlay.imshow(_boxes_on_one_centre(classes, boxes[:, 2:]))
    overlay.set_axis_off()
    for axis, (first, second), (x, y) in ((positions, (0, 1), "xy"), (sizes, (2, 3), ("width", "height"))):
        axis.hist2d(boxes[:, first], boxes[:, second], bins=50, range=[[0, 1], [0, 1]], cmap="Blues")
        axis.set(xlabel=x, ylabel=y)
    positions.invert_yaxis()  # y points down in images
    save_figure(figure, Path(save_dir) / "labels.jpg", dpi=150)
    _plot_correlogram(boxes, Path(save_dir) / "labels_correlogram.jpg")


def unit_rgb(color) -> tuple:
    return tuple(channel / 255 for channel in color)


def _boxes_on_one_centre(classes, wh, side: int = 1000, count: int = 1000) -> np.ndarray:
    """Draw on white, uint8 RGB, (a sample of) the boxes of normalised sizes [n, 2], all with the same centre."""
    import cv2

    picture = np.full((side, side, 3), 255, np.uint8)
    sample = np.linspace(0, len(wh) - 1, min(count, len(wh))).astype(int)
    for cls, (w, h) in zip(classes[sample], (wh[sample] * side / 2).round().astype(int)):
        middle = side // 2
        cv2.rectangle(picture, (middle - w, middle - h), (middle + w, middle + h), colors(cls), 1, cv2.LINE_AA)
    return picture


def _plot_correlogram(boxes: np.ndarray, file: Path) -> None:
    """Draw two-dimensional histograms of every pair of x, y, width, height; on the diagonal the plain ones."""
    titles = ("x", "y", "width", "height")
    figure, axes = new_figure(4, 4, size=(10, 10))
    for row in range(4):
        for column in range(4):
            axis = axes[row, column]
            if column > row:
                axis.set_axis_off()
            elif column == row:
                axis.hist(boxes[:, row], bins=50, range=(0, 1), color=unit_rgb(colors(1)))
                axis.set_yticks([])
            else:
                axis.hist2d(boxes[:, column], boxes[:, row], bins=50, range=[[0, 1], [0, 1]], cmap="Blues")
            if row == 3:
                axis.set_xlabel(titles[column])
            if column == 0:
                axis.set_ylabel(titles[row])
    save_figure(figure, file, dpi=100)


def read_results(file) -> dict[str, np.ndarray]:
    """Return the columns of a CSV file with a heading, as floats; what is missing or no number becomes nan."""
    rows = [row for row in read_table(file) if row]
    if not rows:
        raise ValueError(f"{file}:1: expected a heading with the names of the columns, found an empty file")
    heading, *rows = rows
    return {name: np.array([_number(row[i] if i < len(row) else "") for row in rows]) for i, name in enumerate(heading)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def known_points(x: np.ndarray, y: np.ndarray) -> tuple:
    """Return the points whose y is finite: not every epoch has a validation."""
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _moving_average(y: np.ndarray, half: int) -> np.ndarray:
    """Mean of the values within `half` steps of each."""
    return np.array([np.mean(y[max(i - half, 0) : i + half + 1]) for i in range(len(y))])


def plot_results(csv_path) -> Path:
    """Draw the losses and metrics of a results.csv over the epochs: results.png beside it. Returns that path."""
    csv_path = Path(csv_path)
    results = read_results(csv_path)
    names = [name for name in RESULT_COLUMNS if name in results]
    names += [name for name in results if name not in (*names, "epoch", "time") and not name.startswith("x/")]
    epochs = results.get("epoch", np.arange(len(next(iter(results.values()), ()))))
    rows = max(-(-len(names) // 5), 1)
    figure, axes = new_figure(rows, 5, size=(15, 3 * rows))
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names):
        x, values = known_points(epochs, results[name])
        axis.plot(x, values, marker=".", markersize=5 if len(epochs) < 100 else 2, linewidth=1.5, label="epochs")
        if len(values) >= 10:
            smoothed = _moving_average(values, half=max(len(values) // 20, 2))
            axis.plot(x, smoothed, ":", linewidth=2, label="smoothed")
        axis.set_title(plain_text(name), fontsize=11)
        axis.grid(alpha=0.3)
    if len(epochs) >= 10:
        axes.flat[0].legend()
    file = csv_path.with_suffix(".png")
    save_figure(figure, file, dpi=150)
    return file


def plot_pr_curve(px, py, ap50, path="pr_curve.png", names=()) -> None:
    """Precision over recall: px [n] recall, py [k, n] precision of k classes, ap50 [k]; row i is the class names[i]."""
    py, ap50 = np.asarray(py, dtype=np.float64).reshape(-1, len(px)), np.asarray(ap50, dtype=np.float64)
    ap50 = ap50[:, 0] if ap50.ndim == 2 else ap50  # [k, IoU thresholds] is understood as well
    mean = f"all classes {ap50.mean():.3f} mAP@0.5" if len(ap50) else "no classes"
    labels = [f"{name} {ap:.3f}" for name, ap in zip(_name_list(names, len(py)), ap50)]
    _plot_curves(px, py, path, labels, mean, "Recall", "Precision")


def plot_mc_curve(px, py, path="mc_curve.png", names=(), xlabel="Confidence", ylabel="Metric") -> None:
    """Draw a metric over confidence: px [n], py [k, n] for k classes; row i is the class names[i]."""
    py = np.asarray(py, dtype=np.float64).reshape(-1, len(px))
    mean = "no classes"
    if len(py):
        best = smooth(py.mean(0), SMOOTHING).argmax()
        mean = f"all classes {py.mean(0)[best]:.2f} at {px[best]:.3f}"
    _plot_curves(px, py, path, _name_list(names, len(py)), mean, xlabel, ylabel)


def _plot_curves(px, py, path, labels, mean_label, xlabel, ylabel) -> None:
    figure, axes = new_figure(size=(9, 6))
    axis = axes[0, 0]
    for i, (y, label) in enumerate(zip(py, labels)):
        if len(py) <= LEGEND_CLASSES:
            axis.plot(px, y, linewidth=1, color=unit_rgb(colors(i)), label=label)
        else:
            axis.plot(px, y, linewidth=1, color="lightgrey")
    if len(py):
        axis.plot(px, py.mean(0), linewidth=3, color="black", label=plain_text(mean_label))
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.01), title=f"{ylabel} over {xlabel.lower()}")
    axis.grid(alpha=0.3)
    if len(py):
        figure.legend(loc="outside right upper", fontsize=9)
    save_figure(figure, path, dpi=150)


def plot_confusion_matrix(matrix, path, names=(), normalize: bool = True, background: bool = True) -> None:
    """Draw counts of predicted (row) against true (column) class.

    They are [nc + 1, nc + 1], the last of each being the background, or without it [nc, nc]. `normalize` makes each
    column sum to 1.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    nc = len(matrix) - background
    if normalize:
        matrix = matrix / np.maximum(matrix.sum(0, keepdims=True), 1e-9)
    labels = [*_name_list(names, nc), *["background"] * background]
    inches = min(max(6, 4 + 0.4 * nc), 20)
    figure, axes = new_figure(size=(inches + 1.5, inches))
    axis = axes[0, 0]
    largest = 1.0 if normalize else max(matrix.max(), 1.0)
    shown = np.where(matrix < 0.005, np.nan, matrix)  # zeros stay white
    figure.colorbar(axis.imshow(shown, cmap="Blues", vmin=0, vmax=largest, aspect="auto"), ax=axis, fraction=0.05)
    if nc <= NAMED_CLASSES:
        for row, column in zip(*np.nonzero(~np.isnan(shown))):
            value = matrix[row, column]
            color = "white" if value > 0.5 * largest else "black"
            text = f"{value:.2f}" if normalize else f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=12 if nc < 10 else 8)
    if nc < 100:
        size = 11 if nc <= NAMED_CLASSES else 7
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
        axis.set_yticks(range(len(labels)), labels, fontsize=size)
    title = "Confusion matrix" + (", columns normalised" if normalize else "")
    axis.set(xlabel="true", ylabel="predicted", title=title)
    save_figure(figure, path, dpi=150 if nc < 50 else 100)


def plot_evolve(evolve_csv="evolve.csv") -> Path:
    """Draw fitness over each hyperparameter of an evolve.csv, the best marked, and return evolve.png's path."""
    evolve_csv = Path(evolve_csv)
    columns = read_results(evolve_csv)
    fitness = 0.1 * columns["metrics/mAP_0.5"] + 0.9 * columns["metrics/mAP_0.5:0.95"]
    keys = [key for key in columns if not key.startswith(("metrics/", "val/", "train/", "x/")) and key != "generation"]
    rows = max(-(-len(keys) // 6), 1)
    figure, axes = new_figure(rows, 6, size=(15, 2.5 * rows))
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    best = int(np.nanargmax(fitness)) if np.isfinite(fitness).any() else None
    for axis, key in zip(axes.flat, keys):
        # later trials are lighter
        axis.scatter(columns[key], fitness, c=np.arange(len(fitness)), cmap="viridis", s=20, alpha=0.8)
        title = key
        if best is not None:
            axis.plot(columns[key][best], fitness[best], "+", markersize=15, color="red")
            title = f"{key} {columns[key][best]:.3g}"
        axis.set_title(plain_text(title), fontsize=9)
        axis.tick_params(labelsize=7)
    file = evolve_csv.with_suffix(".png")
    save_figure(figure, file, dpi=150)
    return file


def plot_val_study(rows, path="study.png", label="") -> None:
    """Draw mAP over time of the same model at several image sizes.

    rows: [k, 4] image size in pixels, mAP50, mAP50-95 (0..1), milliseconds an image.
    """
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    figure, axes = new_figure(1, 2, size=(12, 5))
    for axis, column, title in ((axes[0, 0], 1, "mAP@0.5"), (axes[0, 1], 2, "mAP@0.5:0.95")):
        axis.plot(table[:, 3], table[:, column] * 100, "o-", label=plain_text(label))
        for imgsz, *_, ms in table:
            value = table[table[:, 0] == imgsz][0, column] * 100
            axis.annotate(f"{imgsz:.0f}", (ms, value), textcoords="offset points", xytext=(4, -12), fontsize=9)
        axis.set(xlabel="time (ms/image)", ylabel=f"{title} (%)")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        if label:
            axis.legend()
    save_figure(figure, path, dpi=150)


def plot_lr(lr_of_epoch, epochs: int, save_dir=".") -> None:
    """Write LR.png: a learning rate, or its factor, as a function of the epoch."""
    figure, axes = new_figure(size=(7, 4))
    axes[0, 0].plot(range(epochs), [lr_of_epoch(epoch) for epoch in range(epochs)], ".-")
    axes[0, 0].set(xlabel="epoch", ylabel="learning rate", xlim=(0, epochs))
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].grid(alpha=0.3)
    save_figure(figure, Path(save_dir) / "LR.png", dpi=120)
