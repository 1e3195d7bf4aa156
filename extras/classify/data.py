"""Data sets of images in one folder per class: what is in them, the data set and its loader.

    data/train/cat/1.jpg  data/train/dog/2.jpg  data/val/cat/3.jpg  data/val/dog/4.jpg

Nothing is random but by (seed, epoch, index): any number of workers, and a run that was resumed, give the same batches.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from extras.classify.augment import TrainTransform, mix_batch
from extras.classify.hyp import load_classify_hyp
from extras.classify.transforms import center_crop, resize
from utils.console.text import brief, did_you_mean
from utils.data.cache import CachedImages
from utils.data.config import SPLITS, check_dataset
from utils.data.images import chw_rgb, find_images
from utils.data.loader import epoch_loader
from utils.data.scan import Problem, check_size, log_problems, map_files
from utils.files.yaml import load_yaml
from utils.general import ROOT, check_yaml
from utils.logger import LOGGER

VAL_FOLDERS = ("val", "valid", "validation", "test")  # the first that is there is the val split of a folder
LOADED_SIDES = 2  # a training image is kept with a shorter side of at most so many times the image size


def check_classification_dataset(data, download: bool = True, required: tuple = ("train", "val")) -> dict:
    """Check a folder of splits, or a dataset YAML, whose splits have a folder of images per class; fetch missing data.

    Args:
        data: the folder, with train/ and val/ (valid/, or test/) in it; a dataset YAML (path, or bare name with or
            without .yaml), or the mapping itself. A YAML without `names` takes those of the folders, sorted;
            `folders` lists them where they are others than the names.
        download: fetch missing data by the file's `draw:` or `download:` entry.
        required: the splits that must exist.

    Returns:
        what utils.data.config.check_dataset does, and folders [nc]: the folder name of each class.

    Raises:
        ValueError: a wrong entry, or splits that differ in their classes. FileNotFoundError: missing data.
    """
    config, where = _read_config(data, required)
    folders, draw = config.pop("folders", None), config.pop("draw", None)
    names, nc = config.get("names"), config.get("nc")
    if draw and download:
        _draw(config, draw, where)
    if names is None:
        config["nc"] = nc or 1  # until the folders are known
    checked = check_dataset(config, download, required)
    checked["yaml_file"] = config.get("yaml_file")
    splits = {split: class_folders(checked[split]) for split in SPLITS if checked[split] and _exist(checked[split])}
    if names is None:
        folders = folders or sorted(next((found for found in splits.values() if found), ()))
        if nc is not None and nc != len(folders):
            raise ValueError(f"{where}: 'nc' is {nc}, but there are {len(folders)} class folders: {_some(folders)}")
        checked |= {"names": dict(enumerate(folders)), "nc": len(folders)}
    if not isinstance(folders, (list, tuple, type(None))):
        raise ValueError(f"{where}: 'folders' must be a list of folder names, found {brief(folders)}")
    checked["folders"] = [str(folder) for folder in folders or checked["names"].values()]
    if len(checked["folders"]) != checked["nc"]:
        raise ValueError(f"{where}: 'folders' has {len(checked['folders'])} entries, expected {checked['nc']}")
    for split, found in splits.items():
        _check_classes(checked["folders"], found, split, checked[split], where)
    return checked


def _read_config(data, required: tuple) -> tuple:
    """Return (mapping, what messages call it) of a folder, a dataset file or a mapping."""
    if isinstance(data, dict):
        return dict(data), str(data.get("yaml_file") or "dataset")
    folder = Path(data).expanduser()
    if folder.is_dir():
        splits = {split: split for split in SPLITS if split in required or (folder / split).is_dir()}
        if "val" in required:
            splits["val"] = next((name for name in VAL_FOLDERS if (folder / name).is_dir()), "val")
        return {"path": os.path.abspath(folder), **splits}, str(folder)
    if folder.suffix not in (".yaml", ".yml"):
        try:
            data = check_yaml(f"{data}.yaml")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data '{data}': no such folder, and no data file: {error}") from None
    file = check_yaml(data)
    return {**load_yaml(file), "yaml_file": str(file)}, str(file)


def _draw(config: dict, options: dict, where: str) -> None:
    from extras.shapes.crops import draw_dataset

    if not isinstance(options, dict) or options.get("by") != "shapes_cls" or not config.get("path"):
        raise ValueError(f"{where}: 'draw' of images for classification: expected 'path', and by: shapes_cls in 'draw'")
    draw_dataset(ROOT / config["path"], **{key: value for key, value in options.items() if key != "by"})


def _roots(path) -> list:
    return [Path(item) for item in (path if isinstance(path, (list, tuple)) else [path])]


def _exist(path) -> bool:
    return all(root.exists() for root in _roots(path))


def class_folders(path) -> set:
    """Return the names of the folders in a split's folder(s), hidden ones apart. ValueError if there are none."""
    for root in _roots(path):
        if not root.is_dir():
            raise ValueError(f"{root}: expected a folder with a folder of images for each class")
    entries = [(entry, root) for root in _roots(path) for entry in root.iterdir() if entry.is_dir()]
    # A link to the split's own folder, or to one above it, is no class.
    names = {entry.name for entry, root in entries if not root.resolve().is_relative_to(entry.resolve())}
    names = {name for name in names if not name.startswith(".")}
    if not names:
        raise ValueError(f"{path}: expected a folder of images for each class, found no folder in it")
    return names


