"""The model files: YOLOv5's published sizes, and a small version of each that computes, trains and fuses."""

import csv
import json

import pytest
import torch

from models.yolo import DetectionModel, SegmentationModel, model_class
from tests.conftest import ROOT, SHARED, needs_shared
from utils.general import load_yaml
from utils.torch_utils import count_flops

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
    "segment/yolov5n-seg.yaml": (1991549, 25, [8, 16, 32]),
    "segment/yolov5s-seg.yaml": (7621277, 25, [8, 16, 32]),
    "segment/yolov5m-seg.yaml": (21990397, 25, [8, 16, 32]),
    "segment/yolov5l-seg.yaml": (47924957, 25, [8, 16, 32]),
    "segment/yolov5x-seg.yaml": (88819517, 25, [8, 16, 32]),
}
# the files of ours
# parameters, GFLOPs at 640 px
EDGEVIT_SEGMENT = {
    "": (5159269, 16.1),
    "_n": (1815037, 6.7),
    "_t": (3170301, 13.1),
    "_xs": (9216493, 30.7),
    "_s": (16632381, 51.0),
}


@needs_shared
def test_sizes_are_the_reference():
    with open(SHARED / "golden" / "yolov5_param_counts.csv") as file:
        rows = list(csv.DictReader(file))
    reference = {
        row["cfg"].removeprefix("models/"): (int(row["parameters"]), int(row["layers"]), json.loads(row["strides"]))
        for row in rows
    }
    assert reference == SIZES


@pytest.mark.parametrize("file", SIZES)
def test_parameters_layers_strides(file, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)  # no random numbers: no time
    model = model_class(ROOT / "models" / file)(ROOT / "models" / file)
    assert type(model) is (SegmentationModel if file.startswith("segment/") else DetectionModel)
    parameters, layers, strides = SIZES[file]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.model) == layers
    assert [int(s) for s in model.stride] == strides


def small_model(file):
    """The model file with an eighth of its channels, a third of its repeats and 3 classes."""
    torch.manual_seed(0)
    cfg = load_yaml(ROOT / "models" / file) | {"width_multiple": 0.125, "depth_multiple": 0.33, "nc": 3}
    model = model_class(cfg)(cfg)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model, torch.rand(2, 3, 2 * int(max(*model.stride, 32)), 2 * int(max(*model.stride, 32)))


def tensors_of(output) -> list:
    """All tensors of a model's output, from within its tuples and lists."""
    return [output] if isinstance(output, torch.Tensor) else [tensor for part in output for tensor in tensors_of(part)]


@pytest.mark.parametrize("file", SIZES)
def test_every_parameter_learns_and_fuse_is_exact(file):
    model, x = small_model(file)
    sum((y * torch.randn_like(y)).mean() for y in tensors_of(model.train()(x))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    model.eval()
    with torch.no_grad():
        before = tensors_of(model(x))
        assert model.fuse() is model
        after = tensors_of(model(x))
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for ours, expected in zip(after, before):
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_leaky_relu_file_has_no_silu_and_leaves_no_trace():
    """`activation:` belongs to its file: a model that is built later has its own."""
    model, _ = small_model("hub/yolov5s-LeakyReLU.yaml")
    activations = [m for m in model.modules() if isinstance(m, (torch.nn.SiLU, torch.nn.LeakyReLU))]
    assert activations and all(isinstance(m, torch.nn.LeakyReLU) and m.negative_slope == 0.1 for m in activations)
    later, _ = small_model("yolov5n.yaml")
    assert not any(isinstance(m, torch.nn.LeakyReLU) for m in later.modules())


@pytest.mark.parametrize("size", EDGEVIT_SEGMENT)
def test_edgevit_segment_files(size):
    """The detector's rows with another head, and the sizes that the files name."""
    detect, segment = (load_yaml(ROOT / "models" / f) for f in (f"yolov5_edgevit{size}.yaml", segment_file(size)))
    (*rows, last), (*segment_rows, head) = detect.pop("head"), segment.pop("head")
    assert segment == detect and segment_rows == rows and head[:2] == last[:2]
    model = SegmentationModel(ROOT / "models" / segment_file(size))
    parameters, gflops = EDGEVIT_SEGMENT[size]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert round(count_flops(model) / 1e9, 1) == gflops
    assert head[2:] == ["Segment", ["nc", "anchors", 32, model.head.m[0].in_channels]], "as many as the finest map has"
    maps, protos = model.train()(torch.rand(2, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(3, 64 // s, 96 // s, 117) for s in (8, 16, 32)]
    assert protos.shape == (2, 32, 16, 24)
    sum(tensor.mean() for tensor in (*maps, protos)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def segment_file(size: str) -> str:
    return f"segment/yolov5_edgevit{size}-seg.yaml"


def test_every_segment_file_is_listed_here():
    files = {f"segment/{file.name}" for file in (ROOT / "models" / "segment").glob("*.yaml")}
    assert files == {f for f in SIZES if f.startswith("segment/")} | {segment_file(size) for size in EDGEVIT_SEGMENT}
