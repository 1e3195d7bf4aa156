"""Compare validations on the same images: is one detector better, or is the difference noise?

    python compare.py runs/val/exp runs/val/exp2             both mAP with 95 % intervals, their difference, its p-value
    python compare.py runs/train/a runs/train/b runs/train/c trainings: also their learning curves; a is the baseline
    python compare.py runs/val/exp runs/val/exp2 --verbose   also for each class
    python compare.py runs/val/exp                           one run: its intervals, and what its errors cost

Reads the evidence.npz that val.py and the end of a training write. Pictures go to runs/compare/exp.
"""

import argparse
import sys

from engine import options
from utils.extras import load_extra
from utils.logger import setup_logging


def main(opt: argparse.Namespace) -> None:
    """Compare the runs of `opt`, print the figures, draw the pictures."""
    setup_logging()
    load_extra("compare.comparison").compare(opt)


def run(*runs, **kwargs) -> list:
    """Compare from Python: run("runs/val/exp", "runs/val/exp2"); the options are those of compare.py.

    Returns a Difference for each run but the first, metric and class, and for all classes together.
    """
    opt = options.from_kwargs("compare", kwargs)
    opt.runs = list(runs)
    return load_extra("compare.comparison").compare(opt)


if __name__ == "__main__":
    sys.exit(options.start("compare", main))
