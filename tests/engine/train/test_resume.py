"""Resume after kill -9 gives, bit for bit, the weights of the run that was never interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, write_tiny_classes, write_tiny_dataset
from kill_driver import MODEL

from engine.options import from_kwargs
from engine.task import DETECT
from engine.train.resume import merge_options, resume
from tests.utils.test_checkpoint import make_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint

HYP = {"warmup_epochs": 1.0, "mixup": 0.5, "degrees": 10.0}
AUGMENTED = {"optimizer": "AdamW", "image_weights": True, "multi_scale": True, "hyp": HYP}
MASKS = {"warmup_epochs": 1.0, "mixup": 0.5, "degrees": 10.0, "copy_paste": 0.5}
MIXED = {"task": "classify", "hyp": {"mixup": 0.5, "cutmix": 0.5, "randaugment": 2}, "dropout": 0.2}
# last.pt is written before the first epoch, after each one, and once more, stripped, at the end
# name, moments at which the run is killed, options. 3 epochs of 3 batches (8 images in batches of 3)
SCENARIOS = [
    ("whole", [], {}),
    ("again", [], {}),
    ("warm-up", [["on_train_batch_end", 2]], {}),
    ("middle-of-an-epoch", [["on_train_batch_end", 5]], {}),
    ("validation", [["on_val_batch_end", 2]], {}),
    ("saving-last", [["before last.pt", 3]], {}),
    ("between-best-and-last", [["after best.pt", 2]], {}),
    ("after-last", [["after last.pt", 3]], {}),
    ("writing-results", [["before results.csv", 2]], {}),
    ("final-validation", [["on_val_start", 4]], {}),
    ("between-the-strips", [["before last.pt", 5], ["before last.pt", 1]], {}),
    ("three-times", [["on_train_batch_end", 1], ["on_train_batch_end", 4], ["on_val_start", 1]], {}),
    ("augmented", [], AUGMENTED),
    ("augmented-killed", [["on_train_batch_end", 5], ["on_val_end", 1]], {**AUGMENTED, "workers": 1}),
    ("early-stop", [], {"patience": 1, "epochs": 6}),
    ("early-stop-killed", [["after last.pt", 3]], {"patience": 1, "epochs": 6}),
    ("segment", [], {"task": "segment", "hyp": MASKS}),
    ("segment-killed", [["on_train_batch_end", 5], ["on_val_batch_end", 1]], {"task": "segment", "hyp": MASKS}),
    ("classify", [], MIXED),
    ("classify-killed", [["on_train_batch_end", 5], ["after last.pt", 1]], {**MIXED, "workers": 1}),
]
SAME = {name: name.removesuffix("-killed") for name, _, _ in SCENARIOS if name.endswith("-killed")}  # others: "whole"
KILLED = [name for name, moments, _ in SCENARIOS if moments]
QUICK = ["whole", "again", "augmented", "early-stop", "warm-up", "saving-last", "three-times", "augmented-killed"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return driven(tmp_path_factory, [scenario for scenario in SCENARIOS if scenario[0] in QUICK])


@pytest.fixture(scope="module")
def all_results(tmp_path_factory):
    return driven(tmp_path_factory, SCENARIOS)


def driven(tmp_path_factory, scenarios) -> dict:
    """Return what the driver's trainings gave: one process, so that torch is imported once."""
    folder = tmp_path_factory.mktemp("kills")
    data = write_tiny_dataset(folder / "tiny")
    write_tiny_dataset(data.parent / "segment", polygons=True)
    write_tiny_classes(data.parent / "classify")
    command = [sys.executable, str(ROOT / "tests" / "kill_driver.py"), str(data), str(folder / "runs")]
    done = subprocess.run(
        [*command, json.dumps(scenarios)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [name for name in KILLED if name in QUICK])
def test_a_killed_and_resumed_run_gives_the_same_weights(results, name):
    assert_same_as_whole(results, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KILLED if name not in QUICK])
def test_so_it_does_at_any_other_moment_and_for_any_task(all_results, name):
    assert_same_as_whole(all_results, name)


def assert_same_as_whole(results: dict, name: str) -> None:
    run, whole = results[name], results[SAME.get(name, "whole")]
    moments = next(moments for other, moments, _ in SCENARIOS if other == name)
    assert run["statuses"] == [-signal.SIGKILL] * len(moments) + [0]
    assert run["last"] == whole["last"]
    assert run["best"] == whole["best"]
    assert run["csv"] == whole["csv"]


def test_one_seed_gives_the_same_weights_twice(results):
    assert results["again"] == results["whole"]


def test_options_change_the_weights(results):
    """So that equality above means something."""
    assert len({results[name]["last"] for name in ("whole", "augmented", "early-stop")}) == 3


