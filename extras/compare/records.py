"""Predictions and objects of a validation, image by image, and its file evidence.npz in the run folder.

The file has at most 24 bytes a box before compression: 7.2 kB for an image with val.py's 300 predictions.
"""

import io
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.files import write_atomic

FILE_NAME = "evidence.npz"
VERSION = 1
# arrays of the file -> numbers of dimensions
ARRAYS = {"version": 0, "data": 0, "class_names": 1, "images": 1}
ARRAYS |= {"predictions": 2, "n_predictions": 1, "targets": 2, "n_targets": 1}


@dataclass
class Evidence:
    """The images of one validation; boxes are in pixels of the original images, float32."""

    names: dict  # class number, from 0 -> name
    data: str = ""  # dataset file
    images: list = field(default_factory=list)  # paths
    predictions: list = field(default_factory=list)  # [n, 6] xyxy, confidence, class; by falling confidence
    targets: list = field(default_factory=list)  # [m, 5] class, xyxy

    def add(self, image, predictions, targets) -> None:
        """Add one image: its path, predictions [n, 6], targets [m, 5]; either may be empty."""
        predictions = np.array(predictions, dtype=np.float32).reshape(-1, 6)
        self.images.append(str(image))
        self.predictions.append(predictions[np.argsort(-predictions[:, 4], kind="stable")])
        self.targets.append(np.array(targets, dtype=np.float32).reshape(-1, 5))

    def save(self, file) -> None:
        """Write the file, whole or not at all; images are named by their path below the folder common to all."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            version=VERSION,
            data=str(self.data),
            class_names=np.array([str(self.names[i]) for i in sorted(self.names)], dtype=str),
            images=np.array(below_common_folder(self.images), dtype=str),
            predictions=np.concatenate([np.zeros((0, 6), np.float32), *self.predictions]),
            n_predictions=np.array([len(boxes) for boxes in self.predictions], dtype=np.int64),
            targets=np.concatenate([np.zeros((0, 5), np.float32), *self.targets]),
            n_targets=np.array([len(boxes) for boxes in self.targets], dtype=np.int64),
        )
        write_atomic(file, buffer.getvalue())

    @classmethod
    def load(cls, file) -> "Evidence":
        """Read what save() wrote. ValueError if it is something else, FileNotFoundError if there is nothing."""
        arrays = _read_arrays(Path(file))
        parts = {}
        for name, columns in (("predictions", 6), ("targets", 5)):
            boxes, counts = arrays[name], arrays[f"n_{name}"]
            expected = f"{columns} columns of finite numbers, and a count for each of {len(arrays['images'])} images"
            fits = boxes.shape[1] == columns and len(counts) == len(arrays["images"]) and counts.sum() == len(boxes)
            if not fits or (counts < 0).any() or not np.isfinite(boxes).all():
                raise ValueError(f"{file}: expected {name} with {expected}, found {boxes.shape}, {len(counts)} counts")
            parts[name] = np.split(boxes, np.cumsum(counts)[:-1]) if len(counts) else []
        names = dict(enumerate(arrays["class_names"].tolist()))
        return cls(names, str(arrays["data"]), arrays["images"].tolist(), **parts)


def _read_arrays(file: Path) -> dict:
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    problem = "" if zipfile.is_zipfile(file) else "not a zip archive"
    try:
        if not problem:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ARRAYS}
            shapes = [name for name, dimensions in ARRAYS.items() if arrays[name].ndim != dimensions]
            problem = f"{shapes[0]} {arrays[shapes[0]].shape}" if shapes else ""
            if not problem and arrays["version"] != VERSION:
                problem = f"version {arrays['version']}"
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{file}: expected an evidence file of val.py, version {VERSION}, found {problem}")
    return arrays


def below_common_folder(paths: list) -> list:
    """Return the paths, with / between their parts, below the deepest folder that holds all of them."""
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [Path(os.path.relpath(path, folder or ".")).as_posix() for path in paths]
