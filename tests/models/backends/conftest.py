"""Models that several backends' tests export."""

import pytest
import torch

from models.exportable import exportable
from models.yolo import DetectionModel


@pytest.fixture(scope="module")
def edgevit():
    torch.manual_seed(0)
    return exportable(DetectionModel("yolov5_edgevit.yaml", nc=3).eval())


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
