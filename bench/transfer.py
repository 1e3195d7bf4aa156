"""Compare starts: fine-tune each on few pictures for a short time, on data sets that it has not seen.

    python -m bench transfer --sets a.yaml b.yaml                               25, 50 and all pictures, 2 and 8 minutes
    python -m bench transfer --sets a.yaml --starts nothing detector yolov5n --pictures 25 --budgets 2m --seeds 0

A start is a name (nothing, backbone, detector, detector-n, lite0, yolov5n), a checkpoint, or a model file that starts
from random numbers; {set} in it becomes the data file's name without suffix, for starts that each leave one set out.
Every training becomes a row of FOLDER/transfer.csv when it ends, and the same command goes on where it was interrupted;
then transfer.md and transfer.png are written anew. The scores are those of the best epoch on the val split.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.console.text import aligned
from utils.data.config import check_dataset
from utils.data.images import find_images
from utils.files.yaml import save_yaml
from utils.general import ROOT
from utils.plots.charts import read_results

STARTS = {
    "nothing": ["--cfg", "models/yolov5_edgevit.yaml", "--weights", "none"],
    "backbone": [
        *("--cfg", "models/yolov5_edgevit.yaml"),
        *("--backbone-weights", "weights/edgevit_xxs_start.safetensors"),
    ],
    "detector": ["--cfg", "models/yolov5_edgevit.yaml"],
    "detector-n": ["--cfg", "models/yolov5_edgevit_n.yaml"],
    "lite0": ["--cfg", "models/hub/yolov5_lite0.yaml", "--backbone-weights", "efficientnet_lite0"],
    "yolov5n": ["--weights", "yolov5n.pt"],
}
SCORES = {"AP50": "metrics/mAP_0.5", "AP": "metrics/mAP_0.5:0.95"}
DRAWS = 2000  # of the bootstrap


class Case(NamedTuple):
    """One training: names of start and data file, pictures ("all" or a number), time as --budget takes it, seed."""

    start: str
    data: str
    pictures: str
    budget: str
    seed: int


class Score(NamedTuple):
    """The best epoch's scores on val, and the part of the training after which AP had reached 90 % of them."""

    AP50: float
    AP: float
    part_90: float


def parse_opt(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench transfer", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", required=True, metavar="YAML", help="data sets that no start has learned from")
    add("--starts", nargs="+", default=list(STARTS), help="names, checkpoints or model files; {set} is replaced")
    add("--pictures", nargs="+", default=["25", "50", "all"], help="of the training split, drawn with the seed")
    add("--budgets", nargs="+", default=["2m", "8m"], help="times as train.py --budget takes them")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--img", type=int, default=320, help="image size in pixels")
    add("--folder", default=str(ROOT / "bench" / "results" / "transfer"), help="where all files go")
    opt = parser.parse_args(argv)
    for count in opt.pictures:
        if count != "all" and not (count.isdecimal() and int(count) > 0):
            parser.error(f"--pictures: expected 'all' or whole numbers, found {count!r}")
    return opt


