"""Numbers on the command line that mean nothing: one line that names the flag."""

import math

import pytest

from engine import options
from engine.options.flags import BOUNDS


@pytest.mark.parametrize(
    ("script", "option", "value", "words"),
    [
        ("detect", "max_det", -5, "--max-det: expected a whole number from 1 to 1000000, found -5"),
        ("val", "max_det", 0, "--max-det: expected a whole number from 1"),
        ("detect", "conf_thres", 1.5, "--conf-thres: expected a number from 0.0 to 1.0, found 1.5"),
        ("detect", "conf_thres", math.nan, "--conf-thres: .*found nan"),
        ("val", "iou_thres", -0.1, "--iou-thres: expected a number"),
        ("detect", "line_thickness", 0, "--line-thickness: expected a whole number from 1"),
        ("detect", "vid_stride", 10**9, "--vid-stride: expected a whole number from 1 to 65536"),
        ("detect", "imgsz", [640, -1], "--imgsz: expected a whole number from 1"),
        ("detect", "classes", [0, -3], "--classes: expected a whole number from 0, found -3"),
        ("detect", "threads", -1, "--threads: expected a whole number from 0"),
        ("train", "workers", -1, "--workers: expected a whole number from 0"),
        ("train", "patience", -1, "--patience: expected a whole number from 0"),
        ("train", "label_smoothing", 2, "--label-smoothing: expected a number from 0.0 to 1.0"),
        ("train", "close_mosaic", -1, "--close-mosaic: expected a whole number from 0"),
        ("train", "save_period", -7, "--save-period: expected a whole number from -1"),
        ("train", "seed", -1, "--seed: expected a whole number from 0"),
        ("export", "topk_all", 0, "--topk-all: expected a whole number from 1"),
        ("export", "tol", [-1.0, 0.1], "--tol: expected a number from 0.0"),
        ("segment/train", "mask_ratio", 0, "--mask-ratio: expected a whole number from 1"),
        ("classify/train", "dropout", -0.5, "--dropout: expected a number from 0.0 to 1.0"),
        ("classify/train", "lr0", math.inf, "--lr0: expected a number from 0.0 to 1000.0, found inf"),
        ("detect", "max_det", 7.5, "--max-det: expected a whole number from 1 to 1000000, found 7.5"),
        ("val", "batch_size", -2, "--batch-size: expected a whole number from -1"),
        ("benchmarks", "hard_fail", 40.0, "--hard-fail: expected a number from 0.0 to 1.0"),
    ],
)
def test_numbers_beyond_their_bounds(script, option, value, words):
    with pytest.raises(ValueError, match=words):
        options.from_kwargs(script, {option: value})


@pytest.mark.parametrize("script", options.PARSERS)
def test_every_default_is_within_its_bounds(script):
    options.check_bounds(options.from_kwargs(script, {}))


@pytest.mark.parametrize("script", options.PARSERS)
def test_every_number_has_bounds(script):
    """Those that are completed from the data file or by the format are checked behind that."""
    numbers = {a.dest for a in options.PARSERS[script]()._actions if a.type in (int, float) and not a.choices}
    assert numbers <= {*BOUNDS, "epochs", "evolve", "opset"}
