"""Train a detector.

    python train.py --cfg models/yolov5_edgevit.yaml                            the embedded data set, from scratch
    python train.py --cfg yolov5n.yaml --data my.yaml --epochs 100 --img 640    your data, from scratch
    python train.py --weights best.pt --data my.yaml                            fine-tune
    python train.py --resume                                                    go on after an interruption
    torchrun --nproc_per_node 2 train.py --cfg yolov5s.yaml --data coco.yaml --batch-size 64    several GPUs

From Python: `import train; train.run(cfg="yolov5n.yaml", data="my.yaml", epochs=10)`.
Results go to runs/train/exp, exp2 ...; every flag: python train.py --help
"""

import argparse
import sys

from engine import options
from utils.extras import lazy

__getattr__ = lazy({}, __name__)  # YOLOv5's names


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("train", argv)


def main(opt: argparse.Namespace, callbacks=None) -> argparse.Namespace:
    """Train (or search hyperparameters) with `opt` and return it with `save_dir`, the run folder."""
    from engine.train.run import train

    return train(opt, callbacks)


def run(**kwargs) -> argparse.Namespace:
    """Train from Python with options as keywords (imgsz=320, batch_size=8) and return them with `save_dir`."""
    return main(options.from_kwargs("train", kwargs))


if __name__ == "__main__":
    sys.exit(options.start("train", main, first="torch"))
