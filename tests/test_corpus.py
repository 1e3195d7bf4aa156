"""The corpus of hostile files through nine entry points: one line that names the file, soon, with little memory.

Some checkpoints are read in the default run; all the rest takes minutes: python -m pytest -m fuzz.
"""

import importlib
import io
import resource
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from conftest import SLOWNESS, write_tiny_classes, write_tiny_dataset

import hubconf
from tests.corpus import write_checkpoints, write_yamls
from utils.checkpoint import load_checkpoint, load_state_dict_file
from utils.console.guard import main_guard

MOST_SECONDS = 1.0 * SLOWNESS  # of the processor
MOST_MB, MOST_CHARACTERS, MOST_LINES = 500, 1500, 30


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, with a data set and a picture beside it."""
    write_tiny_dataset(tmp_path / "tiny")
    write_tiny_classes(tmp_path / "classes")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(script: str, **options) -> Callable[[], object]:
    """Return the call of a script's run() on the CPU, whose results go to ../runs."""
    options = {"device": "cpu", "project": "../runs"} | options
    if script == "export":
        options.pop("project")
    return lambda: importlib.import_module(script).run(**options)


DETECT = {"source": "../tiny/images/val", "nosave": True}
TRAIN = {"data": "../tiny/tiny.yaml", "epochs": 1, "imgsz": 64, "batch_size": 4, "workers": 0, "noplots": True}
VAL = {"data": "../tiny/tiny.yaml", "imgsz": 64, "workers": 0}
CLASSES = {**TRAIN, "data": "../classes", "imgsz": 32}
# entry point -> the call for a file as weights
WEIGHTS: dict[str, Callable[[str], Callable[[], object]]] = {
    "detect": lambda file: run("detect", weights=file, **DETECT),
    "val": lambda file: run("val", weights=file, **VAL),
    "train": lambda file: run("train", weights=file, **TRAIN),
    "export": lambda file: run("export", weights=file, include=["torchscript"]),
    "hub": lambda file: lambda: hubconf.custom(file, _verbose=False),
    "benchmarks": lambda file: run("benchmarks", weights=file, data=VAL["data"], imgsz=64, pt_only=True),
    "classify/predict": lambda file: run("classify.predict", weights=file, **DETECT),
    "classify/train": lambda file: run("classify.train", model=file, **CLASSES),
    "segment/predict": lambda file: run("segment.predict", weights=file, **DETECT),
}
YAML: dict[str, Callable[[str], Callable[[], object]]] = {
    "train --data": lambda file: run("train", **TRAIN | {"data": file, "cfg": "yolov5n.yaml", "weights": "none"}),
    "train --cfg": lambda file: run("train", **TRAIN, cfg=file, weights="none"),
    "train --hyp": lambda file: run("train", **TRAIN, hyp=file, cfg="yolov5n.yaml", weights="none"),
    "val --data": lambda file: run("val", **VAL | {"data": file}),
    "classify/train --data": lambda file: run("classify.train", **CLASSES | {"data": file}, model="edgevit_xxs"),
}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def verdict(call: Callable[[], object], file: str) -> str:
    """Return "refused" for an error of one line that names the file, "used" where there is none, else what is wrong."""
    out, err, start, before = io.StringIO(), io.StringIO(), time.process_time(), peak_mb()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main_guard(call)
    except BaseException as error:
        return f"{type(error).__name__} instead of a line: {str(error)[:200]}"
    lines = [line for line in err.getvalue().splitlines() if "Warning" not in line]
    seconds, megabytes = time.process_time() - start, peak_mb() - before
    if code == 0:
        return "used"
    if seconds > MOST_SECONDS:
        return f"{seconds:.1f} seconds"
    if megabytes > MOST_MB:
        return f"{megabytes:.0f} MB"
    is_short = len(lines) <= MOST_LINES and all(len(line) <= MOST_CHARACTERS for line in lines)  # warnings come first
    if not lines or not lines[-1].startswith("error: ") or not is_short:
        return f"no short line: {err.getvalue()[:300]}"
    return "refused" if Path(file).name in lines[-1] else f"no name of the file: {lines[-1][:200]}"


def go_through(files: list[Path], call: Callable, record_property, name: str) -> None:
    found = {file.name: verdict(call(str(file)), str(file)) for file in files}
    assert not (Path.cwd() / "canary").exists()
    bad = {name: what for name, what in found.items() if what not in ("refused", "used")}
    record_property("counts", f"corpus, {name}: {dict(Counter(found.values()))}")
    assert not bad and found


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("load", [load_checkpoint, load_state_dict_file])
def test_checkpoints_are_refused(folder, tiny_model_cfg, load, step, record_property):
    """A file with weights alone, or with parts of a checkpoint, may be used by what wants tensors alone."""
    files = write_checkpoints(folder, tiny_model_cfg, step)
    load(files[-1])  # Imports are not of the file.
    go_through(files, lambda file: lambda: load(file), record_property, load.__name__)


@pytest.mark.fuzz
@pytest.mark.parametrize("entry", WEIGHTS)
def test_checkpoints_through_entry_points(folder, tiny_model_cfg, entry, record_property):
    files = write_checkpoints(folder, tiny_model_cfg, step=6)
    verdict(WEIGHTS[entry]("none.pt"), "none.pt")
    go_through(files, WEIGHTS[entry], record_property, entry)


@pytest.mark.fuzz
@pytest.mark.parametrize("entry", YAML)
def test_yaml_files_through_entry_points(folder, tiny_model_cfg, entry, record_property):
    files = write_yamls(folder, tiny_model_cfg)
    verdict(YAML[entry]("none.yaml"), "none.yaml")
    go_through(files, YAML[entry], record_property, entry)
