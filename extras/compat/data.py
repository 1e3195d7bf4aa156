"""Names of YOLOv5's utils.dataloaders that this project does not need itself."""

import hashlib
import os
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from utils.data.images import find_images, image_size
from utils.data.labels import image_to_label_path, parse_labels
from utils.files import read_text

HELP_URL = "See docs/data.md"
EXIF_ORIENTATION = 274


def get_hash(paths: list) -> str:
    """Return a hash of the names of files and of the sum of their sizes."""
    size = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    return hashlib.sha256(f"{size}{''.join(map(str, paths))}".encode()).hexdigest()


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened picture, as EXIF turns it."""
    w, h = img.size
    return (h, w) if img.getexif().get(EXIF_ORIENTATION, 1) >= 5 else (w, h)


def exif_transpose(image: Image.Image) -> Image.Image:
    """Return a picture turned as EXIF says."""
    return ImageOps.exif_transpose(image)


def seed_worker(worker_id: int) -> None:
    """Seed NumPy's and Python's generators of a data-loading process from torch's."""
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


class InfiniteDataLoader(DataLoader):
    """A DataLoader whose processes go on from epoch to epoch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"persistent_workers": kwargs.get("num_workers", 0) > 0, **kwargs})


def img2label_paths(img_paths) -> list[str]:
    """Return the label file of each image file."""
    return [image_to_label_path(path) for path in img_paths]


def autosplit(path, weights=(0.9, 0.1, 0.0), annotated_only: bool = False) -> None:
    """Write autosplit_train.txt, autosplit_val.txt and autosplit_test.txt beside a folder of images.

    weights: the share of each. annotated_only: leave out images without a label file.
    """
    folder = Path(path)
    files = [file for file in find_images(folder) if not annotated_only or Path(image_to_label_path(file)).exists()]
    names = ("autosplit_train.txt", "autosplit_val.txt", "autosplit_test.txt")
    chosen = random.Random(0).choices(range(3), weights=weights, k=len(files))
    for split, name in enumerate(names):
        lines = [f"./{Path(f).relative_to(folder.parent).as_posix()}\n" for f, k in zip(files, chosen) if k == split]
        (folder.parent / name).write_text("".join(lines), encoding="utf-8")


def verify_image_label(args) -> tuple:
    """Check one (image file, label file, prefix) as YOLOv5's scan does.

    Returns (image file or None, labels [n, 5], (width, height), polygons, missing, found, empty, corrupt, message).
    """
    im_file, lb_file, prefix = args
    try:
        size_wh = image_size(im_file)
        text = read_text(lb_file) if Path(lb_file).is_file() else None
        parsed = parse_labels(text or "")
        if parsed.errors:
            raise ValueError(f"{lb_file}:{parsed.errors[0][0]}: {parsed.errors[0][1]}")
    except (OSError, ValueError) as error:
        return None, None, None, None, 0, 0, 0, 1, f"{prefix}{error}"
    found, missing = len(parsed.labels) > 0, text is None
    segments = np.split(parsed.points, np.cumsum(parsed.counts)[:-1]) if len(parsed.points) else []
    empty = not found and not missing
    return im_file, parsed.labels, size_wh, segments, int(missing), int(not missing), int(empty), 0, ""
