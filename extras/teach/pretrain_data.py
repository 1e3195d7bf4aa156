"""Images without labels: which files a source means, the data set and its loader."""

import glob
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from extras.classify.augment import TrainTransform
from extras.classify.data import ClassificationDataset
from utils.data.config import check_dataset
from utils.data.images import IMG_FORMATS, find_images, image_size
from utils.data.labels import MAX_PROBLEMS_LOGGED, SCAN_THREADS, Problem
from utils.dataloaders import EpochSampler, start_worker
from utils.general import usable_cores
from utils.logger import LOGGER

DATA_FILE_KEYS = ("imgsz", "epochs", "batch")  # defaults that a dataset YAML may give


def read_source(source) -> dict:
    """The image files (sorted, under "train") that --source means.

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
    """The images and folders that a glob matches; FileNotFoundError if there are none."""
    found = [
        path
        for path in sorted(glob.glob(pattern, recursive=True))
        if os.path.isdir(path) or Path(path).suffix[1:].lower() in IMG_FORMATS
    ]
    if not found:
        raise FileNotFoundError(f"--source {pattern}: matches no image and no folder")
    return found


def scan_images(files: list, progress: bool = True) -> tuple:
    """(usable files, their (width, height) in px); the others are logged and counted. ValueError if none is usable."""
    good, sizes_wh, problems = [], [], []
    with ThreadPool(SCAN_THREADS) as pool, tqdm(total=len(files), desc="Scanning", disable=not progress) as bar:
        for file, (size_wh, reason) in zip(files, pool.imap(_look_into, files, chunksize=16)):
            bar.update()
            if reason:
                problems.append(Problem(file, 0, reason))
            else:
                good.append(file)
                sizes_wh.append(size_wh)
    if not good:
        raise ValueError(f"none of the {len(files)} images can be used; the first: {problems[0]}")
    if progress:
        LOGGER.info(f"{len(good)} images, {len(problems)} corrupt")
        for problem in problems[:MAX_PROBLEMS_LOGGED]:
            LOGGER.warning(f"WARNING {problem}")
        if len(problems) > MAX_PROBLEMS_LOGGED:
            LOGGER.warning(f"WARNING and {len(problems) - MAX_PROBLEMS_LOGGED} more problems like these")
    return good, sizes_wh


def _look_into(file: str) -> tuple:
    """((width, height), "") of an image file, ((0, 0), reason) of a broken one."""
    try:
        return image_size(file), ""
    except (OSError, ValueError) as error:
        return (0, 0), str(error).removeprefix(f"{file}: ")


class PretrainDataset(ClassificationDataset):
    """Images alone, otherwise as ClassificationDataset has them: with `augment` a random view, else the central square.

    An item is (image uint8 [3, imgsz, imgsz] RGB, 0, path, (h0, w0) of the file).
    """

    def __init__(self, files, sizes_wh, imgsz, hyp, augment=False, cache_images=None, rank=-1, seed=0):
        """files and sizes_wh as scan_images() gives them."""
        self.imgsz, self.augment, self.hyp, self.seed, self.prefix = imgsz, augment, hyp, seed, ""
        self.im_files, self.sizes_wh = files, np.array(sizes_wh, np.int32).reshape(-1, 2)
        self.classes = np.zeros(len(files), np.int64)
        self.transform = TrainTransform(imgsz, hyp) if augment else None
        self.unreadable, self.cache = set(), None
        if cache_images:
            self.cache = self._filled_cache(cache_images, rank in (-1, 0))

    def collate_fn(self, items):
        """Items -> (images [B, 3, imgsz, imgsz], the same images as targets, paths, shapes)."""
        images, _, paths, shapes = zip(*items)
        images = default_collate(images)
        return images, images, paths, shapes


def create_pretrain_loader(dataset, batch_size: int, workers: int = 8, shuffle=False, seed=0, rank=-1) -> DataLoader:
    """Batches as PretrainDataset.collate_fn makes them; batch_size is the rank's.

    Call loader.sampler.set_epoch(epoch) before each epoch.
    """
    batch_size = min(batch_size, len(dataset))
    workers = min(workers, usable_cores(), -(-len(dataset) // batch_size))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), batch_size, shuffle, seed=seed, rank=rank),
        num_workers=workers,
        collate_fn=dataset.collate_fn,
        pin_memory=torch.cuda.is_available() and os.environ.get("PIN_MEMORY", "true").lower() == "true",
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # the loader draws a seed from it, and so leaves the global state alone
    )
