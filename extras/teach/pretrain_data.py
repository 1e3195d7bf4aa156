"""Images without labels: which files a source means, the hyperparameters, and the data set."""

import os
from pathlib import Path

import numpy as np
from torch.utils.data import default_collate

from engine.hyperparameters import TABLE as DETECTION
from engine.hyperparameters import load_hyp
from extras.classify.augment import TrainTransform
from extras.classify.data import ClassificationDataset
from extras.classify.hyp import TABLE as CLASSIFICATION
from utils.data.config import check_dataset
from utils.data.images import IMG_FORMATS, find_images
from utils.data.scan import Problem, check_size, log_problems, map_files
from utils.data.walk import matching
from utils.logger import LOGGER

DATA_FILE_KEYS = ("imgsz", "epochs", "batch")  # defaults that a dataset YAML may give
NOT_USED = ("mixup", "cutmix", "label_smoothing")  # hyperparameters of classifiers alone
TABLE = {
    **{key: entry for key, entry in CLASSIFICATION.items() if key not in NOT_USED},
    "lr0": DETECTION["lr0"]._replace(default=0.003),
    "weight_decay": DETECTION["weight_decay"]._replace(default=0.05),
    "warmup_least": DETECTION["warmup_least"]._replace(default=0),
    "warmup_bias_lr": DETECTION["warmup_bias_lr"]._replace(default=0.0),
}


def load_pretrain_hyp(source=None) -> dict:
    """Return every hyperparameter: those of a YAML file or a mapping, the others at their defaults.

    ValueError as load_hyp.
    """
    return load_hyp(source or {}, TABLE)


def read_source(source) -> dict:
    """Return the image files (sorted, under "train") that --source means.

    source: folders (with the folders in them), image files, list files (.txt), globs, and dataset YAMLs, of which
    the training images are taken; one of these or a list. "yaml_file" is the source in words; there are also the
    DATA_FILE_KEYS that a YAML has. FileNotFoundError or ValueError if there is no image.
    """
    data = {"names": {}, "nc": 0}
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    paths = []
    for item in map(str, items):
        suffix = Path(item).suffix.lower()
        if suffix in (".yaml", ".yml"):
            checked = check_dataset(item, required=("train",))
            paths += checked["train"] if isinstance(checked["train"], list) else [checked["train"]]
            data |= {key: checked[key] for key in DATA_FILE_KEYS if key in checked}
        elif set("*?[") & set(item) and not os.path.exists(item):
            paths += _matches(item)
        elif os.path.isfile(item) and suffix[1:] not in {"txt", *IMG_FORMATS}:
            raise ValueError(f"--source {item}: expected a folder, images, list files (.txt), globs or a dataset YAML")
        else:
            paths.append(item)
    files = find_images(paths[0] if len(paths) == 1 else paths)
    return {**data, "train": files, "yaml_file": " ".join(map(str, items))}


def _matches(pattern: str) -> list:
    """Return the images and folders that a glob matches; FileNotFoundError if there are none."""
    found = [
        path
        for path in sorted(matching(pattern))
        if os.path.isdir(path) or Path(path).suffix[1:].lower() in IMG_FORMATS
    ]
    if not found:
        raise FileNotFoundError(f"--source {pattern}: matches no image and no folder")
    return found


def scan_images(files: list, progress: bool = True) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the usable files and their (width, height) in px; log and count the others.

    ValueError if none is usable.
    """
    good, sizes_wh, problems = [], [], []
    for file, found in zip(files, map_files(check_size, files, "Scanning", progress)):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            good.append(file)
            sizes_wh.append(found)
    if not good:
        raise ValueError(f"none of the {len(files)} images can be used; the first: {problems[0]}")
    if progress:
        LOGGER.info(f"{len(good)} images, {len(problems)} corrupt")
        log_problems(problems)
    return good, sizes_wh


class PretrainDataset(ClassificationDataset):
    """Images alone, otherwise as ClassificationDataset has them: with `augment` a random view, else the central square.

    An item is (image uint8 [3, imgsz, imgsz] RGB, 0, path, (h0, w0) of the file).
    """

    def __init__(self, files, sizes_wh, imgsz, hyp, augment=False, cache_images=None, rank=-1, seed=0):
        """files and sizes_wh as scan_images() gives them."""
        self.imgsz, self.augment, self.hyp, self.seed, self.prefix = imgsz, augment, hyp, seed, ""
        self.im_files, self.shapes = files, np.array(sizes_wh, np.int32).reshape(-1, 2)
        self.classes = np.zeros(len(files), np.int64)
        self.transform = TrainTransform(imgsz, hyp) if augment else None
        self.progress = rank in (-1, 0)
        self.open_cache(cache_images)

    def collate_fn(self, items):
        """Make a batch (images [B, 3, imgsz, imgsz], the same images as targets, paths, shapes)."""
        images, _, paths, shapes = zip(*items)
        images = default_collate(images)
        return images, images, paths, shapes
