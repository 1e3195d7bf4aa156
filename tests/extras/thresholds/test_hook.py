"""Thresholds from val.py into a checkpoint and from there to whatever detects."""

import json
import re

import numpy as np
import pytest
import torch

import detect
import val
from engine import options
from extras.thresholds.checkpoint import check_writable
from extras.thresholds.hook import ThresholdHook
from models.backends.thresholds import Thresholds
from tests.tiny_detector import write_tiny_weights
from utils.checkpoint import load_checkpoint, save_checkpoint

OWN = {"conf": [0.3, 0.7], "wanted": "precision 0.9", "scores": [0.0, 1.0], "chances": [0.0, 0.5]}


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


@pytest.fixture
def run(tmp_path, weights, tiny_dataset):
    same = {"weights": weights, "data": tiny_dataset, "device": "cpu", "workers": 0, "project": tmp_path / "runs"}
    return lambda **more: val.run(**{**same, **more}, exist_ok=True)


def with_thresholds(weights, **changes):
    """Put OWN into a checkpoint and return its path."""
    ckpt = load_checkpoint(weights)
    ckpt.meta["thresholds"] = {**OWN, **changes}
    save_checkpoint(weights, ckpt)
    return weights


def test_nothing_is_written_unless_asked_for(weights, tmp_path, caplog):
    """A checkpoint stays as it is; the run folder gets a file and a picture."""
    caplog.set_level("INFO")
    before = weights.read_bytes()
    opt = options.from_kwargs("val", {"weights": [weights], "precision": 0.5})
    opt.split = "val"
    own = Thresholds([0.855, 0.5, 0.5], "recall 0.4", [0.0, 1.0], [0.0, 1.0])
    hook = ThresholdHook(opt, {0: "box", 1: "disc", 2: "ring"}, own)
    box = [0, 0, 9, 9]
    for i in range(12):
        hook.add(f"{i}.jpg", [[*box, 0.9 - i / 100, 0], [*box, i / 100, 1]], [[0, *box], [1, *box]][: 1 + (i > 6)])
    hook.close(tmp_path)
    assert weights.read_bytes() == before
    found = json.loads((tmp_path / "thresholds.json").read_text())
    assert found["wanted"] == "precision 0.5" and len(found["conf"]) == 3 and found["measured"]["images"] == 12
    assert (tmp_path / "thresholds.png").stat().st_size > 10_000
    there = r"own thresholds for recall 0.4 on these images:\n.*\nbox +12 +0.855 +1.000 .* 0.417 "
    assert re.search(there, caplog.text)
    assert re.search(r"box +12 .* 1.000 .1.00 to 1.00.", caplog.text)
    assert "disc, ring: fewer than 10 targets" in caplog.text and "no calibration: too little" in caplog.text


def test_thresholds_are_written_and_everything_else_stays(run, weights, caplog):
    caplog.set_level("INFO")
    before = load_checkpoint(weights)
    run(recall=0.2, write_thresholds=True)
    after = load_checkpoint(weights)
    own = after.meta.pop("thresholds")
    assert own["wanted"] == "recall 0.2" and all(0 <= conf <= 1 for conf in own["conf"])
    assert own["measured"]["data"] == "tiny.yaml" and own["measured"]["split"] == "val"
    for name, tensor in before.state_dict.items():
        assert torch.equal(tensor, after.state_dict[name]) and tensor.dtype == after.state_dict[name].dtype
    rest = [{k: v for k, v in vars(ckpt).items() if k != "state_dict"} for ckpt in (before, after)]
    assert rest[0] == rest[1]
    assert "Thresholds for recall 0.2 in each class" in caplog.text and "written into" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"precision": 0.9, "recall": 0.9}, "expected --precision or --recall, found both: 0.9 and 0.9"),
        ({"precision": 1.5}, "precision must be between 0 and 1, found 1.5"),
        ({"write_thresholds": True, "single_cls": True}, "classes of --single-cls are not those of the checkpoint"),
    ],
)
def test_wrong_options(run, flags, message):
    with pytest.raises(ValueError, match=message):
        run(**flags)


