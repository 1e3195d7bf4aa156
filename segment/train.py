"""Train an instance segmentation model.

    python segment/train.py --cfg yolov5_edgevit-seg.yaml                              the embedded data, from scratch
    python segment/train.py --cfg yolov5n-seg.yaml --data my.yaml --epochs 100 --img 640    your data, from scratch
    python segment/train.py --weights best.pt --data my.yaml                                fine-tune
    python segment/train.py --resume                                                        go on

The labels are polygons: class x1 y1 x2 y2 ..., normalised. A row that is a box trains the box alone.
Results go to runs/train-seg/exp, exp2 ...; every flag: python segment/train.py --help
From Python: `from segment import train; train.run(epochs=10, imgsz=320)` with the options as keywords.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.scripts import start, train_script

main, run = train_script("segment")

if __name__ == "__main__":
    sys.exit(start("segment/train", main))
