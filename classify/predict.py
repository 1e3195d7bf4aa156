"""Classify images, videos and streams: everything that detect.py takes, with the most probable classes of each.

    python classify/predict.py --weights best.pt --source image.jpg    an image; folders, videos ... as in detect.py
    python classify/predict.py --weights best.pt --save-txt            the five most probable classes as text

Results go to runs/predict-cls/exp. The exit code is 1 if a file could not be read; all others are done nevertheless.
From Python: `from classify import predict; predict.run(weights="best.pt", source="folder")`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.scripts import predict_script, start

main, run = predict_script("classify")

if __name__ == "__main__":
    sys.exit(start("classify/predict", main))
