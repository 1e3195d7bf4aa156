"""Validate a detector: COCO-protocol AP, precision, recall, curves, confusion matrix.

    python val.py                                              the newest training run, else the embedded weights
    python val.py --weights best.pt --data my.yaml --img 640   a checkpoint on a data set
    python val.py --weights a.pt b.pt                          an ensemble
    python val.py --weights best.pt --task test --verbose      another split, a row for each class
    python val.py --weights best.pt --save-json --save-txt     also write the boxes
    python val.py --weights best.pt --v5-map                   also YOLOv5's own recipe for P, R and mAP
    python val.py --weights a.pt b.pt --task speed             time each model
    python val.py --weights a.pt b.pt --task study             mAP and time of each model at image sizes 256 to 1536

Results go to runs/val/exp.
"""

import argparse
import sys

from engine import options
from utils.extras import lazy

__getattr__ = lazy({}, __name__)  # YOLOv5's names


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("val", argv)


def main(opt: argparse.Namespace) -> None:
    """Validate with `opt`; the figures are printed and written."""
    from engine.val.run import run_script

    run_script(opt)


def run(callbacks=None, **kwargs):
    """Validate from Python: run(weights="best.pt", data="my.yaml"); the options are those of val.py.

    Returns an engine.val.detection.EvalResult; with task speed or study a list of one for each model (and size).
    callbacks: a utils.callbacks.Callbacks whose on_val_... hooks are fired.
    """
    from engine.val.run import validate

    return validate(options.from_kwargs("val", kwargs), callbacks)


if __name__ == "__main__":
    sys.exit(options.start("val", main, first="torch"))
