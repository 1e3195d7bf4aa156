"""The gate of export.py: what counts as a difference, and that files with a fault do not pass it."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import extras.export.exporter
from engine import options
from extras.export.exporter import export_formats
from extras.export.parity import TOLERANCES, Gate, Parity, compare_logits, compare_masks, compare_rows, matched
from models.backends import DetectMultiBackend
from models.backends import torchscript as backend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import exportable
from tests.models.backends.conftest import write_other_weights
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
        # boxes without width are the same object where they nearly touch
        (boxes([10, 10, 10, 30, 0.9, 1]), boxes([10.001, 10, 10.001, 30, 0.9, 1]), (0.001, 0, 0)),
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
    assert compare_rows(rows, other, nm=1).score == 0  # the last column is no score then


def square(left, size=32):
    """Prototypes [1, 16, 16] of an image of 64 px that are 9 in a square of this many px, which is full at 0."""
    protos = np.full((1, 16, 16), -9, np.float32)
    protos[0, 2 : 2 + size // 4, left // 4 : (left + size) // 4] = 9
    return protos


@pytest.mark.parametrize(
    ("boxes", "coefficients", "left", "mean", "least"),
    [
        ([[0, 0, 64, 64]] * 2, [1, 1], 8, 1, 1),
        ([[0, 0, 64, 64]] * 2, [1, 1], 24, 1 / 3, 1 / 3),  # half of it moved out: 16 of 48 columns are common
        ([[0, 0, 64, 64]] * 2, [1, 2], 8, 1, 1),  # bolder
        ([[0, 0, 64, 64]] * 2, [1, -1], 8, 0.5, 0),  # the second one is the rest of the image
        ([[0, 0, 24, 64]] * 2, [1, 1], 16, 0.5, 0.5),  # cut to the box
        (np.zeros((0, 4)), [], 24, 1, 1),
    ],
)
def test_compare_masks(boxes, coefficients, left, mean, least):
    boxes = np.array(boxes, np.float32)
    ours = np.ones((len(boxes), 1), np.float32), square(8)
    theirs = np.array(coefficients, np.float32)[:, None], square(left)
    parity = compare_masks(boxes, ours, theirs, (64, 64))
    assert parity.masks == len(boxes)
    assert (parity.mask_iou, parity.mask_iou_least) == pytest.approx((mean, least), abs=0.01)


def test_a_pixel_on_the_verge_is_no_difference():
    def pixels(count):
        protos = np.full((1, 4, 4), -9, np.float32)
        protos.reshape(-1)[:count] = 9
        return np.ones((1, 1), np.float32), protos

    box = np.array([[0, 0, 4, 4]], np.float32)
    assert compare_masks(box, pixels(4), pixels(6), (4, 4)).mask_iou_least == 1
    assert compare_masks(box, pixels(4), pixels(8), (4, 4)).mask_iou_least == 0.5


@pytest.mark.parametrize(
    ("ours", "theirs", "score", "changed"),
    [
        ([[0, 9]], [[5, 14]], 0, 0),  # softmax knows differences alone
        ([[0, 2]], [[0, 1.9]], 0.0109, 0),
        ([[0, 2]], [[2, 0]], 0.7616, 1),
        ([[0, 0.001]], [[0.001, 0]], 0.0005, 0),  # a tie
        ([[0, 2], [3, 0]], [[0, 2], [0, 3]], 0.9051, 1),
        ([[0, 2]], [[0, np.nan]], np.inf, None),
    ],
)
def test_compare_logits(ours, theirs, score, changed):
    parity = compare_logits(np.array(ours, np.float32), np.array(theirs, np.float32), tie=0.002)
    assert parity.score == pytest.approx(score, abs=1e-4)
    assert changed is None or parity.top1_changed == changed


def test_logits_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"expected logits of shape \[1, 2\], found \[1, 3\]"):
        compare_logits(np.zeros((1, 2)), np.zeros((1, 3)), 0.1)


def test_sums_and_words():
    total = Parity()
    for part in (Parity(images=2, boxes=3, box_px=0.1), Parity(masks=3, mask_iou=0.5, mask_iou_least=0.2), Parity()):
        total.update(part)
    assert "3 boxes unmatched in 2 images, 3 masks with an IoU of 0.5000, at least 0.2000" in total.describe()
    total.update(Parity(masks=1, mask_iou=0.9, mask_iou_least=0.9))
    assert (total.masks, total.mask_iou, total.mask_iou_least) == pytest.approx((4, 0.6, 0.2))
    assert Parity(**total.to_dict()) == total
    plain = Parity(images=2, boxes=3)
    assert list(plain.to_dict()) == ["images", "boxes", "box_px", "score", "unmatched"]
    assert plain.describe() == "boxes within 0 px, scores within 0, 0 of 3 boxes unmatched in 2 images"
    plain.update(Parity(score=0.5, top1_changed=1))
    plain.update(Parity(top1_changed=0))
    assert plain.describe() == "probabilities within 0.5, another most probable class in 1 of 2 images"


@pytest.mark.parametrize(
    ("parity", "words"),
    [
        (Parity(32, 100, 0.5, 1e-3, 0), ""),
        (Parity(32, 100, 0.6, 0, 0), "boxes differ by 0.6 px, at most 0.5"),
        (Parity(32, 100, 0, 0.002, 0), "scores differ by 0.002"),
        (Parity(32, 100, 0, 0, 1), "1 of 100 boxes have no partner"),
        (Parity(32, 100, float("inf"), 0, 0), "boxes differ by inf"),
        (Parity(masks=9, mask_iou=0.999, mask_iou_least=0.98), "a mask has an IoU of 0.98, at least 0.99 expected"),
        (Parity(masks=9, mask_iou=0.999, mask_iou_least=0.99), ""),
        (Parity(9, top1_changed=0), ""),
        (Parity(9, top1_changed=1), "1 of 9 images have another most probable class"),
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
    monkeypatch.setattr(extras.export.exporter, "exportable", change)
    opt = options.from_kwargs("export", {"weights": str(weights), "data": str(tiny_dataset)})
    (result,) = export_formats(opt)
    assert words in result.error and bool(words) == bool(result.error)
    assert (tmp_path / "tiny.torchscript").exists() is not bool(words)
    assert (tmp_path / "tiny.torchscript.rejected").exists() is bool(words)
    assert not list(tmp_path.glob(".export-*"))
    if not words:
        assert result.parity["images"] == 4 and result.parity["boxes"] > 0


class FaultyPrototypes(nn.Module):
    """A segmentation model in export form with other masks than its own, and the same boxes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        predictions, prototypes = self.model(x)
        return predictions, prototypes.flip(3)