def test_only_a_checkpoint_of_this_project_is_rewritten(run, weights, tmp_path):
    for files, message in (
        ([weights, weights], "expected one checkpoint, found 2"),
        (
            [tmp_path / "other.pt"],
            "expected a checkpoint of this project, found .*other.pt: python -m utils.checkpoint",
        ),
    ):
        torch.save({"model": {}}, tmp_path / "other.pt")
        opt = options.from_kwargs("val", {"weights": files, "write_thresholds": True})
        with pytest.raises(ValueError, match=message):
            check_writable(opt)


def test_detection_uses_them_unless_a_flag_says_otherwise(weights, tiny_dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    same = {"source": tiny_dataset.parent / "images" / "val", "imgsz": 64, "nosave": True, "project": tmp_path / "out"}
    own = [one.boxes for one in detect.run(weights=with_thresholds(weights), **same)]
    assert "thresholds of the model: box 0.3, disc 0.7 (precision 0.9); --conf-thres is not given" in caplog.text
    plain = [one.boxes for one in detect.run(weights=weights, conf_thres=0.25, **same)]
    kept = [boxes[boxes[:, 4] > np.array([0.3, 0.7])[boxes[:, 5].astype(int)]] for boxes in plain]
    assert sum(map(len, kept)) and sum(map(len, plain)) > sum(map(len, kept))
    for mine, expected in zip(own, kept):
        np.testing.assert_array_equal(mine[:, [0, 1, 2, 3, 5]], expected[:, [0, 1, 2, 3, 5]])
        np.testing.assert_allclose(mine[:, 4], expected[:, 4] / 2, rtol=1e-6)  # what their confidence is worth


def test_hub_uses_them_until_conf_is_set(weights, tiny_dataset):
    import hubconf

    model = hubconf.custom(with_thresholds(weights), device="cpu", _verbose=False)
    picture = sorted((tiny_dataset.parent / "images" / "val").iterdir())[0]
    assert model.conf is None
    own = model(picture).xyxy[0].numpy()
    model.conf = 0.25
    plain = model(picture).xyxy[0].numpy()
    kept = plain[plain[:, 4] > np.array([0.3, 0.7])[plain[:, 5].astype(int)]]
    np.testing.assert_allclose(own[:, 4], kept[:, 4] / 2, rtol=1e-6)


def test_an_export_has_them_too(weights, tiny_dataset, tmp_path):
    from extras.export.exporter import export_formats
    from models.backends import DetectMultiBackend

    opt = options.from_kwargs("export", {"weights": with_thresholds(weights), "include": ["onnx"], "imgsz": [64]})
    (result,) = export_formats(opt)
    assert DetectMultiBackend(result.file).thresholds == DetectMultiBackend(weights, "cpu").thresholds
    same = {"source": tiny_dataset.parent / "images" / "val", "nosave": True, "project": tmp_path / "out"}
    ours, theirs = (detect.run(weights=file, **same) for file in (weights, result.file))
    assert [len(one.boxes) for one in ours] == [len(one.boxes) for one in theirs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conf": [0.5]}, "conf: expected a number for each of 2 classes, found 1"),
        ({"conf": [0.5, 2]}, r"conf: expected numbers from 0 to 1, found \[0.5, 2\]"),
        ({"conf": "0.5"}, "conf: expected numbers from 0 to 1, found '0.5'"),
        ({"scores": [0.5, 0.5], "chances": [0, 1]}, "expected rising scores"),
        ({"chances": [0.1]}, "and a chance for each, found 2 and 1"),
    ],
)
def test_damaged_thresholds_in_a_checkpoint(weights, changes, message):
    from models.backends import DetectMultiBackend

    with pytest.raises(ValueError, match=f"tiny.pt: the checkpoint: thresholds: .*{message}"):
        DetectMultiBackend(with_thresholds(weights, **changes), "cpu")
