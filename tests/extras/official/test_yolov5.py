"""Official checkpoints, and pickles written as YOLOv5 writes them: all that is in them, and nothing is built."""

import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT, needs_shared
from tests.utils.test_checkpoint import OFFICIAL, assert_equal
from utils.checkpoint import load_checkpoint, load_state_dict_file, save_checkpoint


@needs_shared
def test_official_checkpoint():
    """The published YOLOv5n: v6, class Model, names as list, half precision."""
    ckpt = load_checkpoint(OFFICIAL)
    buffers = ("running_mean", "running_var", "num_batches_tracked", "anchors")
    assert sum(v.numel() for k, v in ckpt.state_dict.items() if not k.endswith(buffers)) == 1_872_157
    assert len(ckpt.state_dict) == 349
    assert (list(ckpt.state_dict)[0], ckpt.stride, ckpt.nc) == ("model.0.conv.weight", [8.0, 16.0, 32.0], 80)
    assert ckpt.state_dict["model.24.anchors"].shape == (3, 3, 2)
    assert ckpt.state_dict["model.0.conv.weight"].dtype == torch.float16
    assert (ckpt.names[0], ckpt.names[79], len(ckpt.names)) == ("person", "toothbrush", 80)
    assert ckpt.yaml["width_multiple"] == 0.25 and ckpt.yaml["head"][-1][2] == "Detect" and ckpt.hyp["lr0"] == 0.01
    assert ckpt.task == "detect" and 0.2 < ckpt.best_fitness < 0.4 and ckpt.train_state is None


# Makes pickles like those of YOLOv5 v6 and v7, with classes of its own under YOLOv5's names.
WRITE_LIKE_YOLOV5 = """
import argparse, pathlib, sys, types
import numpy as np, torch
from torch import nn

folder = pathlib.Path(sys.argv[1])
for name in ("models", "models.yolo", "models.common"):
    sys.modules[name] = types.ModuleType(name)

def published(module):
    def register(cls):
        cls.__module__ = module
        cls.__qualname__ = cls.__name__
        setattr(sys.modules[module], cls.__name__, cls)
        return cls
    return register

@published("models.common")
class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.SiLU()

@published("models.yolo")
class Detect(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.ones(1, 3, 2))
        self.register_buffer("anchor_grid", torch.ones(1, 1, 3, 1, 1, 2))
        self.register_buffer("secret", torch.ones(1), persistent=False)
        self.m = nn.ModuleList([nn.Conv2d(4, 21, 1)])
        self.grid = [torch.zeros(1)]

class Base(nn.Module):
    def __init__(self, names, fill):
        super().__init__()
        self.model = nn.Sequential(Conv(), Detect())
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [4]]], "head": [[-1, 1, "Detect", ["nc", "anchors"]]]}
        self.names, self.nc, self.stride = names, 2, torch.tensor([8.0])
        self.hyp = {"lr0": np.float64(0.01)}
        self.class_weights = torch.ones(2, dtype=torch.float64)
        nn.init.constant_(self.model[0].conv.weight, fill)

Model = published("models.yolo")(type("Model", (Base,), {}))
DetectionModel = published("models.yolo")(type("DetectionModel", (Base,), {}))
SegmentationModel = published("models.yolo")(type("SegmentationModel", (DetectionModel,), {}))
names = {0: "a", 1: "b"}
files = {
    "v6": {"epoch": -1, "best_fitness": np.array([0.5]), "model": Model(["a", "b"], 1).half(), "ema": None,
           "updates": None, "optimizer": None, "wandb_id": None},
    "v7": {"epoch": 3, "best_fitness": np.float64(0.5), "model": DetectionModel(names, 1),
           "ema": DetectionModel(names, 2).half(), "updates": 10, "opt": {"imgsz": 416, "save_dir": "runs/x"},
           "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
           "git": {"remote": None}, "date": "2023-01-01T00:00:00"},
    "namespace": {"epoch": np.int64(3), "best_fitness": torch.tensor(0.5), "model": DetectionModel(names, 1),
                  "opt": argparse.Namespace(imgsz=416, save_dir=pathlib.Path("runs/x"), tags={1},
                                            t=(1, torch.float16, torch.Size([1])))},
    "segment": {"epoch": 3, "best_fitness": None, "model": SegmentationModel(names, 1)},
}
for name, content in files.items():
    torch.save(content, folder / f"{name}.pt")
torch.save(files["v7"], folder / "protocol4.pt", pickle_protocol=4)
torch.save({"model": Model(["a"], 3).state_dict(), "args": argparse.Namespace(lr=1)}, folder / "timm_like.pth")
"""


NAMESPACE = {"imgsz": 416, "save_dir": "runs/x", "tags": [1], "t": [1, "float16", [1]]}


@pytest.fixture(scope="module")
def yolov5_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolov5")
    subprocess.run([sys.executable, "-c", WRITE_LIKE_YOLOV5, str(folder)], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    "name, fill, dtype, expected",
    [
        # names as a list, class Model, an array as fitness
        ("v6", 1, torch.float16, {"epoch": -1, "best_fitness": 0.5, "imgsz": None, "opt": None, "task": "detect"}),
        # names as a dict; the EMA goes before the model
        ("v7", 2, torch.float16, {"epoch": 3, "best_fitness": 0.5, "imgsz": 416, "task": "detect"}),
        ("protocol4", 2, torch.float16, {"epoch": 3, "best_fitness": 0.5, "imgsz": 416, "task": "detect"}),
        # a Namespace with a path, a set and torch's own values; no EMA
        ("namespace", 1, torch.float32, {"opt": NAMESPACE, "epoch": 3, "best_fitness": 0.5}),
        ("segment", 1, torch.float32, {"task": "segment", "best_fitness": None}),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_yolov5_variants(yolov5_files, name, fill, dtype, expected):
    ckpt = load_checkpoint(yolov5_files / f"{name}.pt")
    assert {key: getattr(ckpt, key) for key in expected} == expected
    assert ckpt.names == {0: "a", 1: "b"} and ckpt.nc == 2 and ckpt.stride == [8.0] and ckpt.hyp == {"lr0": 0.01}
    assert list(ckpt.state_dict) == [
        "model.0.conv.weight",
        *(f"model.0.bn.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "model.1.anchors",  # but neither anchor_grid nor the buffer that is not persistent
        "model.1.m.0.weight",
        "model.1.m.0.bias",
    ]
    weight = ckpt.state_dict["model.0.conv.weight"]
    assert weight.dtype == dtype and torch.equal(weight, torch.full((4, 3, 1, 1), float(fill), dtype=dtype))
    save_checkpoint(yolov5_files / "ours.pt", ckpt)  # everything in it is plain data
    assert_equal(vars(ckpt), vars(load_checkpoint(yolov5_files / "ours.pt")))


def test_reading_imports_and_builds_nothing(yolov5_files):
    """In a process where the module names of the pickle do not even exist."""
    code = (
        "import sys; from utils.checkpoint import load_checkpoint; before = set(sys.modules);"
        "load_checkpoint(sys.argv[1]); new = set(sys.modules) - before;"
        "assert not any(name.startswith('models') for name in new), new"
    )
    subprocess.run([sys.executable, "-c", code, str(yolov5_files / "v7.pt")], cwd=ROOT, check=True)


def test_weights_alone(yolov5_files):
    assert "model.0.conv.weight" in load_state_dict_file(yolov5_files / "v7.pt")  # a pickled model
    assert "model.0.conv.weight" in load_state_dict_file(yolov5_files / "timm_like.pth")  # with a Namespace beside it
