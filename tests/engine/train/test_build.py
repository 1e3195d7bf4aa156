"""What a training starts from: random numbers, a shipped backbone, or files that are named."""

import pytest
import torch
from safetensors.torch import load_file

from engine.hyperparameters import default_hyp
from engine.options import from_kwargs
from engine.task import DETECT
from engine.train.build import build_model, load_start, start_kind
from models.backbone import backbones, edgevit_xxs, shipped_weights
from models.backbone.pretrained import SHIPPED
from utils.checkpoint import Checkpoint, save_checkpoint

XXS = "models/yolov5_edgevit.yaml"


def started(**options):
    """Return the model that a training with these options starts with, and the kind of its start."""
    opt = from_kwargs("train", {"cfg": XXS, **options})
    start = load_start(opt)
    model = build_model(opt, default_hyp(), 2, DETECT, start, None)
    return model, start_kind(opt, start, model)


def is_shipped(model) -> bool:
    tensors, (backbone,) = load_file(SHIPPED["edgevit_xxs"]), backbones(model)
    return all(torch.equal(own.to(torch.float16), tensors[name]) for name, own in backbone.named_parameters())


@pytest.fixture(scope="module")
def other_backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "other.pt"
    torch.save(edgevit_xxs().state_dict(), path)
    return str(path)


def test_the_shipped_backbone_is_used_by_itself_and_said_in_one_line(caplog):
    with caplog.at_level("INFO"):
        model, kind = started()
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


def test_none_needs_a_model_file():
    with pytest.raises(ValueError, match="nothing to train: give --cfg"):
        load_start(from_kwargs("train", {"cfg": "", "weights": "none"}))
