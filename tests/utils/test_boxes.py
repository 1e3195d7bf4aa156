"""Box maths, for numpy and torch alike."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from utils import boxes as B
from utils.augmentations import letterbox

KINDS = [np.array, lambda rows: torch.tensor(rows, dtype=torch.float64)]
both_kinds = pytest.mark.parametrize("make", KINDS, ids=["numpy", "torch"])
few = settings(max_examples=50, deadline=None)


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


@both_kinds
@pytest.mark.parametrize(
    "function, rows, expected",
    [
        (B.xyxy2xywh, [[10, 20, 30, 60.0]], [[20, 40, 20, 40]]),
        (B.xywh2xyxy, [[20, 40, 20, 40.0]], [[10, 20, 30, 60]]),
        (B.xywh2xyxy, [[20, 40, 20, 40, 0.5, 3.0]], [[10, 20, 30, 60, 0.5, 3]]),  # further columns stay
        (B.xyxy2xywh, [[[0, 0, 1, 1.0]], [[0, 0, 2, 4.0]]], [[[0.5, 0.5, 1, 1]], [[1, 2, 2, 4]]]),  # leading dimensions
        (lambda x: B.xywhn2xyxy(x, 100, 50, 5, 7), [[0.5, 0.5, 0.2, 0.4]], [[45, 22, 65, 42]]),  # pad moves the box
        (lambda x: B.xyxy2xywhn(x, 100, 50), [[40, 15, 60, 35.0]], [[0.5, 0.5, 0.2, 0.4]]),
        (lambda x: B.xyxy2xywhn(x, 100, 50, clip=True), [[-20, 0, 20, 99.0]], [[0.1, 0.5, 0.2, 1]]),  # cut to the image
        (lambda x: B.xyn2xy(x, 100, 50, 1, 2), [[0.5, 0.1]], [[51, 7]]),
        (lambda x: B.clip_boxes(x, (50, 100)), [[-5, -5, 120, 60.0]], [[0, 0, 100, 50]]),  # height bounds y, width x
        (lambda x: B.clip_boxes(x, (50, 100)), [[-5, -5, 120, 60, 500, 7.0]], [[0, 0, 100, 50, 500, 7]]),
    ],
)
def test_conversion(make, function, rows, expected):
    close(function(make(rows)), expected)


@both_kinds
@pytest.mark.parametrize("count", [0, 1, 3])
def test_conversions_leave_their_input_alone(make, count):
    x = make([[1, 2, 3, 4.0]] * 3)[:count]
    before = np.asarray(x).copy()
    for function in (B.xyxy2xywh, B.xywh2xyxy, B.xywhn2xyxy, lambda v: B.xyxy2xywhn(v, 2, 2, clip=True)):
        assert function(x).shape == x.shape
    close(x, before)


@few
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2, *[st.floats(0, 1e4)] * 2), min_size=1, max_size=5))
def test_conversions_are_inverse(rows):
    xywh = np.array(rows)
    close(B.xyxy2xywh(B.xywh2xyxy(xywh)), xywh, 1e-9)
    close(B.xyxy2xywhn(B.xywhn2xyxy(xywh, 640, 480), 640, 480), xywh, 1e-9)


@few
@given(st.integers(20, 1500), st.integers(20, 1500), st.sampled_from([320, 640]), st.data())
def test_scale_boxes_undoes_the_letterbox(height, width, size, data):
    """Without ratio_pad it takes what letterbox reports, so scripts that omit it get the boxes of detect.py."""
    _, (ratio, _), (pad_w, pad_h) = letterbox(np.zeros((height, width, 3), np.uint8), (size, size), auto=False)
    x1, x2 = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    box = np.array([[x1 * width, 0, x2 * width, height]])
    letterboxed = box * ratio + np.array([pad_w, pad_h] * 2)
    close(B.scale_boxes((size, size), letterboxed.copy(), (height, width)), box, 1e-6)


@both_kinds
def test_scale_boxes_with_the_loaders_ratio_and_pad(make):
    boxes = make([[60.0, 30, 160, 130, 0.9, 2], [-500, -500, 900, 900, 0.1, 1]])
    result = B.scale_boxes((150, 220), boxes, (200, 100), ((0.5, 2.0), (10, 5)))
    close(result, [[25, 50, 75, 200, 0.9, 2], [0, 0, 100, 200, 0.1, 1]])  # x by 2.0, y by 0.5, then cut
    assert result is boxes  # in place, as users of YOLOv5's scale_boxes expect


@both_kinds
@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([0, 0, 10, 10.0], [0, 0, 10, 10.0], 1.0),  # equal
        ([0, 0, 10, 10.0], [5, 0, 15, 10.0], 1 / 3),  # half overlap
        ([0, 0, 10, 10.0], [10, 0, 20, 10.0], 0.0),  # touching
        ([0, 0, 10, 10.0], [30, 30, 40, 40.0], 0.0),  # apart: negative sides must not multiply to a positive area
        ([0, 0, 0, 0.0], [0, 0, 0, 0.0], 0.0),  # no area: no division by zero
    ],
)
def test_iou(make, a, b, expected):
    close(B.box_iou(make([a]), make([b])), [[expected]])
    close(B.bbox_iou(make([a]), make([b]), xywh=False), [expected])
    close(B.bbox_iou(B.xyxy2xywh(make([a])), B.xyxy2xywh(make([b]))), [expected])


@both_kinds
def test_relatives_of_iou_by_hand(make):
    """Boxes 2 x 2 and 2 x 2 shifted by 4, and 2 x 2 against 4 x 1: every term of the papers' formulas."""
    a, b = make([[0, 0, 2, 2.0]]), make([[4, 0, 6, 2.0]])
    close(B.bbox_iou(a, b, xywh=False, GIoU=True), [-(12 - 8) / 12])  # hull 6 x 2, union 8
    close(B.bbox_iou(a, b, xywh=False, DIoU=True), [-16 / 40])  # centres 4 apart, hull diagonal^2 40
    close(B.bbox_iou(a, b, xywh=False, CIoU=True), [-16 / 40])  # equal aspect adds nothing
    wide = make([[0, 0, 4, 1.0]])
    iou, distance = 2 / 6, (1 + 0.25) / (16 + 4)
    v = 4 / np.pi**2 * (np.arctan(4) - np.arctan(1)) ** 2
    close(B.bbox_iou(a, wide, xywh=False, CIoU=True), [iou - distance - v / (1 - iou + v) * v])


