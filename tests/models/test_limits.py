"""Model files whose numbers no model has: refused by row, before memory or time is spent."""

import copy
import time

import pytest
import torch
from conftest import SLOWNESS

from models.load import attempt_load
from models.yolo import DetectionModel
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.files.values import MAX_CLASSES


def changed(cfg: dict, row: list | None = None, **values) -> dict:
    cfg = copy.deepcopy(cfg) | values
    if row:
        cfg["backbone"][2] = row
    return cfg


@pytest.mark.parametrize(
    ("row", "values", "words"),
    [
        (None, {"depth_multiple": 1e9}, "depth_multiple: expected at most"),
        ([-1, 3, "C3", [24]], {"depth_multiple": 1e5}, "row 2 .*expected at most 300 repeats"),
        (None, {"depth_multiple": float("inf")}, "depth_multiple: expected"),
        (None, {"depth_multiple": float("nan")}, "depth_multiple: expected a positive number"),
        (None, {"channel_multiple": 0.5}, "channel_multiple: expected a whole number"),
        (None, {"width_multiple": 4000}, "row [01] .*takes .* values"),
        (None, {"nc": 10**9}, "nc: expected at most"),
        (None, {"ch": 10**9}, "ch: expected a number of channels"),
        (None, {"anchors": 10**9}, "row 6 .*or their number, found 1000000000"),
        (None, {"backbone": [[-1, 1, "Conv", [8]]] * 2000}, "expected at most 1000 rows, found 2,003"),
        ([-1, 10**9, "C3", [24]], {}, "row 2 .*expected at most 300 repeats"),
        ([-1, 1, "Conv", [24, 100_001, 2]], {}, "row 2 .*takes .* values"),
        ([-1, 1, "Conv", [24, 3, 2, 100_000]], {}, "row 2 Conv.*makes a map of"),
        ([-1, 1, "nn.Upsample", [None, 5000, "nearest"]], {}, "row 2 nn.Upsample.*makes a map of"),
        ([-1, 1, "nn.ZeroPad2d", [100_000]], {}, "row 2 nn.ZeroPad2d.*makes a map of"),
        ([-1, 1, "nn.AdaptiveAvgPool2d", [100_000]], {}, "row 2 nn.AdaptiveAvgPool2d.*makes a map of"),
        ([-1, 1, "nn.MaxPool2d", [30_001, 1, 15_000]], {}, "row 2 nn.MaxPool2d.*makes a map of"),
        ([-1, 1, "nn.ConvTranspose2d", [24, 4, 5000]], {}, "row 2 nn.ConvTranspose2d.*makes a map of"),
        ([-1, 1, "TransformerBlock", [24, 4, 10**9]], {}, "row 2 .*at most 300 transformer layers"),
        ([-1, 1, "Conv", ["[" * 5000]], {}, "row 2 .*at most 1000 characters"),
        ([[[[[[[[-1]]]]]]]], {}, "row 2 "),
    ],
)
def test_numbers_that_no_model_has(tiny_model_cfg, row, values, words):
    start = time.process_time()
    with pytest.raises(ValueError, match=words) as caught:
        DetectionModel(changed(tiny_model_cfg, row, **values))
    assert time.process_time() - start < SLOWNESS and len(str(caught.value)) < 500


def test_a_model_in_a_checkpoint_is_hardly_larger_than_its_tensors(tmp_path, tiny_model_cfg):
    state = DetectionModel(tiny_model_cfg).state_dict()
    cfg = changed(tiny_model_cfg, width_multiple=40)
    save_checkpoint(tmp_path / "wide.pt", Checkpoint(cfg, {0: "a", 1: "b"}, 2, [8.0, 16.0], state))
    with pytest.raises(ValueError, match=r"row \d .*takes .* values, .* are left for it"):
        attempt_load(tmp_path / "wide.pt")


def test_building_on_the_meta_device_draws_no_random_number(tiny_model_cfg):
    torch.manual_seed(0)
    with torch.device("meta"):
        torch.nn.Conv2d(3, 4, 3)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"depth": 10**9}, "depth: expected at most 300"),
        ({"embed_dim": 10**9}, "embed_dim: expected at most"),
        ({"pretrained": True}, "'pretrained' is not for a model file"),
        ({"checkpoint_path": "x.pt"}, "'checkpoint_path' is not for a model file"),
    ],
)
def test_keywords_of_a_timm_row(tiny_model_cfg, keywords, words):
    with pytest.raises(ValueError, match=words):
        DetectionModel(changed(tiny_model_cfg, [-1, 1, "timm", ["resnet18", keywords]]))


def test_the_most_classes():
    assert MAX_CLASSES >= 21_841  # ImageNet's large set
