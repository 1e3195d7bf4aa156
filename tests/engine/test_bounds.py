"""Numbers on the command line that mean nothing: one line that names the flag."""

import argparse
import math

import pytest

from engine import options
from engine.options.flags import BOUNDS


@pytest.mark.parametrize(
    ("script", "option", "value", "words"),
    [
        ("detect", "max_det", -5, "a whole number between 1 and 1000000, found -5"),
        ("val", "max_det", 0, "a whole number between 1 and"),
        ("detect", "max_det", 7.5, "a whole number between 1 and 1000000, found 7.5"),
        ("detect", "conf_thres", 1.5, "between 0 and 1, found 1.5"),
        ("detect", "conf_thres", math.nan, "between 0 and 1, found nan"),
        ("val", "iou_thres", -0.1, "between 0 and 1"),
        ("val", "precision", 1.01, "between 0 and 1, found 1.01"),
        ("val", "recall", -0.5, "between 0 and 1"),
        ("val", "batch_size", -2, "a whole number between -1 and"),
        ("detect", "line_thickness", 0, "a whole number between 1 and"),
        ("detect", "vid_stride", 10**9, "a whole number between 1 and 65536"),
        ("detect", "imgsz", [640, -1], "a whole number between 1 and .*found -1"),
        ("detect", "classes", [0, -3], "a whole number between 0 and .*found -3"),
        ("detect", "threads", -1, "a whole number between 0 and"),
        ("train", "workers", -1, "a whole number between 0 and"),
        ("train", "patience", -1, "a whole number between 0 and"),
        ("train", "label_smoothing", 2, "between 0 and 1"),
        ("train", "close_mosaic", -1, "a whole number between 0 and"),
        ("train", "save_period", -7, "a whole number between -1 and"),
        ("train", "seed", -1, "a whole number between 0 and"),
        ("export", "topk_all", 0, "a whole number between 1 and"),
        ("export", "tol", [-1.0, 0.1], "between 0 and inf, found -1.0"),
        ("benchmarks", "hard_fail", 40.0, "between 0 and 1"),
        ("segment/train", "mask_ratio", 0, "a whole number between 1 and"),
        ("classify/train", "dropout", -0.5, "between 0 and 1"),
        ("classify/train", "lr0", math.inf, "between 0 and 1000, found inf"),
    ],
)
def test_numbers_beyond_their_bounds(script, option, value, words):
    with pytest.raises(ValueError, match=f"^{option} must be {words}"):
        options.from_kwargs(script, {option: value})
    with pytest.raises(ValueError, match=f"^--{option.replace('_', '-')} must be {words}"):
        options.check_bounds(argparse.Namespace(**{option: value}))


@pytest.mark.parametrize("script", options.PARSERS)
def test_every_default_is_within_its_bounds(script):
    options.check_bounds(options.from_kwargs(script, {}))


@pytest.mark.parametrize("script", options.PARSERS)
def test_every_number_has_bounds(script):
    """Those that are completed from the data file or by the format are checked behind that."""
    numbers = {a.dest for a in options.PARSERS[script]()._actions if a.type in (int, float) and not a.choices}
    assert numbers <= {*BOUNDS, "epochs", "evolve", "opset"}
