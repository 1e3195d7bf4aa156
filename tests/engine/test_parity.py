"""The gate of export.py: what counts as a difference, and that files with a fault do not pass it."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import engine.exporter
from engine import options
from engine.exporter import export_formats
from engine.parity import TOLERANCES, Parity, compare_rows, matched
from models.exportable import exportable
from tests.tiny_detector import write_tiny_weights

BOX = [10, 10, 30, 30]


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 6)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (boxes(), boxes(), (0, 0, 0)),
        (boxes([*BOX, 0.9, 1]), boxes([*BOX, 0.9, 1]), (0, 0, 0)),
        (boxes([*BOX, 0.9, 1]), boxes([10, 10, 32, 30, 0.8, 1]), (2, 0.1, 0)),
        (boxes([*BOX, 0.9, 1]), boxes([*BOX, 0.9, 0]), (0, 0, 2)),  # another class: both are alone
        (boxes([*BOX, 0.9, 1]), boxes(), (0, 0, 1)),
        (boxes([*BOX, 0.2505, 1]), boxes(), (0, 0, 0)),  # its partner may have missed the threshold
        (boxes([*BOX, 0.9, 1]), boxes([40, 40, 60, 60, 0.9, 1]), (0, 0, 2)),
        # of two candidates the nearer one is the partner
        (boxes([*BOX, 0.9, 1]), boxes([10, 10, 40, 30, 0.9, 1], [10, 10, 31, 30, 0.9, 1]), (1, 0, 1)),
        (boxes([*BOX, 0.9, 1]), boxes([*BOX, np.nan, 1]), (0, np.inf, 0)),
    ],
)
def test_matched(ours, theirs, expected):
    parity = matched(ours, theirs, borderline=0.251)
    assert (parity.box_px, parity.score, parity.unmatched) == pytest.approx(expected, abs=1e-6)
    assert parity.boxes == len(ours)


def test_compare_rows():
    rows = np.tile(np.array([50, 50, 20, 20, 0.9, 0.5, 0.1], np.float32), (1, 400, 1))
    rows[0, :, 4] -= np.arange(400) / 1000
    other = rows.copy()
    other[0, 399, :2] += 9  # not among the most confident rows
    assert compare_rows(rows, other) == Parity()
    other[0, 0, 2] += 4  # 4 px wider: each side moves by 2
    other[0, 399, 6] += 0.1
    found = compare_rows(rows, other)
    assert found.box_px == 2 and found.score == pytest.approx(0.1 * rows[0, 399, 4], rel=1e-4)
    with pytest.raises(ValueError, match=r"expected raw predictions of shape \[1, 400, 7\], found \[1, 399, 7\]"):
        compare_rows(rows, rows[:, 1:])


@pytest.mark.parametrize(
    ("parity", "words"),
    [
        (Parity(32, 100, 0.5, 1e-3, 0), ""),
        (Parity(32, 100, 0.6, 0, 0), "boxes differ by 0.6 px, at most 0.5"),
        (Parity(32, 100, 0, 0.002, 0), "scores differ by 0.002"),
        (Parity(32, 100, 0, 0, 1), "1 of 100 boxes have no partner"),
        (Parity(32, 100, float("inf"), 0, 0), "boxes differ by inf"),
    ],
)
def test_problem(parity, words):
    found = parity.problem(TOLERANCES["fp32"])
    assert words in found and bool(words) == bool(found)


class Faulty(nn.Module):
    """An exported model that sees another picture than it is given."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.model(self.change(x))


def change_a_weight(model):
    model = exportable(model)
    weight = model.head.m[0].weight[4].view(-1)  # of an objectness
    weight[weight.abs().argmax()] *= -1
    return model


SABOTAGES = {
    "none": (exportable, ""),
    "one weight changed": (change_a_weight, "differ"),
    "red and blue swapped": (lambda model: Faulty(exportable(model), lambda x: x.flip(1)), "differ"),
    "letterbox that pads elsewhere": (lambda model: Faulty(exportable(model), lambda x: x.roll(2, 2)), "differ"),
    "letterbox of another grey": (
        lambda model: Faulty(exportable(model), lambda x: torch.where(x == 114 / 255, 0.0, x)),
        "differ",
    ),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_gate_fails_for(name, tmp_path, tiny_model_cfg, tiny_dataset, monkeypatch):
    weights = write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    for file in (tiny_dataset.parent / "images" / "val").iterdir():  # wide, so that the letterbox has something to do
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), (64, 40)))
    change, words = SABOTAGES[name]
    monkeypatch.setattr(engine.exporter, "exportable", change)
    opt = options.from_kwargs("export", {"weights": str(weights), "data": str(tiny_dataset)})
    (result,) = export_formats(opt)
    assert words in result.error and bool(words) == bool(result.error)
    assert (tmp_path / "tiny.torchscript").exists() is not bool(words)
    assert (tmp_path / "tiny.torchscript.rejected").exists() is bool(words)
    assert not list(tmp_path.glob(".export-*"))
    if not words:
        assert result.parity["images"] == 4 and result.parity["boxes"] > 0
