"""What the tests of clients share: a checkpoint of the tiny detector, a picture for it, and what is expected there."""

from functools import cache

import numpy as np
import pytest
import torch

from engine import options
from extras.export.exporter import export_formats
from models.backends import DetectMultiBackend
from models.yolo import DetectionModel
from tests.tiny_detector import FEW_OPERATORS
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.nms import as_float32, final_boxes

SIZE_PX = 64
NAMES = {0: "box", 1: "flat disc"}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A checkpoint of random weights that finds 27 objects of both classes in `picture`, 11 above 0.4."""
    torch.manual_seed(24)
    detector = DetectionModel(FEW_OPERATORS)
    with torch.no_grad():
        for conv in detector.head.m:
            conv.weight.mul_(300)
            bias = conv.bias.view(detector.head.na, -1)
            bias[:, 4], bias[:, 5:] = -2, 1
    file = tmp_path_factory.mktemp("clients") / "best.pt"
    stride = [float(pixels) for pixels in detector.stride]
    save_checkpoint(file, Checkpoint(detector.yaml, NAMES, len(NAMES), stride, detector.state_dict(), imgsz=SIZE_PX))
    return file


@pytest.fixture(scope="session")
def model(weights):
    return DetectMultiBackend(weights, "cpu")


@pytest.fixture(scope="session")
def picture():
    """A uint8 RGB image [64, 64, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def rows(model, picture):
    """The detector's raw predictions [N, 7] for the picture."""
    return as_float32(model.predict(picture[None]))[0]


@cache
def export(weights, **flags):
    """Export to one format; the Exported, which is the same for the same flags. AssertionError if it failed."""
    (result,) = export_formats(options.from_kwargs("export", {"weights": weights, "imgsz": SIZE_PX, **flags}))
    assert not result.error, result.error
    return result


def nms(rows, conf_thres=0.25, iou_thres=0.45, max_det=300, agnostic=False):
    """Final boxes [n, 6] of raw predictions [N, 5 + nc]: xyxy px, confidence, class."""
    return final_boxes(rows[None], False, conf_thres, iou_thres, max_det=max_det, agnostic=agnostic)[0]


def partners(boxes, others) -> np.ndarray:
    """For each of `boxes` [n, 6] the nearest of `others` [m, 6] of its class; AssertionError if it has none."""
    distance = np.abs(boxes[:, None, :4] - others[None, :, :4]).max(2)
    distance[boxes[:, None, 5] != others[None, :, 5]] = np.inf
    nearest = distance.argmin(1)
    assert np.isfinite(distance[np.arange(len(boxes)), nearest]).all()
    return others[nearest]


def assert_same_boxes(found, expected, px=0.01, score=1e-4) -> None:
    """Both are [n, 6] xyxy px, confidence, class, in any order."""
    assert len(found) == len(expected) > 0
    near = partners(found, expected)
    np.testing.assert_allclose(found[:, :4], near[:, :4], atol=px)
    np.testing.assert_allclose(found[:, 4], near[:, 4], atol=score)
