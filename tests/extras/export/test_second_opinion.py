"""What is said of a file that differs from PyTorch's float32: float64 decides."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from extras.export.parity import TOLERANCES, Gate, Parity, compare_masks
from extras.export.second_opinion import Exact, is_as_near, problem, widened
from models.backends.metadata import Metadata

FP32 = TOLERANCES["fp32"]


class Rounding(nn.Module):
    """A classifier of an image's mean red and blue, whose float32 loses most of the digits."""

    def forward(self, x):
        return (x.mean((2, 3))[:, ::2] + 4e5 - 4e5) * 5


class FaintMask(nn.Module):
    """One sure box whose mask has an edge that float32 rounds away: its sums are 0.02, and steps are 0.03."""

    def forward(self, x):
        rows = torch.tensor([[[32.0, 32, 40, 40, 0.9, 0.9, 1]]]).to(x).repeat(len(x), 1, 1)
        faint = torch.sin(torch.arange(256).reshape(1, 1, 16, 16).to(x) * 7).repeat(len(x), 1, 1, 1) / 50
        return rows, faint + 4e5 - 4e5 - 0.002


def backend(predict, model=None, task="classify"):
    """What a Gate uses of a DetectMultiBackend."""
    names = {0: "red", 1: "blue"} if task == "classify" else {0: "red"}
    metadata = Metadata(names, [32], 32, [32, 32], task=task)
    return SimpleNamespace(
        predict=predict, model=model, backend=SimpleNamespace(metadata=metadata), fixed_hw=(32, 32), stride=32
    )


def in_torch(model, dtype):
    return lambda images: model(torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype) / 255)


FILES = {
    "exact": (lambda images: in_torch(Rounding(), torch.float64)(images), ""),
    "rounds by as much in another way": (lambda images: in_torch(Rounding(), torch.float64)(images) + 0.07, ""),
    "blue as red": (lambda images: in_torch(Rounding(), torch.float64)(images).flip(1), "probab|scores differ"),
    "not a number": (lambda images: in_torch(Rounding(), torch.float64)(images) * np.nan, "scores differ"),
}


@pytest.mark.parametrize("name", FILES)
def test_float64_decides(name):
    predict, words = FILES[name]
    images = [np.full((32, 32, 3), (30, 0, 60 + 20 * i), np.uint8) for i in range(6)]
    reference = backend(in_torch(Rounding(), torch.float32), Rounding())
    gate = Gate(reference, backend(predict), (32, 32))
    parity = gate.run(images)
    if name != "rounds by as much in another way":
        assert parity.problem(FP32)  # It is not what PyTorch's float32 gives.
    found = problem(gate, images, parity, FP32)
    assert bool(found) == bool(words)


def other_masks(factor, shift):
    """A file that is exact but for its prototypes."""

    def predict(images):
        rows, protos = in_torch(FaintMask(), torch.float64)(images)
        return rows, protos * factor + shift * torch.cos(torch.arange(256.0).reshape(1, 1, 16, 16) * 3)

    return predict


@pytest.mark.parametrize(
    ("factor", "shift", "passes"),
    [(1, 0, True), (1, 0.02, True), (1, 0.2, False), (10, 0, False), (float("nan"), 0, False)],
)
def test_masks_pass_whose_numbers_are_as_near_as_float32s(factor, shift, passes):
    images = [np.zeros((64, 64, 3), np.uint8)]
    reference = backend(in_torch(FaintMask(), torch.float32), FaintMask(), "segment")
    reference.fixed_hw = (64, 64)
    file = backend(other_masks(factor, shift), task="segment")
    gate = Gate(reference, file, (64, 64))
    assert gate.run(images).problem(FP32)
    assert is_as_near(gate, Exact(FaintMask(), "segment"), images) is passes


def test_numbers_decide_where_nms_and_edges_do_not(monkeypatch):
    """Of a file that is as near as float32 nothing else is held against it, and of another one it is."""
    monkeypatch.setattr("extras.export.second_opinion.LEAST_MASK_IOU", 1.0)
    images = [np.zeros((64, 64, 3), np.uint8)]
    reference = backend(in_torch(FaintMask(), torch.float32), FaintMask(), "segment")
    reference.fixed_hw = (64, 64)
    for shift, words in ((0.02, ""), (0.2, "a mask has an IoU")):
        gate = Gate(reference, backend(other_masks(1, shift), task="segment"), (64, 64))
        assert problem(gate, images, gate.run(images), FP32)[: len(words) or None] == words


def test_what_is_within_the_tolerance_costs_no_second_run():
    assert problem(None, [], Parity(1, 1, 0.1, 1e-4), FP32) == ""


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (Parity(), FP32),
        (Parity(boxes=10, box_px=1.0, score=0.01, unmatched=1), (4.0, 0.04, 0.4, 0.99)),
        (Parity(mask_iou_least=0.95), (0.5, 1e-3, 0.0, 0.8)),
        (Parity(mask_iou_least=0.1), (0.5, 1e-3, 0.0, 0.5)),
        (Parity(box_px=float("inf"), score=float("inf")), FP32),  # excuses nothing
    ],
)
def test_tolerance_beside_float32s_own_errors(own, expected):
    assert widened(FP32, own) == pytest.approx(expected)


def test_pixels_that_rounding_decides_are_no_difference_of_masks():
    """Coefficients of millions whose products all but cancel, as they are after one epoch."""
    protos = np.ones((2, 16, 16), np.float32)
    protos[1, :, :8] = 1 + 1e-4  # In this half the sums are -200 of 4,000,000.
    protos[1, :, 12:] = 0  # In this quarter they are 2,000,000.
    ours, theirs = np.float32([[2e6, -2e6]]), np.float32([[2e6, -2e6 * (1 + 2e-4)]])
    ours[0, 0] += 100  # The quarter between is 100, and -300 with the other file's coefficients.
    box = np.float32([[0, 0, 64, 64]])
    assert compare_masks(box, (ours, protos), (theirs, protos), (64, 64)).mask_iou_least == 1
    assert compare_masks(box, (ours, protos), (theirs, protos), (64, 64), rounding=0).mask_iou_least < 0.8
    assert compare_masks(box, (ours, protos), (-ours, protos), (64, 64)).mask_iou_least < 0.99
