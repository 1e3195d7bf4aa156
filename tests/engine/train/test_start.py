"""What a training starts from: random numbers, the shipped file, or files that are named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.hyperparameters import default_hyp
from engine.options import from_kwargs
from engine.task import DETECT
from engine.train.start import build_model, load_start, rows_by_class, start_kind
from extras.segment.task import SEGMENT
from models.backbone import backbones, edgevit_xxs, shipped_weights
from models.backbone.pretrained import SHIPPED
from models.heads import Detect, Segment
from models.yolo import DetectionModel
from utils.checkpoint import Checkpoint, save_checkpoint

XXS = "models/yolov5_edgevit.yaml"
NAMES = {0: "cat", 1: "dog"}
ANCHORS = [[8, 10, 16, 20], [24, 30, 40, 50]]  # two maps, two anchors each, px


def started(task=DETECT, **options):
    """Return the model that a training with these options starts with, and the kind of its start."""
    opt = from_kwargs("train", {"cfg": XXS, **options})
    start = load_start(opt)
    model = build_model(opt, default_hyp(), NAMES, task, start, None)
    model.names = NAMES
    return model, start_kind(opt, start, model)


def is_shipped(model, name="edgevit_xxs") -> bool:
    tensors, (backbone,) = load_file(SHIPPED[name]), backbones(model)
    return all(torch.equal(own.half(), tensors[f"model.0.{name}"]) for name, own in backbone.named_parameters())


@pytest.fixture(scope="module")
def other_backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "other.pt"
    torch.save(edgevit_xxs().state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "cfg", "items"),
    [
        ("edgevit_xxs", XXS, "400/407"),
        ("edgevit_xxs", "yolov5_edgevit-seg.yaml", "400/425"),
        ("edgevit_n", "yolov5_edgevit_n.yaml", "310/317"),
    ],
)
def test_the_shipped_detector_is_used_by_itself_and_said_in_one_line(caplog, name, cfg, items):
    task = SEGMENT if "seg" in cfg else DETECT
    with caplog.at_level("INFO"):
        model, kind = started(task, cfg=cfg)
    assert kind == "start" and is_shipped(model, name)
    (line,) = (m for m in caplog.messages if f"{name}_start.safetensors" in m)
    assert line.startswith(f"Transferred {items} items from ")
    assert line.endswith("; of 6 more the outputs for boxes, objectness and 0 classes")
    file, own = load_file(SHIPPED[name]), model.state_dict()
    for key in ("model.19.cv3.conv.weight", "model.5.cv1.bn.running_var"):
        assert torch.equal(own[key].to(file[key].dtype), file[key])
    bias = own["model.20.m.0.bias"].view(3, -1)
    assert torch.equal(bias[:, :5].half(), file["model.20.m.0.bias"].view(3, 5))


def test_another_neck_takes_the_shipped_backbone_alone(tmp_path, caplog):
    cfg = tmp_path / "narrow.yaml"
    cfg.write_text(Path(XXS).read_text().replace("SPPF, [288, 5]", "SPPF, [320, 5]"))
    assert cfg.read_text() != Path(XXS).read_text()
    with caplog.at_level("INFO"):
        model, kind = started(cfg=str(cfg))
    assert kind == "backbone" and is_shipped(model)
    assert [m for m in caplog.messages if "edgevit_xxs_start.safetensors: 244 of the backbone's 244 tensors" in m]


@pytest.mark.parametrize(
    "options, kind",
    [
        ({"weights": "none"}, "nothing"),
        ({"cfg": "yolov5_edgevit_xs.yaml"}, "nothing"),  # no file is shipped for it
        ({"cfg": "yolov5n.yaml"}, "nothing"),
    ],
)
def test_a_start_from_nothing(options, kind):
    model, found = started(**options)
    assert found == kind
    if options.get("weights"):
        assert not is_shipped(model)


@pytest.mark.parametrize("weights", ["", "none"])
def test_a_named_backbone_comes_before_the_shipped_one(other_backbone, weights):
    model, kind = started(backbone_weights=other_backbone, weights=weights)
    assert kind == "backbone" and not is_shipped(model)


def test_a_checkpoint_comes_before_the_shipped_backbone(tmp_path):
    model, _ = started(weights="none")
    ckpt = Checkpoint(yaml=model.yaml, nc=2, names=model.names, stride=[8, 16, 32], state_dict=model.state_dict())
    save_checkpoint(tmp_path / "own.pt", ckpt)
    again, kind = started(weights=str(tmp_path / "own.pt"))
    assert kind == "detector" and not is_shipped(again)


@pytest.mark.parametrize(
    "arguments, is_found",
    [([], True), ([{"drop_path_rate": 0.1}], True), (["own.pt"], False), ([None], True)],
)
def test_a_row_with_weights_of_its_own_keeps_them(arguments, is_found):
    assert (shipped_weights([[-1, 1, "edgevit_xxs", arguments]]) is not None) == is_found


def test_a_file_that_was_deleted_is_not_missed(monkeypatch, tmp_path):
    monkeypatch.setitem(SHIPPED, "edgevit_xxs", tmp_path / "gone.safetensors")
    assert started()[1] == "nothing"


def test_a_detector_of_other_classes_gives_those_that_it_shares(tmp_path, caplog):
    model, _ = started(weights="none")
    old = DetectionModel(XXS, nc=3)
    with torch.no_grad():
        old.model[-1].m[0].bias.copy_(torch.arange(24.0))
    names = {0: "bird", 1: "dog", 2: "fish"}
    ckpt = Checkpoint(yaml=old.yaml, nc=3, names=names, stride=[8, 16, 32], state_dict=old.state_dict())
    save_checkpoint(tmp_path / "old.pt", ckpt)
    with caplog.at_level("INFO"):
        again, kind = started(weights=str(tmp_path / "old.pt"))
    assert kind == "start"  # The recipe is that for new things to learn.
    assert any(m.endswith("; of 6 more the outputs for boxes, objectness and 1 classes") for m in caplog.messages)
    bias, first = (m.model[-1].m[0].bias.view(3, 7) for m in (again, model))
    expected = torch.arange(24.0).view(3, 8)
    assert torch.equal(bias[:, :5], expected[:, :5]) and torch.equal(bias[:, 6], expected[:, 6])  # 6 is dog
    assert torch.equal(bias[:, 5], first[:, 5])  # cat is new


def test_none_needs_a_model_file():
    with pytest.raises(ValueError, match="nothing to train: give --cfg"):
        load_start(from_kwargs("train", {"cfg": "", "weights": "none"}))


@pytest.mark.parametrize("nm, old_nm", [(0, 0), (0, 4), (4, 0), (4, 4), (4, 8)])
def test_rows_of_a_head_for_other_classes(nm, old_nm):
    """Equal classes keep their outputs wherever they stand, new ones stay as they are; masks need equal numbers."""

    def build(nc, nm):
        return Segment(nc, ANCHORS, nm, 8, [4, 6]) if nm else Detect(nc, ANCHORS, [4, 6])

    new, old = build(3, nm), build(2, old_nm)
    rows = rows_by_class(new, old.state_dict(), {0: "a", 1: "b", 2: "c"}, {0: "c", 1: "x"})
    assert rows.keys() == {"m.0.weight", "m.0.bias", "m.1.weight", "m.1.bias"}
    for name, tensor in rows.items():
        found, own, given = (
            t.view(2, -1, *t.shape[1:]) for t in (tensor, new.state_dict()[name], old.state_dict()[name])
        )
        assert torch.equal(found[:, :5], given[:, :5])
        assert torch.equal(found[:, 5:7], own[:, 5:7])
        assert torch.equal(found[:, 7], given[:, 5])
        assert torch.equal(found[:, 8:], (given[:, 7:] if nm == old_nm else own[:, 8:]))


@pytest.mark.parametrize(
    "tensors",
    [
        {"m.0.bias": torch.zeros(15)},  # not a whole number of outputs for each of two anchors
        {"m.0.bias": torch.zeros(8)},  # fewer than boxes and objectness need
        {"m.0.weight": torch.zeros(14, 9, 1, 1)},  # other channels
        {"anchors": torch.zeros(2, 2, 2)},
    ],
)
def test_what_is_no_such_head_gives_no_rows(tensors):
    assert rows_by_class(Detect(3, ANCHORS, [4, 6]), tensors, {0: "a", 1: "b", 2: "c"}, {0: "a", 1: "b"}) == {}
