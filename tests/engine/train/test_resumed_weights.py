"""--resume with --weights: the run that is named goes on, or one line says how to name it."""

import os
from types import SimpleNamespace

import pytest

from engine.options import from_kwargs
from engine.task import DETECT
from engine.train import resume as module


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs: A and the newer B were interrupted, the older C is finished, and B began with C's weights."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate("CAB"):
        file = tmp_path / "runs" / "train" / name / "weights" / "last.pt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (age, age))

    def load(path):
        name = path.parent.parent.name
        saved = {"weights": "runs/train/C/weights/last.pt" if name == "B" else "yolov5n.pt", "epochs": 7}
        return SimpleNamespace(train_state=None if name == "C" else {}, task="detect", opt=saved)

    monkeypatch.setattr(module, "load_checkpoint", load)


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
    opt, _, folder = module.resume(from_kwargs("train", {"resume": True, **given}), DETECT)
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
        module.resume(from_kwargs("train", {"resume": True, "weights": weights}), DETECT)
