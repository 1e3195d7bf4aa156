"""Official segmentation checkpoints: pickled modules under YOLOv5's class names, read without building any of them."""

import subprocess
import sys

import pytest
import torch

from extras.official.pickle_reader import read_pickle
from models.yolo import SegmentationModel
from tests.conftest import ROOT
from utils.checkpoint import UnsafeCheckpointError, load_checkpoint

# Writes a random model as YOLOv5 v7 does: the whole module, in half precision, its classes named as there.
WRITE = """
import sys
import torch
from models import heads, yolo

heads.Segment.__module__ = "models.yolo"
heads.Proto.__module__ = "models.common"
torch.manual_seed(0)
model = yolo.SegmentationModel("yolov5n-seg.yaml")
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.1)
model.names = {i: f"thing {i}" for i in range(80)}
model.hyp = {"lr0": 0.01}
content = {"epoch": -1, "best_fitness": None, "model": model.half().eval(), "ema": None, "updates": None,
           "optimizer": None, "opt": {"imgsz": 640, "mask_ratio": 4, "no_overlap": False}, "git": None, "date": "2022"}
torch.save(content, sys.argv[1])
torch.save({"model": model.state_dict()}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    paths = folder / "yolov5n-seg.pt", folder / "tensors.pt"
    subprocess.run([sys.executable, "-c", WRITE, *map(str, paths)], cwd=ROOT, check=True)
    return paths


def test_reads_as_a_segmentation_model(files):
    ckpt = load_checkpoint(files[0])
    tensors = torch.load(files[1], weights_only=True)["model"]
    assert ckpt.task == "segment" and ckpt.nc == 80 and ckpt.stride == [8, 16, 32] and ckpt.imgsz == 640
    assert ckpt.names[79] == "thing 79" and ckpt.yaml["head"][-1][2:] == ["Segment", ["nc", "anchors", 32, 256]]
    assert list(ckpt.state_dict) == list(tensors)
    assert all(torch.equal(ckpt.state_dict[name], tensor) for name, tensor in tensors.items())
    assert ckpt.opt["mask_ratio"] == 4 and ckpt.train_state is None


def test_the_names_of_the_head_are_those_of_published_files(files):
    state = load_checkpoint(files[0]).state_dict
    shapes = {
        name.removeprefix("model.24."): list(t.shape) for name, t in state.items() if name.startswith("model.24.")
    }
    expected = {"anchors": [3, 3, 2], "proto.cv1.conv.weight": [64, 64, 3, 3], "proto.cv2.conv.weight": [64, 64, 3, 3]}
    expected["proto.cv3.conv.weight"] = [32, 64, 1, 1]
    for i, channels in enumerate((64, 128, 256)):
        expected |= {f"m.{i}.weight": [3 * (5 + 80 + 32), channels, 1, 1], f"m.{i}.bias": [351]}
    norms = {name: shape for name, shape in shapes.items() if ".bn." in name}
    assert {name: shape for name, shape in shapes.items() if name not in norms} == expected
    assert {name.split(".bn.")[0] for name in norms} == {"proto.cv1", "proto.cv2", "proto.cv3"} and len(norms) == 15


def test_builds_and_computes(files):
    model = SegmentationModel.from_checkpoint(load_checkpoint(files[0]), fuse=True)
    with torch.no_grad():
        predictions, protos, maps = model(torch.zeros(1, 3, 64, 64))
    assert predictions.shape == (1, 252, 117) and protos.shape == (1, 32, 16, 16) and predictions.dtype == torch.float32


def test_only_shells_are_made(files):
    """The classes that the file names, each by name alone."""
    model = read_pickle(files[0])["model"]
    head = model.state["_modules"]["model"].state["_modules"]["24"]
    assert model.name == "models.yolo.SegmentationModel" and head.name == "models.yolo.Segment"
    assert head.state["_modules"]["proto"].name == "models.common.Proto"
    assert not isinstance(head, torch.nn.Module)


def test_another_class_in_its_place_is_refused(tmp_path):
    """The same file with the head's class in a module that YOLOv5 does not have."""
    path = tmp_path / "changed.pt"
    code = WRITE.replace('"models.yolo"', '"models.heads"')
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "t.pt")], cwd=ROOT, check=True)
    with pytest.raises(UnsafeCheckpointError, match="models.heads.Segment, which no YOLOv5 checkpoint needs"):
        load_checkpoint(path)
