"""The YOLOv5 model files: their published sizes, and a small version of each that computes, trains and fuses."""

import csv
import json

import pytest
import torch

from models.yolo import DetectionModel
from tests.conftest import ROOT, SHARED, needs_shared
from utils.general import load_yaml

# file in models/ -> parameters, layers, strides, as YOLOv5 builds them with 80 classes
SIZES = {
    "yolov5n.yaml": (1872157, 25, [8, 16, 32]),
    "yolov5s.yaml": (7235389, 25, [8, 16, 32]),
    "yolov5m.yaml": (21190557, 25, [8, 16, 32]),
    "yolov5l.yaml": (46563709, 25, [8, 16, 32]),
    "yolov5x.yaml": (86749405, 25, [8, 16, 32]),
    "hub/yolov3-spp.yaml": (62998749, 29, [8, 16, 32]),
    "hub/yolov3-tiny.yaml": (8852366, 21, [16, 32]),
    "hub/yolov3.yaml": (61949149, 29, [8, 16, 32]),
    "hub/yolov5-bifpn.yaml": (46825853, 25, [8, 16, 32]),
    "hub/yolov5-fpn.yaml": (41117565, 20, [8, 16, 32]),
    "hub/yolov5-p2.yaml": (47493372, 32, [4, 8, 16, 32]),
    "hub/yolov5-p34.yaml": (5331518, 22, [8, 16]),
    "hub/yolov5-p6.yaml": (76770172, 34, [8, 16, 32, 64]),
    "hub/yolov5-p7.yaml": (144281723, 43, [8, 16, 32, 64, 128]),
    "hub/yolov5-panet.yaml": (46563709, 25, [8, 16, 32]),
    "hub/yolov5n6.yaml": (3246940, 34, [8, 16, 32, 64]),
    "hub/yolov5s6.yaml": (12626620, 34, [8, 16, 32, 64]),
    "hub/yolov5m6.yaml": (35731932, 34, [8, 16, 32, 64]),
    "hub/yolov5l6.yaml": (76770172, 34, [8, 16, 32, 64]),
    "hub/yolov5x6.yaml": (140794780, 34, [8, 16, 32, 64]),
    "hub/yolov5s-LeakyReLU.yaml": (7235389, 25, [8, 16, 32]),
    "hub/yolov5s-ghost.yaml": (3897605, 25, [8, 16, 32]),
    "hub/yolov5s-transformer.yaml": (7235645, 25, [8, 16, 32]),
}


@needs_shared
def test_sizes_are_the_reference():
    with open(SHARED / "golden" / "yolov5_param_counts.csv") as file:
        rows = [row for row in csv.DictReader(file) if "/segment/" not in row["cfg"]]
    reference = {
        row["cfg"].removeprefix("models/"): (int(row["parameters"]), int(row["layers"]), json.loads(row["strides"]))
        for row in rows
    }
    assert reference == SIZES


@pytest.mark.parametrize("file", SIZES)
def test_parameters_layers_strides(file, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)  # no random numbers: no time
    model = DetectionModel(ROOT / "models" / file)
    parameters, layers, strides = SIZES[file]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.model) == layers
    assert [int(s) for s in model.stride] == strides


def small_model(file):
    """The model file with an eighth of its channels, a third of its repeats and 3 classes."""
    torch.manual_seed(0)
    cfg = load_yaml(ROOT / "models" / file) | {"width_multiple": 0.125, "depth_multiple": 0.33, "nc": 3}
    model = DetectionModel(cfg)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model, torch.rand(2, 3, 2 * int(max(*model.stride, 32)), 2 * int(max(*model.stride, 32)))


@pytest.mark.parametrize("file", SIZES)
def test_every_parameter_learns_and_fuse_is_exact(file):
    model, x = small_model(file)
    maps = model.train()(x)
    sum((y * torch.randn_like(y)).mean() for y in maps).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    model.eval()
    with torch.no_grad():
        boxes, raw = model(x)
        assert model.fuse() is model
        fused_boxes, fused_raw = model(x)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for ours, expected in [(fused_boxes, boxes), *zip(fused_raw, raw)]:
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_leaky_relu_file_has_no_silu_and_leaves_no_trace():
    """`activation:` belongs to its file: a model that is built later has its own."""
    model, _ = small_model("hub/yolov5s-LeakyReLU.yaml")
    activations = [m for m in model.modules() if isinstance(m, (torch.nn.SiLU, torch.nn.LeakyReLU))]
    assert activations and all(isinstance(m, torch.nn.LeakyReLU) and m.negative_slope == 0.1 for m in activations)
    later, _ = small_model("yolov5n.yaml")
    assert not any(isinstance(m, torch.nn.LeakyReLU) for m in later.modules())
