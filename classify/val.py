"""Validate a classifier: top-1 and top-5 accuracy, confusion matrix, the worst mistakes.

    python classify/val.py                                              the newest training run of classify/train.py
    python classify/val.py --weights best.pt --data folder --verbose    a model file on image folders, a row per class
    python classify/val.py --weights best.onnx --task test              an export, on another split

Results go to runs/val-cls/exp.
From Python: `from classify import val; val.run(weights="best.pt", data="my.yaml")`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.scripts import start, val_script

main, run = val_script("classify")

if __name__ == "__main__":
    sys.exit(start("classify/val", main))
