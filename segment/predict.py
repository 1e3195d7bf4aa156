"""Segment objects in images, videos and streams: everything that detect.py takes and writes, with masks.

    python segment/predict.py --weights best.pt --source image.jpg    an image; folders, videos ... as in detect.py
    python segment/predict.py --weights best.pt --retina-masks        masks as fine as the image
    python segment/predict.py --weights best.pt --save-txt            class and polygon of each object

Results go to runs/predict-seg/exp. The exit code is 1 if a file could not be read; all others are done nevertheless.
From Python: `from segment import predict; predict.run(weights="best.pt", source="folder")`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.scripts import predict_script, start

main, run = predict_script("segment")

if __name__ == "__main__":
    sys.exit(start("segment/predict", main))