def _check_classes(folders: list, found: set, split: str, path, where: str) -> None:
    for name in sorted(found - set(folders)):
        hint = did_you_mean(name, folders)
        raise ValueError(f"{where}: {Path(_roots(path)[0], name)} is no class of the data set ({_some(folders)}){hint}")
    missing = [name for name in folders if name not in found]
    if missing and split == "train":
        raise ValueError(
            f"{where}: {path} has no folder for {len(missing)} of {len(folders)} classes: {_some(missing)}"
        )
    if missing:
        LOGGER.warning(f"{path} has no folder for {len(missing)} classes: {_some(missing)}")


def _some(names, count: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (" ..." if len(names) > count else "")


@dataclass
class FolderScan:
    """The usable images of a split, class by class, and what is wrong with others."""

    im_files: list = field(default_factory=list)
    classes: list = field(default_factory=list)  # class number of each
    shapes: list = field(default_factory=list)  # (width, height) of each
    problems: list = field(default_factory=list)
    corrupt: int = 0
    empty: int = 0  # classes without any image

    def summary(self) -> str:
        text = f"{len(self.im_files)} images of {len(set(self.classes))} classes, {self.corrupt} corrupt"
        return text + (f", {self.empty} classes without images" if self.empty else "")


def scan_folders(path, folders: list, prefix: str = "", progress: bool = True) -> FolderScan:
    """Find the images in the class folders of a split, and look into each; broken ones are left out and logged."""
    scan, jobs = FolderScan(), []
    for number, folder in enumerate(folders):
        found = [root / folder for root in _roots(path) if (root / folder).is_dir()]
        try:
            jobs += [(file, number) for file in find_images(found)]
        except FileNotFoundError:
            scan.empty += 1
            scan.problems.append(Problem(str(Path(_roots(path)[0], folder)), 0, "no images of this class"))
    description = f"{prefix}Scanning {path}"
    checked = map_files(check_size, [file for file, _ in jobs], description, progress)
    for (file, number), found in zip(jobs, checked):
        if isinstance(found, Problem):
            scan.corrupt += 1
            scan.problems.append(found)
            continue
        scan.im_files.append(file)
        scan.classes.append(number)
        scan.shapes.append(found)
    if progress:
        LOGGER.info(f"{description}... {scan.summary()}")
        log_problems(scan.problems, prefix)
    if not scan.im_files:
        raise ValueError(f"{path}: none of the {len(jobs)} images in its class folders can be used")
    return scan


class ClassificationDataset(CachedImages, Dataset):
    """The images of a split. An item is (image, class number, path, (h0, w0) of the file):

    image uint8 [3, imgsz, imgsz] RGB: the central square, or with `augment` a random crop that is changed further.
    An item's key is (epoch, index), or an index alone for epoch 0. An image that turns out to be broken only now is
    replaced by a grey one, and logged.
    """

    def __init__(
        self, path, imgsz=224, augment=False, hyp=None, cache_images=None, names=None, folders=None, prefix="",
        rank=-1, seed=0,
    ):  # fmt: skip
        self.imgsz, self.augment, self.seed, self.prefix = imgsz, augment, seed, prefix
        self.hyp = load_classify_hyp(hyp)
        names = sorted(class_folders(path)) if names is None else names
        self.names = dict(names) if isinstance(names, dict) else dict(enumerate(names))
        self.folders = list(folders or self.names.values())
        scan = scan_folders(path, self.folders, prefix, rank in (-1, 0))
        self.im_files, self.classes = scan.im_files, np.array(scan.classes, np.int64)
        self.shapes = np.array(scan.shapes, np.int32).reshape(-1, 2)
        self.transform = TrainTransform(imgsz, self.hyp) if augment else None
        self.progress = rank in (-1, 0)
        self.open_cache(cache_images)

    def __len__(self) -> int:
        return len(self.im_files)

    def __getitem__(self, key):
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image = self.load_image(index)
        if self.augment:
            image = self.transform(image, np.random.default_rng([self.seed, epoch, index]))
        w0, h0 = self.shapes[index].tolist()
        return torch.from_numpy(chw_rgb(image)), int(self.classes[index]), self.im_files[index], (h0, w0)

    def fitted(self, image: np.ndarray, i: int) -> np.ndarray:
        """Return the model's input, or with `augment` an image that is up to LOADED_SIDES times as large."""
        return resize(image, self.kept_wh(i)) if self.augment else center_crop(image, self.imgsz)

    def kept_wh(self, i: int) -> tuple[int, int]:
        """Return width and height of load_image's image."""
        if not self.augment:
            return self.imgsz, self.imgsz
        w, h = self.shapes[i].tolist()
        ratio = min(LOADED_SIDES * self.imgsz / min(w, h), 1.0)
        return max(round(w * ratio), 1), max(round(h * ratio), 1)

    def shrink(self, i: int) -> int:
        """Return how many times image i is larger than what training needs of it."""
        return min(self.shapes[i].tolist()) // (LOADED_SIDES * self.imgsz)

    def collate_fn(self, items):
        """Make a batch (images [B, 3, imgsz, imgsz], targets, paths, shapes), for training with mixup and cutmix.

        targets: class numbers int64 [B], or float32 [B, nc] of a mixed batch. The paths' hash decides what is mixed.
        """
        images, classes, paths, shapes = zip(*items)
        images, targets = default_collate(images), torch.tensor(classes)
        if self.augment and (self.hyp["mixup"] or self.hyp["cutmix"]):
            digest = hashlib.sha256(os.fsencode(f"{self.seed} {' '.join(paths)}")).digest()
            images, targets = mix_batch(images, targets, len(self.names), self.hyp, int.from_bytes(digest[:7], "big"))
        return images, targets, paths, shapes


def create_classification_dataloader(
    path, imgsz=224, batch_size=16, augment=False, cache=None, rank=-1, workers=8, shuffle=False, seed=0,
    names=None, folders=None, hyp=None, prefix="",
):  # fmt: skip
    """Return (loader, dataset) for the folder of a split, or several such folders.

    batch_size is the rank's; imgsz the square's side in pixels; cache as --cache has it; names {int: str} and
    folders [nc] as check_classification_dataset() gives them; hyp: see extras/classify/hyp.py.
    A batch is (images uint8 [B, 3, imgsz, imgsz] RGB, targets int64 [B] or float32 [B, nc], paths, shapes): see
    ClassificationDataset.collate_fn. Call loader.sampler.set_epoch(epoch) before each epoch.
    """
    dataset = ClassificationDataset(path, imgsz, augment, hyp, cache, names, folders, prefix, rank, seed)
    return epoch_loader(dataset, batch_size, workers, shuffle=shuffle, seed=seed, rank=rank), dataset
