"""The models of hubconf.py, through torch.hub.load and from the command line."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import hubconf
from models.autoshape import AutoShape
from models.experimental import Ensemble
from models.yolo import DetectionModel
from tests.conftest import ROOT, SHARED, needs_shared
from utils.checkpoint import Checkpoint, save_checkpoint

NAMES = [f"yolov5{size}{level}" for size in "nsmlx" for level in ("", "6")]
EDGEVIT = ["yolov5_edgevit", "yolov5_edgevit_xs", "yolov5_edgevit_s"]
needs_weights = pytest.mark.skipif(
    not (ROOT / "weights" / "edgevit_xxs_shapes.pt").is_file(), reason="needs the embedded weights"
)


def load(name, *args, **kwargs):
    return torch.hub.load(str(ROOT), name, *args, source="local", _verbose=False, **kwargs)


@pytest.fixture
def checkpoint(tmp_path, tiny_model_cfg):
    """The file of a random tiny model with two classes."""
    torch.manual_seed(0)
    model = DetectionModel(tiny_model_cfg)
    path = tmp_path / "best.pt"
    names = {0: "box", 1: "disc"}
    save_checkpoint(path, Checkpoint(model.yaml, names, 2, model.stride.tolist(), model.state_dict(), imgsz=64))
    return path


def test_list_has_the_models_alone():
    """torch.hub.list shows every callable of the file: no helper may be among them."""
    shown = [name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")]
    assert sorted(shown) == sorted(["custom", *NAMES, *EDGEVIT])


@pytest.mark.parametrize("name", [*NAMES, *EDGEVIT])
def test_every_model_has_its_file_and_a_help_text(name):
    assert len(list((ROOT / "models").rglob(f"{name}.yaml"))) == 1
    assert "channels" in getattr(hubconf, name).__doc__


def test_custom(checkpoint):
    model = load("custom", path=checkpoint, device="cpu")
    assert isinstance(model, AutoShape) and model.names == {0: "box", 1: "disc"}
    assert model(np.zeros((50, 60, 3), np.uint8)).s == (1, 3, 64, 64)  # the size of its training
    plain = load("custom", checkpoint, autoshape=False, device="cpu")
    assert isinstance(plain, DetectionModel) and any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())


def test_custom_list_is_an_ensemble(checkpoint):
    """The same model twice: NMS leaves the boxes of one."""
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    results = []
    for path in (str(checkpoint), [checkpoint, checkpoint]):
        model = load("custom", path, device="cpu")
        model.conf = 0.0
        results.append(model(image).xyxy[0])
    assert isinstance(model.model, Ensemble) and len(results[0])
    torch.testing.assert_close(*results)


def test_custom_with_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load("custom", tmp_path / "none.pt", device="cpu")


@pytest.mark.parametrize("name", ["yolov5n", "yolov5_edgevit"])
def test_from_scratch(name):
    model = load(name, pretrained=False, classes=3, device="cpu")
    assert isinstance(model, AutoShape) and model.model.nc == 3 and len(model.names) == 3
    plain = load(name, pretrained=False, channels=1, device="cpu")  # AutoShape is for colour images
    assert isinstance(plain, DetectionModel) and plain.nc == 80
    assert plain.eval()(torch.zeros(1, 1, 64, 64))[0].shape == (1, 252, 85)


def test_weights_that_do_not_exist():
    with pytest.raises(ValueError, match="no weights for yolov5_edgevit_xs yet: use pretrained=False"):
        load("yolov5_edgevit_xs", pretrained=True, device="cpu")
    assert isinstance(load("yolov5_edgevit_xs", device="cpu"), AutoShape)  # so its default is without


def test_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="'class_count'"):
        load("yolov5n", class_count=3)


@needs_shared
def test_pretrained_transfers_what_fits(tmp_path, monkeypatch):
    """A file of the released name in the current folder is used; another number of classes leaves out the head."""
    shutil.copy(SHARED / "weights" / "yolov5n.pt", tmp_path / "yolov5n.pt")
    monkeypatch.chdir(tmp_path)
    official = load("yolov5n", autoshape=False, device="cpu").state_dict()
    model = load("yolov5n", classes=3, autoshape=False, device="cpu")
    differing = [name for name, t in model.state_dict().items() if not torch.equal(t, official[name])]
    assert sorted({name.rsplit(".", 1)[0] for name in differing}) == ["model.24.m.0", "model.24.m.1", "model.24.m.2"]
    assert load("yolov5n", device="cpu").names[0] == "person"


@needs_weights
def test_embedded_weights():
    model = load("yolov5_edgevit", device="cpu")
    assert "0" not in model.names.values() and model.imgsz == model.model.imgsz


@needs_weights
def test_command_line(tmp_path):
    run = subprocess.run([sys.executable, ROOT / "hubconf.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    count = len(list((tmp_path / "runs" / "hub" / "exp").glob("*.jpg")))
    assert count >= 1 and f"image {count}/{count}: " in run.stdout


SCRIPT = """
import sys
import torch
model = torch.hub.load(sys.argv[1], "custom", path=sys.argv[2], source="local", device="cpu")
model.conf, model.max_det = 0.0, 5
results = model([torch.rand(3, 60, 80), torch.rand(3, 90, 50)])
results.print()
results.save()
results.crop()
results.render()
print(results.pandas().xyxy[0].shape, len(results.tolist()), results.s)
"""


def test_everything_works_from_another_folder(tmp_path, checkpoint):
    """torch.hub takes this folder off the import path after loading: nothing may be imported from it later."""
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", SCRIPT, ROOT, checkpoint]
    run = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "(5, 7) 2 (2, 3, 64, 64)" in run.stdout
    files = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "elsewhere").rglob("*.jpg")}
    assert {"elsewhere/runs/detect/exp/image0.jpg", "elsewhere/runs/detect/exp/image1.jpg"} < files
    assert any("/runs/detect/exp2/crops/" in file for file in files)