def main(opt: argparse.Namespace) -> int:
    folder = Path(opt.folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "transfer.csv"
    done = read(file)
    for case in map(Case._make, product(opt.starts, opt.sets, opt.pictures, opt.budgets, opt.seeds)):
        if case in done:
            continue
        print(f"{' '.join(map(str, case))}: training", flush=True)
        score = measure(case, opt.img, folder)
        if score is None:
            return 1
        append(file, case, score)
        done[case] = score
        print(f"{' '.join(map(str, case))}: AP50 {score.AP50:.3f}, AP {score.AP:.3f}", flush=True)
    (folder / "transfer.md").write_text(markdown(done), encoding="utf-8")
    plot(done, folder / "transfer.png")
    print("\n".join([aligned(table(done), left=(0,)), str(folder / "transfer.md")]))
    return 0


def read(file: Path) -> dict[Case, Score]:
    """Return the trainings that a transfer.csv has; none if there is no such file."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {
            Case(*row[:4], int(row[4])): Score(*map(float, row[5:]))
            for row in list(csv.reader(lines))[1:]
            if len(row) == 8
        }


def append(file: Path, case: Case, score: Score) -> None:
    """Write a row of a transfer.csv, after the heading if there is none."""
    is_new = not file.is_file()
    with file.open("a", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines)
        if is_new:
            rows.writerow([*Case._fields, *Score._fields])
        rows.writerow([*case, *(f"{value:.5f}" for value in score)])


def measure(case: Case, imgsz: int, folder: Path) -> Score | None:
    """Train as a user does, by the command line; None, with the end of its output on stderr, if that fails."""
    name = "-".join([Path(case.start).stem, Path(case.data).stem, case.pictures, case.budget, str(case.seed)])
    data = subset(case, folder / "data" / f"{Path(case.data).stem}-{case.pictures}-{case.seed}.yaml")
    command = [sys.executable, "train.py", *arguments(case), "--data", str(data), "--budget", case.budget]
    command += ["--img", str(imgsz), "--seed", str(case.seed), "--noplots", "--exist-ok"]
    command += ["--project", str(folder.absolute() / "runs"), "--name", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return score_of(folder / "runs" / name / "results.csv")


def arguments(case: Case) -> list[str]:
    """Return the options of train.py that choose the start."""
    if case.start in STARTS:
        return STARTS[case.start]
    file = case.start.replace("{set}", Path(case.data).stem)
    file = str(Path(file).absolute()) if Path(file).exists() else file  # train.py runs in the project's root.
    return ["--cfg", file, "--weights", "none"] if file.endswith((".yaml", ".yml")) else ["--weights", file]


def subset(case: Case, file: Path) -> Path:
    """Write a data file with so many of the training pictures, drawn with the seed, and all others of the data."""
    data = check_dataset(case.data)
    files = find_images(data["train"])
    if case.pictures != "all":
        chosen = np.random.default_rng(case.seed).permutation(len(files))[: int(case.pictures)]
        files = [files[i] for i in sorted(chosen)]
    file.parent.mkdir(parents=True, exist_ok=True)
    images = file.with_suffix(".txt").absolute()
    images.write_text("".join(f"{Path(name).absolute()}\n" for name in files), encoding="utf-8")
    save_yaml(file, {"path": str(images.parent), "train": str(images), "val": data["val"], "names": data["names"]})
    return file.absolute()


def score_of(results_csv: Path) -> Score:
    """Return the scores of the epoch with the best AP in a results.csv."""
    columns = read_results(results_csv)
    scores = {name: np.nan_to_num(columns[column]) for name, column in SCORES.items()}
    best = int(scores["AP"].argmax())
    first_90 = int((scores["AP"] >= 0.9 * scores["AP"][best]).argmax())
    return Score(scores["AP50"][best], scores["AP"][best], (first_90 + 1) / len(scores["AP"]))


def groups(done: dict[Case, Score]) -> Iterator[tuple[str, str, str, dict[str, list[Score]]]]:
    """Yield (start, pictures, budget, {data: scores of the seeds}), in the order of the trainings."""
    keys = dict.fromkeys((case.start, case.pictures, case.budget) for case in done)
    for start, pictures, budget in keys:
        by_set: dict[str, list[Score]] = {}
        for case, score in done.items():
            if (case.start, case.pictures, case.budget) == (start, pictures, budget):
                by_set.setdefault(case.data, []).append(score)
        yield start, pictures, budget, by_set


def mean_and_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval by the bootstrap."""
    values = np.array(list(values))
    draws = np.random.default_rng(0).choice(values, (DRAWS, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def table(done: dict[Case, Score]) -> list[list[str]]:
    """Return the rows with a heading: the mean over sets and seeds with the interval over the sets, and each set."""
    sets = list(dict.fromkeys(case.data for case in done))
    head = ["start", "pictures", "time", "trainings", "AP50", "AP (95 % interval)", "90 % after"]
    rows = [head + [Path(data).stem for data in sets]]
    for start, pictures, budget, by_set in groups(done):
        of_set = {data: np.mean([score[:2] for score in scores], 0) for data, scores in by_set.items()}
        mean, low, high = mean_and_interval(ap for _, ap in of_set.values())
        after = np.mean([score.part_90 for scores in by_set.values() for score in scores])
        each = [f"{of_set[data][0]:.3f} / {of_set[data][1]:.3f}" if data in of_set else "-" for data in sets]
        count = sum(map(len, by_set.values()))
        ap50 = np.mean([ap50 for ap50, _ in of_set.values()])
        figures = [f"{ap50:.3f}", f"{mean:.3f} ({low:.3f} to {high:.3f})", f"{after:.0%}"]
        rows.append([start, pictures, budget, str(count), *figures, *each])
    return rows


def markdown(done: dict[Case, Score]) -> str:
    """Return the table as a page; the sets' columns have AP50 / AP."""
    head, *rows = table(done)
    lines = ["# What a start is worth", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def plot(done: dict[Case, Score], file: Path) -> None:
    """Draw a bar with its interval for each start, beside each other for the same pictures and time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    means = {
        (start, f"{pictures} pictures, {budget}"): mean_and_interval(
            np.mean([s.AP for s in v]) for v in by_set.values()
        )
        for start, pictures, budget, by_set in groups(done)
    }
    starts, places = (list(dict.fromkeys(key[i] for key in means)) for i in (0, 1))
    figure = Figure(figsize=(2 + 2 * len(places), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis, width = figure.subplots(), 0.8 / len(starts)
    for i, start in enumerate(starts):
        known = [(x, means[start, place]) for x, place in enumerate(places) if (start, place) in means]
        heights = np.array([value for _, value in known])
        spans = np.abs(heights[:, 1:] - heights[:, :1]).T
        axis.bar([x + i * width for x, _ in known], heights[:, 0], width, yerr=spans, capsize=3, label=start)
    axis.set_xticks(np.arange(len(places)) + 0.4 - width / 2, places)
    axis.set_ylabel("mAP50-95 on val, mean over the sets")
    axis.legend()
    figure.savefig(file, dpi=120)
