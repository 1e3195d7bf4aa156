"""Trains in forked children that kill themselves with SIGKILL at a given moment, then resumes; for test_resume.py.

    python kill_driver.py DATA.yaml FOLDER '[["name", [moment, ...], {options}], ...]'

Options are those of train.py, or with "task" those of segment/train.py or classify/train.py, whose data are in the
folders segment and classify beside DATA.yaml. A moment is [event, n]: the n-th (from 1) time that a callback hook
fires, or that a file is renamed into place ("before NAME", "after NAME"). A training that a moment kills is resumed,
with the next moment.
Prints JSON: name -> {"statuses": exit status of each child, "last": sha256, "best": sha256, "csv": text}.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faster_coco_eval  # noqa: F401  imported before the forks: the children import nothing anew
import yaml
from conftest import with_masks

import classify.train
import extras.evolve.search  # noqa: F401
import segment.train
import train
from engine.options import from_kwargs
from utils.callbacks import HOOKS, Callbacks
from utils.checkpoint import load_checkpoint, state_sha256

MODEL = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16], [24, 24, 40, 40]],
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "nn.Dropout", [0.2]],  # draws from torch's generator in every step
        [-1, 1, "Conv", [24, 3, 2]],
    ],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[3, 4], 1, "Detect", ["nc", "anchors"]]],
}


class Killer:
    """Ends this process, as kill -9 does, at the n-th occurrence of an event."""

    def __init__(self, event: str, n: int):
        self.event, self.left = event, n

    def occur(self, event: str) -> None:
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def callbacks(self) -> Callbacks:
        callbacks = Callbacks()
        if self.event in HOOKS:
            callbacks.register_action(self.event, callback=lambda *args, **kwargs: self.occur(self.event))
        return callbacks

    def watch_renames(self) -> None:
        replace = os.replace

        def watched(source, target):
            self.occur(f"before {Path(target).name}")
            replace(source, target)
            self.occur(f"after {Path(target).name}")

        os.replace = watched


SCRIPTS = {"detect": train, "segment": segment.train, "classify": classify.train}


def first_options(task: str, data: Path) -> dict:
    options = {"imgsz": 64, "epochs": 3, "batch_size": 3, "workers": 0, "noplots": True}
    if task == "classify":
        model = data.parent / "classifier.yaml"
        model.write_text(yaml.safe_dump({**MODEL, "head": [[-1, 1, "Classify", ["nc"]]]}))
        return {**options, "model": str(model), "data": str(data.parent / "classify")}
    if task == "segment":
        return {**options, "cfg": with_masks(MODEL), "data": str(data.parent / "segment" / data.name)}
    return {**options, "cfg": MODEL, "data": str(data)}


def train_in_child(task: str, options: dict, moment) -> int:
    """The exit status of a training in a child process."""
    pid = os.fork()
    if pid == 0:
        try:
            killer = Killer(*moment)
            killer.watch_renames()
            parser = "train" if task == "detect" else f"{task}/train"
            SCRIPTS[task].main(from_kwargs(parser, options), killer.callbacks())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(name: str, moments: list, options: dict, data: str, folder: Path) -> dict:
    run_folder = folder / name
    task = options.pop("task", "detect")
    start = {**first_options(task, Path(data)), "project": str(folder), "name": name, **options}
    statuses = []
    for moment in [*moments, ["never", 0]]:
        resumed = {"resume": str(run_folder / "weights" / "last.pt")}
        statuses.append(train_in_child(task, resumed if statuses else start, moment))
    files = {stem: run_folder / "weights" / f"{stem}.pt" for stem in ("last", "best")}
    result = {stem: state_sha256(load_checkpoint(file).state_dict) for stem, file in files.items()}
    return {**result, "statuses": statuses, "csv": without_times(run_folder / "results.csv")}


def without_times(results_csv: Path) -> str:
    """The text of results.csv but for the last column, which no two runs share."""
    return "\n".join(line.rpartition(",")[0] for line in results_csv.read_text().splitlines())


if __name__ == "__main__":
    data, folder, scenarios = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    results = {name: run(name, moments, options, data, folder) for name, moments, options in scenarios}
    print("\n" + json.dumps(results))
