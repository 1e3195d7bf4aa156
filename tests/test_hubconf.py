"""The models of hubconf.py, through torch.hub.load and from the command line."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import hubconf
from extras.hub.autoshape import AutoShape
from models.experimental import Ensemble
from models.yolo import DetectionModel, SegmentationModel
from tests.conftest import ROOT, SHARED, needs_shared
from utils.checkpoint import Checkpoint, save_checkpoint

NAMES = [f"yolov5{size}{level}" for size in "nsmlx" for level in ("", "6")]
EDGEVIT = ["yolov5_edgevit", "yolov5_edgevit_n", "yolov5_edgevit_t", "yolov5_edgevit_xs", "yolov5_edgevit_s"]
SEGMENT = [f"{name}_seg" for name in [*NAMES[::2], *EDGEVIT]]
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
    assert sorted(shown) == sorted(["custom", *NAMES, *EDGEVIT, *SEGMENT])


@pytest.mark.parametrize("name", [*NAMES, *EDGEVIT, *SEGMENT])
def test_every_model_has_its_file_and_a_help_text(name):
    assert len(list((ROOT / "models").rglob(f"{name.replace('_seg', '-seg')}.yaml"))) == 1
    about = getattr(hubconf, name).__doc__
    assert "channels" in about and ("plain model in any case" in about) == name.endswith("_seg")


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


@pytest.mark.parametrize("name", ["yolov5n_seg", "yolov5_edgevit_seg"])
def test_segmentation_from_scratch(name):
    model = load(name, pretrained=False, classes=3, device="cpu")
    assert type(model) is SegmentationModel and model.nc == 3
    predictions, protos, _ = model.eval()(torch.zeros(1, 3, 64, 64))
    assert predictions.shape == (1, 252, 40) and protos.shape == (1, 32, 16, 16)


def test_segmentation_weights(tmp_path, monkeypatch, caplog):
    """A file of the released name in the current folder is used; the model is plain, whatever is asked for."""
    source = SegmentationModel("yolov5n-seg.yaml")
    names = {i: f"thing {i}" for i in range(80)}
    ckpt = Checkpoint(source.yaml, names, 80, source.stride.tolist(), source.state_dict(), task="segment")
    save_checkpoint(tmp_path / "yolov5n-seg.pt", ckpt)
    monkeypatch.chdir(tmp_path)
    model = load("yolov5n_seg", device="cpu")
    assert type(model) is SegmentationModel and model.names == names and "AutoShape" not in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values()))
    asked = load("yolov5n_seg", autoshape=True, device="cpu")
    assert type(asked) is SegmentationModel
    assert "AutoShape is for detection: this is the plain model, for the task 'segment'" in caplog.text
    other = load("yolov5n_seg", classes=3, device="cpu").state_dict()
    fresh = {name.rsplit(".", 1)[0] for name, t in other.items() if not torch.equal(t, source.state_dict()[name])}
    assert fresh == {"model.24.m.0", "model.24.m.1", "model.24.m.2"}, "the prototypes are transferred"


def test_custom_with_a_segmentation_model(tmp_path, tiny_model_cfg, caplog):
    tiny_model_cfg["head"][-1][2:] = ["Segment", ["nc", "anchors", 4, 8]]
    source = SegmentationModel(tiny_model_cfg)
    ckpt = Checkpoint(source.yaml, {0: "box", 1: "disc"}, 2, [8, 16], source.state_dict(), task="segment")
    save_checkpoint(tmp_path / "best-seg.pt", ckpt)
    model = load("custom", tmp_path / "best-seg.pt", device="cpu")
    assert type(model) is SegmentationModel and "AutoShape is for detection" in caplog.text
    caplog.clear()
    plain = load("custom", tmp_path / "best-seg.pt", autoshape=False, device="cpu")
    assert type(plain) is SegmentationModel and "AutoShape" not in caplog.text
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules()), "not fused"


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
