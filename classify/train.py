"""Train a classifier of images.

    python classify/train.py                                                 EdgeViT-XXS on the embedded data set
    python classify/train.py --model edgevit_s --data folder --img 224       your images: folder/train/CLASS/*.jpg, val/
    python classify/train.py --model yolov5n.pt --data folder                a detector's backbone and a new last layer
    python classify/train.py --model resnet18 --pretrained --data folder     torchvision's weights (downloaded)
    python classify/train.py --resume                                        go on after an interruption

The result is a backbone to start a detector with: python train.py --cfg ... --backbone-weights best.pt
Results go to runs/train-cls/exp, exp2 ...; every flag: python classify/train.py --help
From Python: `from classify import train; train.run(epochs=10, imgsz=320)` with the options as keywords.
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
    return options.parse("classify/train", argv)


def main(opt: argparse.Namespace, callbacks=None) -> argparse.Namespace:
    """Train with `opt` and return it with `save_dir`, the run folder."""
    task = load_extra("classify.task").CLASSIFY
    from engine.train.run import train

    return train(opt, callbacks, task)


def run(callbacks=None, **kwargs) -> argparse.Namespace:
    """Train from Python with options as keywords and return them with `save_dir`, the run folder."""
    return main(options.from_kwargs("classify/train", kwargs), callbacks)


if __name__ == "__main__":
    sys.exit(options.start("classify/train", main, first="torch"))