def start(folder: Path, *arguments) -> subprocess.Popen:
    """train.py in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def signal_after_epochs(process, results_csv: Path, epochs: int, number: int) -> str:
    """Send a signal to the whole group as soon as the run has recorded so many epochs; returns the output."""
    while not (results_csv.is_file() and len(results_csv.read_text().splitlines()) > epochs):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    os.killpg(process.pid, number)
    return process.communicate()[0]


def test_command_line_killed_then_interrupted_then_resumed(tmp_path):
    write_tiny_dataset(tmp_path / "tiny")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    run = tmp_path / "runs/train/exp"
    options = "--cfg model.yaml --data tiny/tiny.yaml --img 64 --epochs 60 --batch-size 4 --workers 1 --noplots".split()

    signal_after_epochs(start(tmp_path, *options), run / "results.csv", 2, signal.SIGKILL)
    done = load_checkpoint(run / "weights/last.pt").epoch + 1
    assert 1 <= done < 60

    process = start(tmp_path, "--resume", "--workers", "0")
    output = signal_after_epochs(process, run / "results.csv", done + 2, signal.SIGINT)
    assert process.returncode == 130, output
    assert f"resumed, {done} done" in output
    assert "go on with" in output and f"--resume {run.resolve()}/weights/last.pt" in output
    assert load_checkpoint(run / "weights/last.pt").epoch + 1 > done

    process = start(tmp_path, "--resume", "--weights", str(run / "weights/last.pt"))  # as if --resume had the path
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert len((run / "results.csv").read_text().splitlines()) == 61
    with pytest.raises(ValueError, match="no training state.*finished.*--weights"):
        resume(from_kwargs("train", {"resume": str(run / "weights/last.pt")}), DETECT)


def test_a_signal_for_the_whole_group_leaves_no_traceback(tmp_path):
    """As systemd and timeout send it: the data-loading process ends, too."""
    write_tiny_dataset(tmp_path / "tiny")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    options = (
        "--cfg model.yaml --data tiny/tiny.yaml --img 64 --epochs 900 --batch-size 4 --workers 1 --noplots".split()
    )
    process = start(tmp_path, *options)
    output = signal_after_epochs(process, tmp_path / "runs/train/exp/results.csv", 2, signal.SIGTERM)
    assert process.returncode in (143, 1) and "Traceback" not in output, output
    assert load_checkpoint(tmp_path / "runs/train/exp/weights/last.pt").train_state is not None


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, None),
        ({"device": "cpu", "workers": 0}, None),  # where and how it runs may change
        ({"epochs": 5}, None),  # given again with the same value
        ({"epochs": 9}, "--epochs"),  # what it computes may not
        ({"multi_scale": True, "imgsz": 96}, "--imgsz, --multi-scale"),
    ],
)
def test_options_of_a_resumed_run(given, error):
    saved = {**vars(from_kwargs("train", {"epochs": 5, "imgsz": 64, "workers": 3}))}
    opt = from_kwargs("train", {"resume": True, **given})
    if error:
        with pytest.raises(ValueError, match=error):
            merge_options(opt, saved, DETECT)
        return
    merged = merge_options(opt, saved, DETECT)
    assert isinstance(merged, Namespace)
    assert (merged.epochs, merged.imgsz) == (5, 64)
    assert merged.workers == given.get("workers", 3)
    assert merged.device == given.get("device", "")


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        (True, FileNotFoundError, "no runs/train"),  # --resume alone, and no run here
        ("nothing/weights/last.pt", FileNotFoundError, "no file nothing/weights/last.pt"),
        ("last.pt", ValueError, "expected RUN_FOLDER/weights/last.pt"),  # taken out of its run folder
    ],
)
@pytest.mark.parametrize("by_weights", [False, True])
def test_nothing_to_resume(tmp_path, monkeypatch, path, error, words, by_weights):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "engine.train.resume.latest_run", lambda pattern: None
    )  # the project's own runs do not count here
    Path("last.pt").write_bytes(b"x")
    with pytest.raises(error, match=words):
        options = {"resume": True, "weights": path} if by_weights and path is not True else {"resume": path}
        resume(from_kwargs("train", options), DETECT)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs: A and the newer B were interrupted, the older C is finished, and B began with C's weights."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate("CAB"):
        file = tmp_path / "runs" / "train" / name / "weights" / "last.pt"
        file.parent.mkdir(parents=True)
        saved = {"weights": "runs/train/C/weights/last.pt" if name == "B" else "yolov5n.pt", "epochs": 7}
        save_checkpoint(file, make_checkpoint(opt=saved, train_state=None if name == "C" else {}))
        os.utime(file, (age, age))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, "B"),
        ({"weights": "runs/train/A/weights/last.pt"}, "A"),
        ({"resume": "runs/train/A/weights/last.pt"}, "A"),
        ({"weights": "runs/train/C/weights/last.pt"}, "B"),  # B's own command once more, with --resume
    ],
)
def test_the_named_run_goes_on(runs, given, expected):
    opt, _, folder = resume(from_kwargs("train", {"resume": True, **given}), DETECT)
    assert folder.name == expected and opt.epochs == 7
    assert opt.weights == ("yolov5n.pt" if expected == "A" else "runs/train/C/weights/last.pt")  # the run's own


@pytest.mark.parametrize(
    "weights, error, words",
    [
        ("best.pt", ValueError, "--weights cannot change; to go on with another run: --resume RUN_FOLDER/weights/last"),
        ("runs/train/D/weights/last.pt", FileNotFoundError, "--resume: no file runs/train/D/weights/last.pt"),
    ],
)
def test_weights_that_name_no_interrupted_run(runs, weights, error, words):
    with pytest.raises(error, match=words):
        resume(from_kwargs("train", {"resume": True, "weights": weights}), DETECT)
