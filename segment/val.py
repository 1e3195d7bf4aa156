"""Validate an instance segmentation model: COCO-protocol AP of boxes and masks, curves, confusion matrix.

    python segment/val.py                                              the newest training run of segment/train.py
    python segment/val.py --weights best.pt --data my.yaml --img 640   a model file on a data set
    python segment/val.py --weights best.pt --task test --verbose      another split, a row for each class
    python segment/val.py --weights best.pt --save-json --save-txt     also write run lengths, and polygons

Results go to runs/val-seg/exp.
From Python: `from segment import val; val.run(weights="best.pt", data="my.yaml")`.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # Only a script lacks the project's root on its path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import options
from utils.extras import lazy, load_extra

__getattr__ = lazy({}, __name__)  # YOLOv5's names


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("segment/val", argv)


def main(opt: argparse.Namespace) -> None:
    """Validate with `opt`; the figures are printed and written."""
    task = load_extra("segment.task").SEGMENT
    from engine.val.run import run_script

    run_script(opt, task)


def run(callbacks=None, **kwargs):
    """Validate from Python with options as keywords and return an extras.segment.task.SegmentEvalResult."""
    task = load_extra("segment.task").SEGMENT
    from engine.val.run import validate

    return validate(options.from_kwargs("segment/val", kwargs), callbacks, task)


if __name__ == "__main__":
    sys.exit(options.start("segment/val", main, first="torch"))
