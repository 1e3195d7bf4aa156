"""Validate an instance segmentation model: COCO-protocol AP of boxes and masks, curves, confusion matrix.

    python segment/val.py                                              the newest training run of segment/train.py
    python segment/val.py --weights best.pt --data my.yaml --img 640   a model file on a data set
    python segment/val.py --weights best.pt --task test --verbose      another split, a row for each class
    python segment/val.py --weights best.pt --save-json --save-txt     also write run lengths, and polygons

Results go to runs/val-seg/exp.
From Python: `from segment import val; val.run(weights="best.pt", data="my.yaml")`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.scripts import start, val_script

main, run = val_script("segment")

if __name__ == "__main__":
    sys.exit(start("segment/val", main))