OTHER_SABOTAGES = [
    ("segment", lambda model: model, ""),
    ("segment", FaultyPrototypes, "a mask has an IoU of"),
    ("segment", lambda model: Faulty(model, lambda x: x.flip(1)), "scores differ"),
    ("classify", lambda model: model, ""),
    ("classify", lambda model: Faulty(model, lambda x: x.flip(1)), "scores differ"),
]


@pytest.mark.parametrize(("task", "change", "words"), OTHER_SABOTAGES)
def test_the_gate_of_other_tasks(task, change, words, tmp_path):
    weights = write_other_weights(tmp_path / "m.pt", task)
    reference = DetectMultiBackend(weights, "cpu")
    metadata = Metadata(reference.names, [8], 32, [64, 64], dynamic=True, task=task)
    model = change(exportable(reference.model)).eval()
    backend.export(model, tmp_path / "m.torchscript", ExportSpec((64, 64)), metadata)
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (80, 60)) for _ in range(5)]
    parity = Gate(reference, DetectMultiBackend(tmp_path / "m.torchscript", "cpu"), (64, 64)).run(images)
    assert parity.images == 5 and (parity.masks >= 5) == (task == "segment")
    problem = parity.problem(TOLERANCES["fp32"])
    assert words in problem and bool(words) == bool(problem)


def test_masks_of_a_model_that_finds_nothing(tmp_path):
    """They are those of its most confident raw predictions."""
    weights = write_other_weights(tmp_path / "m.pt", "segment")
    reference = DetectMultiBackend(weights, "cpu")
    reference.model.head.m[0].bias.data.view(reference.model.head.na, -1)[:, 4] -= 30
    metadata = Metadata(reference.names, [8], 32, [64, 64], task="segment")
    model = FaultyPrototypes(exportable(reference.model)).eval()
    backend.export(model, tmp_path / "m.torchscript", ExportSpec((64, 64)), metadata)
    images = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]
    parity = Gate(reference, DetectMultiBackend(tmp_path / "m.torchscript", "cpu"), (64, 64)).run(images)
    assert parity.boxes == 0 and parity.masks == 8 and "a mask has an IoU" in parity.problem(TOLERANCES["fp32"])
