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

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.scripts import start, train_script

main, run = train_script("classify")

if __name__ == "__main__":
    sys.exit(start("classify/train", main))
