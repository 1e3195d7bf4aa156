"""Validate a classifier: top-1 and top-5 accuracy, confusion matrix, the worst mistakes.

    python classify/val.py                                              the newest training run of classify/train.py
    python classify/val.py --weights best.pt --data folder --verbose    a model file on image folders, a row per class
    python classify/val.py --weights best.onnx --task test              an export, on another split

Results go to runs/val-cls/exp.
From Python: `from classify import val; val.run(weights="best.pt", data="my.yaml")`.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # Only a script lacks the project's root on its path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import options
from utils.extras import load_extra


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("classify/val", argv)


def main(opt: argparse.Namespace) -> None:
    """Validate with `opt`; the figures are printed and written."""
    task = load_extra("classify.task").CLASSIFY
    from engine.val.run import run_script

    run_script(opt, task)


def run(callbacks=None, **kwargs):
    """Validate from Python with options as keywords and return an extras.classify.task.ClassificationEvalResult."""
    task = load_extra("classify.task").CLASSIFY
    from engine.val.run import validate

    return validate(options.from_kwargs("classify/val", kwargs), callbacks, task)


if __name__ == "__main__":
    sys.exit(options.start("classify/val", main, first="torch"))
