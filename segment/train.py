"""Train an instance segmentation model.

    python segment/train.py --cfg yolov5_edgevit-seg.yaml                              the embedded data, from scratch
    python segment/train.py --cfg yolov5n-seg.yaml --data my.yaml --epochs 100 --img 640    your data, from scratch
    python segment/train.py --weights best.pt --data my.yaml                                fine-tune
    python segment/train.py --resume                                                        go on

The labels are polygons: class x1 y1 x2 y2 ..., normalised. A row that is a box trains the box alone.
Results go to runs/train-seg/exp, exp2 ...; every flag: python segment/train.py --help
From Python: `from segment import train; train.run(epochs=10, imgsz=320)` with the options as keywords.
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
    return options.parse("segment/train", argv)


def main(opt: argparse.Namespace, callbacks=None) -> argparse.Namespace:
    """Train with `opt` and return it with `save_dir`, the run folder."""
    task = load_extra("segment.task").SEGMENT
    from engine.train.run import train

    return train(opt, callbacks, task)


def run(callbacks=None, **kwargs) -> argparse.Namespace:
    """Train from Python with options as keywords and return them with `save_dir`, the run folder."""
    return main(options.from_kwargs("segment/train", kwargs), callbacks)


if __name__ == "__main__":
    sys.exit(options.start("segment/train", main, first="torch"))
