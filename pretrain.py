"""Teach a backbone on images without labels, to start a detector from.

    python pretrain.py --source folder/ --teacher yolov5n.pt           a detector's maps, and the images' patches
    python pretrain.py --source folder/                                without a teacher: the patches alone
    python pretrain.py --source 'photos/**/*.jpg' --backbone edgevit_s --teacher torchvision:resnet50 --download
    python pretrain.py --source my.yaml --teacher best.pt              the training images of a data set
    python pretrain.py --resume                                        go on after an interruption

The result: python train.py --cfg models/yolov5_edgevit.yaml --backbone-weights runs/pretrain/exp/weights/backbone.pt
From Python: `import pretrain; pretrain.run(source="folder", teacher="yolov5n.pt")`; every flag: pretrain.py --help
"""

import argparse
import sys

from engine import options
from utils.extras import load_extra


def main(opt: argparse.Namespace, callbacks=None) -> argparse.Namespace:
    """Pretrain with `opt` and return it with `save_dir`, the run folder."""
    return load_extra("teach.pretraining").pretrain(opt, callbacks)


def run(callbacks=None, **kwargs) -> argparse.Namespace:
    """Pretrain from Python with options as keywords (source="folder", epochs=5) and return them with `save_dir`."""
    return main(options.from_kwargs("pretrain", kwargs), callbacks)


if __name__ == "__main__":
    sys.exit(options.start("pretrain", main, first="torch"))
