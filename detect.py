"""Detect objects in images, videos and streams.

    python detect.py --source image.jpg               an image
                              clip.mp4                a video
                              folder/                 all images and videos in a folder
                              'folder/**/*.jpg'       a glob
                              list.txt                a list of the above, one a line
                              https://host/image.jpg  an image or video behind a URL
                              0                       a webcam
                              rtsp://host/stream      a network stream (rtsp, rtmp, http ...)
                              list.streams            several streams at once, one a line
                              screen                  the screen: 'screen [n] [left top width height]'

    python detect.py --weights best.pt --source folder/ --save-txt --save-conf --batch-size 8

Without --weights the newest run of train.py is used, else the embedded weights. Results go to runs/detect/exp.
The exit code is 1 if a file could not be read; all others are done nevertheless.
"""

import argparse
import sys

from engine import options
from utils.extras import lazy

__getattr__ = lazy({}, __name__)  # YOLOv5's names


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("detect", argv)


def main(opt: argparse.Namespace) -> int:
    """Detect, print, write; return the exit code."""
    from engine.predict.run import run_script

    return run_script(opt)


def run(**kwargs) -> list:
    """Detect from Python: run(weights="best.pt", source="folder", conf_thres=0.4); the options are those of detect.py.

    Returns an engine.predict.detector.Result for every image or frame: path, boxes (float32 [n, 6]: xyxy in pixels,
    confidence, class), names, and error if the file could not be read. Pictures are not kept; to have them one at a
    time, or for a source without end, iterate over engine.predict.run.predict(opt) instead.
    """
    from engine.predict.run import collect

    return collect(options.from_kwargs("detect", kwargs))


if __name__ == "__main__":
    sys.exit(options.start("detect", main))
