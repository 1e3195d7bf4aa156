"""AP against latency: trainings joined with the measured latencies of their model files."""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import transfer
from bench.latency_report import markdown_table
from extras.latency.figures import Figure
from utils.console.text import aligned, brief
from utils.files import write_whole
from utils.files.yaml import load_yaml
from utils.plots.charts import new_figure, plain_text, save_figure, unit_rgb
from utils.plots.palette import colors


class Run(NamedTuple):
    """A training: the model file's name without suffix, its image size, data set, time (--budget) or epochs, scores."""

    model: str
    size_px: int
    data: str
    effort: str
    seed: int
    AP50: float
    AP: float


def train(opt: argparse.Namespace, folder: Path) -> list[Path]:
    """Train every model with every seed at every size for the same time, and return the run folders.

    What was trained before is not trained again: `bench.transfer` does the work. RuntimeError if a training fails.
    """
    runs = []
    for size in opt.sizes:
        place = folder / f"accuracy-{size}"
        command = ["--sets", opt.train, "--starts", *map(str, opt.models), "--pictures", "all", "--budgets", opt.budget]
        command += ["--seeds", *map(str, opt.seeds), "--img", str(size), "--folder", str(place)]
        if transfer.main(transfer.parse_opt(command)):
            raise RuntimeError(f"{place}: a training failed, see above")
        runs += sorted((place / "runs").iterdir())
    return runs


def read_runs(paths) -> list[Run]:
    """Return the trainings in run folders, or of their results.csv. ValueError or OSError for what is none."""
    runs = []
    for path in map(Path, paths):
        folder = path.parent if path.is_file() else path
        opt = load_yaml(folder / "opt.yaml")
        size = opt.get("imgsz")
        if type(size) is not int:
            raise ValueError(f"{folder / 'opt.yaml'}: imgsz: expected a whole number of pixels, found {brief(size)}")
        try:
            score = transfer.score_of(folder / "results.csv")
        except KeyError as error:
            raise ValueError(
                f"{folder / 'results.csv'}: expected a detector's columns, found none called {error}"
            ) from None
        model = Path(str(opt.get("cfg") or opt.get("weights") or folder.name)).stem
        effort = str(opt.get("budget") or f"{opt.get('epochs')} epochs")
        data = Path(str(opt.get("data"))).stem
        data = data.removesuffix(f"-all-{opt.get('seed')}")  # as bench.transfer calls its copies
        runs.append(Run(model, size, data, effort, int(opt.get("seed", 0)), score.AP50, score.AP))
    return runs


def write_curve(runs: list[Run], figures: list[Figure], folder: Path) -> str:
    """Write accuracy.md and accuracy.png; return the table for the console."""
    rows = joined(runs, figures)
    names = list(dict.fromkeys(name for row in rows for name in row["ms"]))
    heading = (
        "model",
        "px",
        "data",
        "training",
        "seeds",
        "AP50",
        "AP (least to greatest)",
        *(f"{n}, ms" for n in names),
    )
    cells = []
    for row in rows:
        ap = f"{np.mean(row['AP']):.3f} ({min(row['AP']):.3f} to {max(row['AP']):.3f})"
        times = [f"{row['ms'][name]:.1f}" if name in row["ms"] else "-" for name in names]
        about = [row["model"], str(row["size_px"]), row["data"], row["effort"], str(len(row["AP"]))]
        cells.append([*about, f"{np.mean(row['AP50']):.3f}", ap, *times])
    what = "AP is that of the best epoch on the val split, the mean over the seeds; a latency is the median."
    write_whole(folder / "accuracy.md", f"# AP against latency\n\n{what}\n\n{markdown_table(heading, cells)}\n")
    if names:
        plot(rows, names, folder / "accuracy.png")
    return "\n".join([aligned([heading, *cells], left=(0, 2, 3)), str(folder / "accuracy.md")])


def joined(runs: list[Run], figures: list[Figure]) -> list[dict]:
    """Return a row for each model, size, data set and training: its scores, and {runtime: ms} at the same size."""
    groups = defaultdict(list)
    for run in runs:
        groups[run[:4]].append(run)
    rows = []
    for (model, size, data, effort), own in groups.items():
        ms = {
            f"{figure.title}, {figure.threads} thread{'s' * (figure.threads != 1)}": figure.median_ms
            for figure in figures
            if (figure.model, figure.size_px) == (model, size) and figure.median_ms is not None
        }
        scores = {"AP50": [run.AP50 for run in own], "AP": [run.AP for run in own]}
        rows.append({"model": model, "size_px": size, "data": data, "effort": effort, **scores, "ms": ms})
    return rows


def plot(rows: list[dict], names: list[str], file: Path) -> None:
    """Draw a panel for each runtime: AP over milliseconds, a point for each model with the range over its seeds."""
    columns = min(len(names), 4)
    lines = -(-len(names) // columns)
    figure, axes = new_figure(lines, columns, size=(1.5 + 3.2 * columns, 3 * lines))
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names):
        for i, row in enumerate(rows):
            if name not in row["ms"]:
                continue
            mean = float(np.mean(row["AP"]))
            span = [[mean - min(row["AP"])], [max(row["AP"]) - mean]]
            label = plain_text(f"{row['model']}, {row['size_px']} px")
            axis.errorbar(row["ms"][name], mean, yerr=span, fmt="o", capsize=3, color=unit_rgb(colors(i)), label=label)
        axis.set(xlabel="ms", title=name)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("AP on val")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    save_figure(figure, file, dpi=110)
