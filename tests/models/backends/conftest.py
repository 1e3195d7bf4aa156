"""Models that several backends' tests export, and how far a file's predictions are from the model's."""

import pytest
import torch
from torch import nn

from extras.classify.model import ClassificationModel
from models.backends import onnx
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.experimental import attempt_load
from models.exportable import example_images, exportable
from models.yolo import DetectionModel, SegmentationModel
from tests.tiny_detector import write_tiny_weights
from utils.checkpoint import Checkpoint, save_checkpoint

EDGEVIT = {  # without a neck: what is converted is the backbone
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16], [24, 24, 40, 40]],
    "backbone": [[-1, 1, "edgevit_xxs", []]],
    "head": [[[3, 4], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture(scope="module")
def edgevit():
    torch.manual_seed(0)
    return exportable(DetectionModel("yolov5_edgevit.yaml", nc=3).eval())


@pytest.fixture(scope="module")
def shallow_edgevit(tmp_path_factory):
    """A detector on EdgeViT of which one block with every 16th token and one with all are left."""
    model = confident(EDGEVIT, tmp_path_factory.mktemp("edgevit"))
    backbone = model.model[0]
    backbone.blocks2, backbone.blocks3 = backbone.blocks2[:0], backbone.blocks3[:0]
    backbone.blocks4 = backbone.blocks4[:1]
    return model


@pytest.fixture
def tiny(tiny_model_cfg):
    """A detector of random boxes of all sizes and confidences."""
    torch.manual_seed(0)
    model = DetectionModel(tiny_model_cfg).eval()
    with torch.no_grad():
        for conv in model.head.m:
            conv.weight.mul_(50)
            conv.bias.zero_()
    model.names = {0: "box", 1: "disc"}
    return exportable(model)


def confident(cfg, folder) -> nn.Module:
    """An exportable() detector of random weights whose predictions depend on the picture."""
    return exportable(attempt_load(write_tiny_weights(folder / "m.pt", cfg), fuse=False))


def written(model, file, spec: ExportSpec):
    """The path of the exported ONNX file."""
    dynamic = spec.dynamic or spec.embed
    fields = {"batch": spec.batch, "dynamic": dynamic, "output": spec.output, "precision": spec.precision}
    strides = [int(stride) for stride in model.stride]
    onnx.export(model, file, spec, Metadata(model.names, strides, 32, list(spec.imgsz), **fields))
    return file


class Segmenter(nn.Module):
    """Random numbers in the export form of a segmentation model of 2 classes and 4 masks."""

    task, names, stride = "segment", {0: "box", 1: "disc"}, (8,)

    def __init__(self):
        super().__init__()
        self.stem, self.deeper = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.rows, self.prototypes = nn.Conv2d(8, 5 + 2 + 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        fine = self.stem(images).sigmoid()
        return self.rows(self.deeper(fine)).flatten(2).transpose(1, 2).sigmoid(), self.prototypes(fine)


class Classifier(nn.Module):
    """Random numbers in the export form of a classification model of 5 classes."""

    task, names, stride = "classify", {i: f"class {i}" for i in range(5)}, (32,)

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, images):
        return self.linear(self.conv(images).sigmoid().mean((2, 3)))


def model_of(task: str) -> nn.Module:
    torch.manual_seed(0)
    return {"segment": Segmenter, "classify": Classifier}[task]().eval().requires_grad_(False)


def write_other_weights(path, task: str):
    """A checkpoint of a tiny model for this task, not "detect", whose outputs depend on the picture; the path."""
    torch.manual_seed(0)
    rows = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [24, 3, 2]]]
    cfg = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "backbone": rows}
    if task == "segment":
        cfg |= {"anchors": [[8, 8, 16, 16]], "head": [[[2], 1, "Segment", ["nc", "anchors", 4, 8]]]}
        model = SegmentationModel(cfg)
        with torch.no_grad():
            model.head.m[0].weight.mul_(20)
            model.head.m[0].bias.view(model.head.na, -1)[:, 4:6] += 7
            for parameter in model.head.proto.parameters():
                parameter.mul_(4)
    else:
        model = ClassificationModel({**cfg, "head": [[-1, 1, "Classify", ["nc"]]]})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
    stride = [float(pixels) for pixels in model.stride]
    same = {"imgsz": 64, "task": task}
    save_checkpoint(path, Checkpoint(model.yaml, {0: "box", 1: "disc"}, 2, stride, model.state_dict(), **same))
    return path


def differences(exported, model, imgsz, batch=1, of=torch.max) -> tuple:
    """The most, or the mean, that boxes (px) and scores differ on noise."""
    images = example_images(batch, imgsz)
    with torch.no_grad():
        expected = model(images)
    found = exported(images)
    assert found.shape == expected.shape and found.dtype == torch.float32
    error = (found - expected).abs()
    return of(error[..., :4]).item(), of(error[..., 4:]).item()


def assert_equal_predictions(exported, model, imgsz, limits=(0.05, 1e-4), batch=1) -> None:
    """limits: the most that boxes (px) and scores may differ."""
    box_px, score = differences(exported, model, imgsz, batch)
    assert box_px < limits[0] and score < limits[1]
