"""Decoded images kept in memory or on disk (--cache auto|ram|disk). The cache never changes an image's pixels."""

import hashlib
import math
import os
import shutil
from multiprocessing import get_start_method
from pathlib import Path

import numpy as np

from utils.data.folder import is_writable, user_cache_dir
from utils.data.images import GREY, read_image
from utils.data.scan import map_files
from utils.files import open_regular, write_cache
from utils.logger import LOGGER

SMALL_PART = 0.1  # share of the free memory
HEADROOM = 1.25  # free memory or disk space that must be there, relative to the cache's size
GB = 1 << 30
FILES_TRIED = 20  # where one cannot be read


class DataGoneError(OSError):
    """Most of a data set cannot be read any more, as where a network drive was lost.

    A process that loads data hands its errors on as the text of a traceback, of which the last line is kept.
    """

    def __init__(self, text: str):
        super().__init__(text.strip().rpartition(f"{__name__}.{type(self).__name__}: ")[2])


class CachedImages:
    """Images of a data set, decoded when they are wanted, or kept. The base of every data set of images.

    A subclass has im_files, shapes (int [N, 2] width, height), augment, prefix and progress, calls open_cache(), and
    says how large the images are kept. One that cannot be decoded is replaced by a grey one, and logged once.
    """

    stand_in = "a grey image"  # in the place of a broken one, as the log calls it

    def kept_wh(self, i: int) -> tuple[int, int]:
        """Return width and height of load_image's image."""
        raise NotImplementedError

    def shrink(self, i: int) -> int:
        """Return how many times image i is larger than what training needs of it."""
        raise NotImplementedError

    def fitted(self, image: np.ndarray, i: int) -> np.ndarray:
        """Return a decoded image in the size kept_wh(i)."""
        raise NotImplementedError

    def open_cache(self, kind: str | None) -> None:
        """Fill the cache of this kind (--cache: auto, ram, disk, off), where there is room for it."""
        self.unreadable, self.cache = set(), None
        self.cache = self._filled_cache(kind) if kind and kind != "off" else None

    def _filled_cache(self, kind: str):
        """Return the cache, or None if there is no room for it."""
        indices = range(len(self.im_files))
        if kind == "disk":
            cache = DiskCache(self.im_files, [self._reduction(i) for i in indices], self._decode)
            return cache if cache.fill(self.shapes, self.prefix, self.progress) else None
        cache = RamCache(np.array([self.kept_wh(i) for i in indices]))
        if kind == "auto" and not cache.is_small():
            return None
        return cache if cache.fill(self.load_image, self.prefix, self.progress) else None

    def load_image(self, i: int) -> np.ndarray:
        """Return uint8 [H, W, 3] BGR of the size kept_wh(i), maybe a view of the cache: not to be written to."""
        if isinstance(self.cache, RamCache):
            return self.cache[i]
        try:
            image = self.cache[i] if self.cache else self._decode(i)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._check_others(error)
            if i not in self.unreadable:
                LOGGER.warning(f"{self.prefix}{error}; {self.stand_in} takes its place")
            self.unreadable.add(i)
            return np.full((*self.kept_wh(i)[::-1], 3), GREY, np.uint8)
        self.unreadable.discard(i)
        return self.fitted(image, i)

    def _check_others(self, error: OSError) -> None:
        """Raise DataGoneError if most of FILES_TRIED or more files of the data set cannot be read, after `error`."""
        files = self.im_files[:: max(len(self.im_files) // FILES_TRIED, 1)]
        lost = sum(not _can_be_read(file) for file in files)
        if lost > len(files) / 2:
            raise DataGoneError(f"{self.prefix}{error}; the data are gone: {lost} of {len(files)} images tried are")

    def _reduction(self, i: int) -> int:
        """Return how much smaller (1, 2, 4, 8) image i may be decoded: not at all for validation."""
        shrink = self.shrink(i) if self.augment else 1
        return next(reduction for reduction in (8, 4, 2, 1) if reduction <= max(shrink, 1))

    def _decode(self, i: int) -> np.ndarray:
        return read_image(self.im_files[i], self._reduction(i))


class RamCache:
    """All images of a data set in one array, which worker processes made by fork share."""

    def __init__(self, sizes_wh: np.ndarray):
        """sizes_wh: int [N, 2] of the images as they will be kept."""
        self.sizes_wh = sizes_wh
        self.offsets = np.concatenate([[0], np.cumsum(sizes_wh.prod(1, dtype=np.int64) * 3)])
        self.pixels = np.empty(0, np.uint8)

    def is_small(self) -> bool:
        """Tell whether it takes little of the free memory, once for all processes: then --cache auto fills it."""
        return self.offsets[-1] <= SMALL_PART * available_memory() and get_start_method() == "fork"

    def fill(self, load, prefix: str, progress: bool) -> bool:
        """Call load(i) -> uint8 [H, W, 3] for every image. False, with the reason logged, if memory is short."""
        need, free = int(self.offsets[-1]), available_memory()
        if not _fits("--cache ram", need, free, prefix):
            return False
        self.pixels = np.empty(need, np.uint8)

        def keep(i):
            self[i][:] = load(i)

        description = f"{prefix}Caching images ({need / GB:.1f} GB memory)"
        for _ in map_files(keep, range(len(self.sizes_wh)), description, progress, chunk=1):
            pass
        return True

    def __getitem__(self, i: int) -> np.ndarray:
        """View [H, W, 3] of image i. Not to be written to."""
        w, h = self.sizes_wh[i]
        return self.pixels[self.offsets[i] : self.offsets[i + 1]].reshape(h, w, 3)


class DiskCache:
    """Decoded images as .npy files beside the images, or in the user's cache folder where that folder is read-only."""

    def __init__(self, im_files: list, reductions: list, load):
        """load(i) decodes image i; reductions: how much smaller (1, 2, 4, 8) it does so, part of the file name."""
        self.im_files, self.reductions, self.load = im_files, np.array(reductions), load
        self.folders = {folder: _cache_folder(folder) for folder in {os.path.dirname(file) for file in im_files}}

    def path(self, i: int) -> str:
        folder, name = os.path.split(self.im_files[i])
        reduction = f".{self.reductions[i]}" if self.reductions[i] > 1 else ""
        return os.path.join(self.folders[folder], f"{name}{reduction}.npy")

    def fill(self, sizes_wh: np.ndarray, prefix: str, progress: bool) -> bool:
        """Write each image whose file is missing or old. False, with the reason logged, if space is short."""
        todo = [i for i in range(len(self.im_files)) if not self._is_fresh(i)]
        need = int((sizes_wh[todo].prod(1, dtype=np.int64) * 3 // self.reductions[todo] ** 2).sum())
        for folder in self.folders.values():
            os.makedirs(folder, exist_ok=True)
        free = min((shutil.disk_usage(folder or ".").free for folder in self.folders.values()), default=0)
        if not _fits("--cache disk", need, free, prefix):
            return False
        where = next(iter(self.folders.values()))
        for _ in map_files(self._write, todo, f"{prefix}Caching images in {where}", progress, chunk=1):
            pass
        return True

    def __getitem__(self, i: int) -> np.ndarray:
        path = self.path(i)
        return np.load(path) if os.path.exists(path) else self.load(i)

    def _is_fresh(self, i: int) -> bool:
        try:
            return os.path.getmtime(self.path(i)) >= os.path.getmtime(self.im_files[i])
        except OSError:
            return False

    def _write(self, i: int) -> None:
        try:
            image = self.load(i)
        except (OSError, ValueError):
            return  # said by whoever uses the image
        write_cache(Path(self.path(i)), lambda file: np.save(file, image))


def _can_be_read(file: str) -> bool:
    try:
        with open_regular(file) as opened:
            return bool(opened.read(1))
    except (OSError, ValueError):
        return False


def _fits(what: str, need: int, free: float, prefix: str) -> bool:
    if need * HEADROOM <= free:
        return True
    LOGGER.warning(
        f"{prefix}{what} needs {need * HEADROOM / GB:.1f} GB, {free / GB:.1f} GB are free: not caching images"
    )
    return False


def _cache_folder(folder: str) -> str:
    if is_writable(folder or "."):
        return folder
    tag = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]
    return str(user_cache_dir() / "images" / tag)


def available_memory() -> float:
    """Return the bytes that can be taken without swapping, in the machine or its container; infinite where unknown."""
    return min(_machine_memory(), _container_memory())


def _machine_memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return math.inf


def _container_memory() -> float:
    """Return the bytes that the limit of the control group (version 2) leaves."""
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit) - int(used)