def test_ciou_weight_has_no_gradient():
    """With alpha held fixed the gradient is that of iou - distance - alpha v (CIoU paper, equation 11)."""
    a = torch.tensor([[1.0, 1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[1.5, 1.2, 4.0, 1.0]], dtype=torch.float64)
    B.bbox_iou(a, b, CIoU=True).sum().backward()

    def aspect(x):
        return 4 / torch.pi**2 * (torch.atan(b[:, 2] / b[:, 3]) - torch.atan(x[:, 2] / x[:, 3])) ** 2

    x = a.detach().clone().requires_grad_()
    v = aspect(x)
    alpha = (v / (v - B.bbox_iou(x, b) + 1)).detach()
    (B.bbox_iou(x, b, DIoU=True) - alpha * v).sum().backward()
    close(a.grad, x.grad, 1e-5)


@few
@given(st.integers(0, 2**31))
def test_relatives_of_iou_are_bounded(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.1, 50, (2, 20, 4))
    iou, giou, diou, ciou = (
        B.bbox_iou(a, b, **{k: True}) if k else B.bbox_iou(a, b) for k in ("", "GIoU", "DIoU", "CIoU")
    )
    assert ((iou >= 0) & (iou <= 1)).all()
    for other in (giou, diou, ciou):
        assert ((other > -1.5) & (other <= iou + 1e-9)).all()
    assert (ciou <= diou + 1e-9).all()
    close(np.diagonal(B.box_iou(B.xywh2xyxy(a), B.xywh2xyxy(b))), iou)


@both_kinds
def test_ioa_and_wh_iou(make):
    boxes = make([[0, 0, 10, 10.0], [5, 5, 25, 10.0]])
    close(B.bbox_ioa(boxes[0], boxes), [1, 25 / 100])  # share of the second box
    close(B.bbox_ioa(boxes, boxes), [[1, 0.25], [0.25, 1]])
    close(B.wh_iou(make([[2, 4.0]]), make([[4, 2.0], [2, 4.0]])), [[4 / 12, 1]])


def test_segments():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=np.float32)
    (dense,) = B.resample_segments([square], 17)
    assert dense.shape == (17, 2) and dense.dtype == np.float32
    close(np.hypot(*np.diff(dense, axis=0).T), np.ones(16))  # outline 16 long, closed, equal steps
    close(B.segments2boxes([square, square[:2] + 1]), [[2, 2, 4, 4], [3, 1, 4, 0]])
    assert B.segments2boxes([]).shape == (0, 4)
    close(B.segment2box(square - 1, 10, 10), [3, 3, 3, 3])  # only one corner is inside the image
    close(
        B.segment2box(B.resample_segments([square - 1], 1601)[0], 10, 10), [0, 0, 3, 3]
    )  # dense points find the whole of it
    close(B.segment2box(square + 100, 50, 50), [0, 0, 0, 0])  # wholly outside


def test_needs_no_torch():
    code = """
import sys, numpy, utils.boxes
utils.boxes.box_iou(numpy.ones((1, 4)), numpy.ones((1, 4)))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
