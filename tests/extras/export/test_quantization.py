"""INT8 within a budget: what is measured, what is chosen, and real files of both formats."""

import csv
import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from extras.export import quantization
from extras.export.budget import Loss, loss
from extras.export.node_groups import CONSTANT, IMAGE, Node
from extras.export.quantization import Search, damage, in_batches, quantize_within_budget
from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel

# A stem, ten layers with a sum behind each, a head, a sigmoid. What it costs in points to have each in int8:
COSTS = {"decode": 30.0, "head": 2.0, "stem": 1.0, **{f"sum{i}": 0.1 for i in range(10)}}
COSTS |= {f"layer{i}": 0.01 for i in range(10)}
FLOAT_AP = 0.5


def network() -> list:
    nodes = [Node("stem", "Conv", (IMAGE, CONSTANT))]
    for i in range(10):
        nodes.append(Node(f"layer{i}", "Conv", (nodes[-1].name, CONSTANT)))
        nodes.append(Node(f"sum{i}", "Add", (nodes[-1].name, nodes[-2].name)))
    nodes += [Node("head", "Conv", ("sum9", CONSTANT)), Node("decode", "Sigmoid", ("head",))]
    return nodes


class FakeQuantizer:
    """Files list their nodes in int8."""

    def __init__(self, fp32_file, calibration):
        self.nodes = network()

    def write(self, file, float_nodes, draft=False):
        file.write_text(" ".join(sorted(set(COSTS) - set(float_nodes))))

    def quantizable_nodes(self, file):
        return set(file.read_text().split())


def points_lost(file) -> float:
    return sum(COSTS[name] for name in file.read_text().split())


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Runs a search with a FakeQuantizer; returns a function of max_drop, and the list of measured files' content."""
    monkeypatch.setitem(quantization.QUANTIZERS, "onnx", FakeQuantizer)
    lost = staticmethod(lambda file, images: [np.full((1, 1, 6), points_lost(file))])
    monkeypatch.setattr(Search, "_predictions", lost)
    opened = SimpleNamespace(backend=SimpleNamespace(batch=None))
    monkeypatch.setattr(quantization, "DetectMultiBackend", lambda *args: opened)
    monkeypatch.setattr(quantization, "damage", lambda expected, found: found.mean())
    fp32, measured = tmp_path / "m.onnx", []
    fp32.write_text("")

    def measure(file):
        measured.append(file.read_text())
        return FLOAT_AP - points_lost(file) / 100, 7.0

    def run(max_drop, measure=measure):
        files = fp32, tmp_path / "m-int8.onnx"
        return quantize_within_budget(*files, "onnx", lambda: iter(()), measure, max_drop, tmp_path / "m-int8.csv")

    return run, measured


WORST = ("decoding of boxes", "last convolutions", "first convolution", "sums")


@pytest.mark.parametrize(("max_drop", "groups"), [(100, 0), (5, 1), (2.5, 2), (1.5, 3), (0.5, 4), (0.095, 5)])
def test_the_fewest_groups_that_keep_the_budget(fake, tmp_path, max_drop, groups):
    run, measured = fake
    steps = run(max_drop)
    chosen = steps.chosen
    assert len(chosen.kept) == groups and chosen.kept[:4] == WORST[:groups] and chosen.drop <= max_drop
    assert points_lost(tmp_path / "m-int8.onnx") == pytest.approx(chosen.drop)
    assert [step.title for step in steps.rows[:2]] == ["fp32", "int8"] and len(measured) <= 2 + 4
    assert steps.rows[0].float_nodes == len(COSTS) and steps.rows[1].float_nodes == 0
    assert steps.rows[1].drop == pytest.approx(sum(COSTS.values()))
    assert not list(tmp_path.glob(".int8-*"))


def test_the_budget_holds_for_other_pictures_too(fake, monkeypatch, caplog):
    monkeypatch.setattr(quantization, "loss", lambda *pair: Loss(loss(*pair).points, loss(*pair).points * 1.5))
    steps = fake[0](2.5)
    assert len(steps.chosen.kept) == 3 and steps.chosen.loss.at_most <= 2.5  # 2 groups would do on the val split
    assert "are too few to promise" not in caplog.text


