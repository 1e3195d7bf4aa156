"""Segment objects in images, videos and streams: everything that detect.py takes and writes, with masks.

    python segment/predict.py --weights best.pt --source image.jpg    an image; folders, videos ... as in detect.py
    python segment/predict.py --weights best.pt --retina-masks        masks as fine as the image
    python segment/predict.py --weights best.pt --save-txt            class and polygon of each object

Results go to runs/predict-seg/exp. The exit code is 1 if a file could not be read; all others are done nevertheless.
From Python: `from segment import predict; predict.run(weights="best.pt", source="folder")`.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # Only a script lacks the project's root on its path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import options
from utils.extras import load_extra


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("segment/predict", argv)


def main(opt: argparse.Namespace) -> int:
    """Segment, print, write; return the exit code."""
    kind = load_extra("segment.segmenter").Segmenter
    from engine.predict.run import run_script

    return run_script(opt, kind)


def run(**kwargs) -> list:
    """Predict from Python with options as keywords and return an engine.predict.detector.Result for every picture."""
    kind = load_extra("segment.segmenter").Segmenter
    from engine.predict.run import collect

    return collect(options.from_kwargs("segment/predict", kwargs), kind)


if __name__ == "__main__":
    sys.exit(options.start("segment/predict", main))
