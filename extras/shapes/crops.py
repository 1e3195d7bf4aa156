"""The embedded data set for classification: one shape a picture on a cluttered background, in a folder for its kind.

Drawn from a seed with the means of extras/shapes/scenes.py: train/circle/00000.jpg, train/square/00001.jpg ...
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from extras.shapes.background import degrade, draw_background, draw_curves
from extras.shapes.folder import SPLITS, check_options, keep_drawn
from extras.shapes.scenes import KINDS, object_stencil, paint
from utils.console.text import progress_bar

VERSION = 1  # raise it when the same seed gives other pictures, so that old folders are drawn anew
DRAWN_BY = "utils/shapes_cls.py"
SIZE_RANGE = (0.5, 0.9)  # length of an object / side of the picture
OUTSIDE = 8  # at most this part of a stencil's side, which is longer than the object, is beyond an edge
MAX_CURVES = 1  # in the foreground
CALM = 0.5  # how much the background is drawn to its mean colour: 0 not, 1 one colour


def draw_dataset(folder, seed: int = 0, train: int = 1600, val: int = 160, test: int = 80, imgsz: int = 64) -> None:
    """Draw {train,val,test}/KIND/*.jpg into `folder`, unless exactly that is there, see keep_drawn().

    seed: same seed, same files. train, val, test: pictures, of all kinds in turn. imgsz: their side in pixels.
    """
    wanted = {"seed": seed, "train": train, "val": val, "test": test, "imgsz": imgsz}
    check_options(wanted, {"imgsz": 64, "train": len(KINDS), "val": len(KINDS)})
    keep_drawn(folder, {"drawn_by": DRAWN_BY, "version": VERSION, **wanted}, _draw_files, _file_names)


def _draw_files(folder: Path, options: dict) -> None:
    for split in SPLITS:
        for kind in KINDS:
            (folder / split / kind).mkdir(parents=True)
    jobs = [(split_index, i) for split_index, split in enumerate(SPLITS) for i in range(options[split])]
    for split_index, i in progress_bar(jobs, f"Drawing {len(jobs)} pictures of shapes", unit=""):
        rng = np.random.default_rng([options["seed"], split_index, i])
        image = draw_picture(rng, KINDS[i % len(KINDS)], options["imgsz"])
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        (folder / _file_name(SPLITS[split_index], i)).write_bytes(encoded.tobytes())


def _file_name(split: str, i: int) -> str:
    return f"{split}/{KINDS[i % len(KINDS)]}/{i:05d}.jpg"


def _file_names(options: dict) -> set[str]:
    return {_file_name(split, i) for split in SPLITS for i in range(options[split])}


def draw_picture(rng: np.random.Generator, kind: str, imgsz: int) -> np.ndarray:
    """Return uint8 BGR [imgsz, imgsz, 3] with one object of `kind`, of any size, colour and position."""
    image = draw_background(rng, imgsz, imgsz)
    image += (image.mean((0, 1)) - image) * CALM
    size = rng.uniform(*SIZE_RANGE) * imgsz
    stencil, is_filled = object_stencil(rng, kind, size)
    side = len(stencil)
    x, y = (int(v) for v in rng.integers(-side // OUTSIDE, imgsz - side + side // OUTSIDE + 1, 2))
    around = np.zeros((imgsz + 2 * side, imgsz + 2 * side), np.float32)  # the picture with a margin of `side`
    around[y + side : y + 2 * side, x + side : x + 2 * side] = stencil
    alpha = around[side : side + imgsz, side : side + imgsz]
    paint(rng, image, alpha, alpha >= 0.5, size, is_filled)
    draw_curves(rng, image, count=int(rng.integers(0, MAX_CURVES + 1)))
    return degrade(rng, image)
