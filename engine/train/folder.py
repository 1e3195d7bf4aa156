"""The folder of one training run: checkpoints, results.csv, option files and pictures."""

import argparse
import math
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from utils import dist
from utils.callbacks import Callbacks
from utils.console.text import brief
from utils.extras import has_extra, load_extra
from utils.files import read_table, write_atomic
from utils.files.yaml import save_yaml
from utils.general import increment_path

LR_COLUMNS = ("x/lr0", "x/lr1", "x/lr2")
# options that say where or how a run was started, not what it is
NOT_SAVED = ("resume", "save_dir", "local_rank", "profile")


class RunFolder:
    """Paths and files of a run of a task (engine.task.Task)."""

    def __init__(self, folder: Path, task):
        self.folder = Path(folder)
        self.weights = self.folder / "weights"
        self.last = self.weights / "last.pt"
        self.best = self.weights / "best.pt"
        self.results_csv = self.folder / "results.csv"
        names = [f"train/{name}" for name in task.loss_names] + [f"metrics/{name}" for name in task.metric_names]
        self.columns = (*names, *(f"val/{name}" for name in task.loss_names), *LR_COLUMNS)

    def write_options(self, opt: argparse.Namespace, hyp: dict) -> None:
        """Write hyp.yaml and opt.yaml, and make room for the checkpoints."""
        self.weights.mkdir(exist_ok=True)
        save_yaml(self.folder / "hyp.yaml", hyp)
        save_yaml(self.folder / "opt.yaml", {**plain_options(opt), "save_dir": str(self.folder)})

    def write_results(self, rows: list[list[float]], seconds: list[float]) -> None:
        """Write results.csv anew: a row [epoch, *values of self.columns] for each epoch, and when it ended."""
        lines = [",".join(("epoch", *self.columns, "time"))]
        lines += [
            ",".join([f"{row[0]:d}", *(f"{value:.5g}" for value in row[1:]), f"{end:.1f}"])
            for row, end in zip(rows, seconds)
        ]
        write_atomic(self.results_csv, ("\n".join(lines) + "\n").encode())

    def read_seconds(self, epochs: int) -> list[float]:
        """Return the `time` of the first epochs in results.csv; 0 for those that it does not have.

        ValueError with file and line where it is no number of seconds.
        """
        heading, *rows = (self.results_csv.is_file() and read_table(self.results_csv)) or [[]]
        column = heading.index("time") if "time" in heading else None
        seconds = []
        for line, row in enumerate(rows[:epochs], start=2):
            text = "0" if column is None else row[column] if column < len(row) else ""
            seconds.append(self._seconds(text, line))
        return seconds + [max(seconds, default=0.0)] * (epochs - len(seconds))

    def _seconds(self, text: str, line: int) -> float:
        with suppress(ValueError):
            if math.isfinite(value := float(text)):
                return value
        where = f"{self.results_csv}:{line}"
        raise ValueError(
            f"{where}: expected seconds in the column 'time', found {brief(text)}: mend or remove the file"
        )


def create_run_folder(opt: argparse.Namespace) -> Path:
    """Make PROJECT/NAME (NAME2 ... if it exists and --exist-ok was not given); the same folder in every rank."""
    folder = None
    if dist.is_main():
        folder = increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)
    return dist.broadcast_object(folder)


def plain_options(opt: argparse.Namespace) -> dict:
    """Return the options that a checkpoint stores, as plain data: two equal runs store equal bytes."""
    return {key: _plain(value) for key, value in vars(opt).items() if key not in NOT_SAVED}


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def attach_loggers(opt: argparse.Namespace, run: RunFolder, callbacks: Callbacks) -> None:
    """Let the loggers of --logger follow the run; without the flag TensorBoard alone, where it is installed."""
    names = opt.logger if dist.is_main() and not opt.evolve else []
    if names is None:
        names = ["tensorboard"] if find_spec("tensorboard") and has_extra("loggers") else []
    if names:
        load_extra("loggers").attach(names, run.folder, run.columns, plain_options(opt), callbacks)