def test_val_alone_keeps_the_budget_where_no_more_can_be_promised(fake, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(quantization, "loss", lambda *pair: Loss(loss(*pair).points, loss(*pair).points + 3))
    steps = fake[0](2.5)
    assert steps.chosen.drop <= 2.5 and steps.chosen.loss.at_most == min(s.loss.at_most for s in steps.rows[1:])
    assert points_lost(tmp_path / "m-int8.onnx") == pytest.approx(steps.chosen.drop)
    assert f"up to {steps.chosen.loss.at_most:.2f} on others" in caplog.text


def test_table(fake, tmp_path, caplog):
    caplog.set_level("INFO")
    steps = fake[0](5)
    rows = list(csv.DictReader((tmp_path / "m-int8.csv").open()))
    assert len(rows) == len(steps.rows) and rows[0]["step"] == "fp32" and rows[0]["mAP50-95"] == "0.5000"
    assert rows[1]["drop_points"] == rows[1]["at_most"] == "34.10"
    assert rows[1]["ms"] == "7.0" and rows[1]["kept_in_float"] == "-"
    assert "decoding of boxes" in rows[-1]["kept_in_float"]
    assert str(steps) in caplog.text and "30.0000  decoding of boxes (1)" in caplog.text


def test_a_budget_that_cannot_be_met(fake, tmp_path):
    run, measured = fake
    with pytest.raises(ValueError, match=r"int8 loses at least 0.0\d+ points of mAP50-95 and --max-drop allows 0.001"):
        run(0.001)
    assert not (tmp_path / "m-int8.onnx").exists() and (tmp_path / "m-int8.csv").is_file()
    layers = [sum(name.startswith(("layer", "stem", "head")) for name in text.split()) for text in measured[1:]]
    assert min(layers) == 6  # never more than half of the 12 in float


def test_nothing_to_measure(fake, caplog):
    with pytest.raises(ValueError, match="no labels"):
        fake[0](1, measure=lambda file: (float("nan"), 1.0))
    fake[0](1, measure=lambda file: (0.0, 1.0))
    assert "finds nothing in the val split" in caplog.text


@pytest.mark.parametrize(
    ("count", "size", "batches"), [(3, 2, [[0, 1], [2, 2]]), (1, 3, [[0, 0, 0]]), (2, 1, [[0], [1]])]
)
def test_batches_for_calibration(count, size, batches):
    images = [np.full((1, 3, 2, 2), i, np.float32) for i in range(count)]
    assert [batch[:, 0, 0, 0].tolist() for batch in in_batches(images, size)] == batches


def prediction(*rows):
    return np.array([rows], np.float32)


SURE, UNSURE = (50, 50, 20, 20, 1, 1, 0), (50, 50, 20, 20, 0.01, 0.01, 0)


@pytest.mark.parametrize(
    ("found", "least", "most"),
    [
        (SURE, 0, 0),
        ((52, 50, 20, 20, 1, 1, 0), 0.099, 0.101),  # a tenth of the box's width
        ((50, 50, 20, 20, 0.8, 1, 0), 0.199, 0.201),
        ((50, 50, 20, 20, 0, 0, 0), 0.99, 1.01),
        ((900, 50, 20, 20, 1, 1, 0), 0.99, 1.01),  # not more than a lost box
    ],
)
def test_damage(found, least, most):
    assert least <= damage(prediction(SURE), prediction(found)) <= most


def test_damage_where_the_network_sees_nothing_counts_little():
    moved = (90, 90, 20, 20, 0.01, 0.01, 0)
    assert damage(prediction(SURE, UNSURE), prediction(SURE, moved)) < 1e-3
    assert damage(prediction(SURE, UNSURE), prediction(SURE, SURE)) > 0.4  # but a false alarm does
    nothing = prediction((0, 0, 0, 0, 0, 0, 0))
    assert damage(nothing, nothing) == 0


@pytest.mark.parametrize(
    ("key", "packages", "name", "batch"),
    [
        ("onnx", ("onnx", "onnxscript", "onnxruntime"), "m{}.onnx", 1),
        ("onnx", ("onnx", "onnxscript", "onnxruntime"), "m{}.onnx", 2),
        pytest.param(
            "openvino", ("onnx", "onnxscript", "openvino", "nncf"), "m{}_openvino_model", 2, marks=pytest.mark.slow
        ),
    ],
)
def test_real_files(tiny_model_cfg, tmp_path, key, packages, name, batch):
    for package in packages:
        pytest.importorskip(package)
    torch.manual_seed(0)
    model = exportable(DetectionModel(tiny_model_cfg).eval())
    images = [example_images(1, (64, 64), seed).numpy() for seed in range(3)]
    expected = [model(torch.from_numpy(image)).numpy() for image in images]
    fp32, file = (tmp_path / name.format(suffix) for suffix in ("", "-int8"))
    metadata, spec = Metadata(model.names, [8, 16], 32, [64, 64], batch), ExportSpec((64, 64), batch)
    importlib.import_module(f"models.backends.{key}").export(model, fp32, spec, metadata)

    def measure(path):  # a score that falls with the error
        opened = DetectMultiBackend(path, "cpu")
        return 1 - float(np.mean([damage(a, opened(b)) for a, b in zip(expected, images)])), 1.0

    naive = quantize_within_budget(fp32, file, key, lambda: iter(images), measure, 100).rows[1]
    assert naive.drop > 0 and DetectMultiBackend(file, "cpu").backend.metadata.precision == "int8"
    better = tmp_path / name.format("-better")
    steps = quantize_within_budget(fp32, better, key, lambda: iter(images), measure, naive.drop / 2)
    assert steps.chosen.kept and steps.chosen.drop <= naive.drop / 2
    assert (1 - measure(better)[0]) * 100 == pytest.approx(steps.chosen.drop, abs=0.1)
