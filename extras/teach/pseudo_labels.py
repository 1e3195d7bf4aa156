"""Images without labels: which are new, a detector's boxes as their labels, and their way into a data set."""

from __future__ import annotations

import os
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from extras.teach.cache import TeacherCache, picture_checksum
from utils.augmentations import letterbox
from utils.boxes import scale_boxes, xyxy2xywhn
from utils.data.images import chw_rgb, find_images, read_image
from utils.data.scan import MIN_SIDE_PX, Problem, log_problems
from utils.data.store import LabelScan, PolygonsPerImage, RowsPerImage
from utils.logger import LOGGER

BATCH = 16
THREADS = 8
PREFIX = "unlabeled: "


class Detected(NamedTuple):
    """An image with a detector's boxes [n, 5]: class, xywhn."""

    file: str
    size_wh: tuple
    rows: np.ndarray

    @staticmethod
    def dtype(max_boxes: int) -> np.dtype:
        """Of the cache's records."""
        return np.dtype([("size_wh", "<i4", (2,)), ("count", "<i4"), ("rows", "<f4", (max_boxes, 5))])


def new_files(path, known: list) -> list:
    """The image files of `path` (folder, list file, or a list of these) that no entry of `known` has; each once.

    FileNotFoundError if there is no such path or no image in it, ValueError if none of them is new.
    """
    files = {os.path.realpath(file): file for file in reversed(find_images(path))}
    old = {os.path.realpath(file) for entry in known for file in find_images(entry)}
    new = sorted(file for real, file in files.items() if real not in old)
    if not new:
        raise ValueError(f"--unlabeled {path}: all {len(files)} images are in the training or validation set already")
    if len(new) < len(files):
        LOGGER.info(f"{PREFIX}{len(files) - len(new)} of {len(files)} images are in the data set already")
    return new


def label_images(files: list, detect, imgsz: int, cache: TeacherCache, progress: bool = True) -> LabelScan:
    """Label images by a detector; those that the cache has are not looked at again.

    detect: images uint8 [B, 3, imgsz, imgsz] RGB -> for each boxes [n, 5] class, xyxy in px of this square.
    A broken image is left out, logged and counted. ValueError if all are.
    """
    known = {}  # by the image's number
    problems, waiting = [], []

    def ask():
        for (i, mark, square), boxes in zip(waiting, detect(torch.stack([w[2].pixels for w in waiting]))):
            known[i] = Detected(files[i], square.size_wh, square.to_rows(boxes))
            cache.write("labels", i, mark, _as_record(known[i], cache.dtype))
        waiting.clear()

    def load(i):
        mark = _file_checksum(files[i])
        record = cache.read("labels", i, mark)
        return i, mark, record if record is not None else _read_square(files[i], imgsz)

    bar = tqdm(total=len(files), desc=f"{PREFIX}asking the teacher", disable=not progress)
    with ThreadPool(THREADS) as pool, bar:
        for start in range(0, len(files), BATCH):  # by parts: images that wait take memory
            numbers = range(start, min(start + BATCH, len(files)))
            for i, mark, found in pool.map(load, numbers):
                if isinstance(found, Problem):
                    problems.append(found)
                elif isinstance(found, _Square):
                    waiting.append((i, mark, found))
                else:
                    known[i] = _from_record(files[i], found)
            if waiting:
                ask()
            bar.update(len(numbers))
    return _as_scan([known[i] for i in sorted(known)], problems, progress)


class _Square(NamedTuple):
    """A letterboxed image: pixels uint8 [3, imgsz, imgsz] RGB, and where in them the original lies."""

    pixels: torch.Tensor
    size_wh: tuple
    ratio_wh: tuple
    left_top: tuple

    def to_rows(self, boxes: np.ndarray) -> np.ndarray:
        """[n, 5] class, xyxy in px of the square -> class, xywhn of the original; none of what lies outside of it."""
        w, h = self.size_wh
        xyxy = scale_boxes(self.pixels.shape[1:], boxes[:, 1:].copy(), (h, w), (self.ratio_wh[::-1], self.left_top))
        rows = np.concatenate([boxes[:, :1], xyxy2xywhn(xyxy, w, h)], 1).astype(np.float32)
        return rows[(rows[:, 3:] > 0).all(1)]


def _read_square(file: str, imgsz: int) -> _Square | Problem:
    try:
        image = read_image(file)
    except (OSError, ValueError) as error:
        return Problem.of_file(file, error)
    h, w = image.shape[:2]
    if min(w, h) < MIN_SIDE_PX:
        return Problem(file, 0, f"expected sides of at least {MIN_SIDE_PX} pixels, found {w} x {h}")
    square, ratio_wh, pad = letterbox(image, imgsz, auto=False)
    return _Square(torch.from_numpy(chw_rgb(square)), (w, h), ratio_wh, tuple(round(side - 0.1) for side in pad))


def _file_checksum(file: str) -> int:
    try:
        stat = os.stat(file)
    except OSError:
        return 0
    return picture_checksum(np.array([stat.st_size, stat.st_mtime_ns]))


def _as_record(detected: Detected, dtype: np.dtype) -> np.ndarray:
    record = np.zeros((), dtype)
    record["size_wh"], record["count"] = detected.size_wh, len(detected.rows)
    record["rows"][: len(detected.rows)] = detected.rows
    return record


def _from_record(file: str, record: np.ndarray) -> Detected:
    return Detected(file, tuple(record["size_wh"].tolist()), record["rows"][: record["count"]])


def _as_scan(found: list, problems: list, progress: bool) -> LabelScan:
    if not found:
        raise ValueError(f"--unlabeled: none of the {len(problems)} images can be used; the first: {problems[0]}")
    rows = np.concatenate([detected.rows for detected in found])
    counts = [len(detected.rows) for detected in found]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    labelled = int(np.count_nonzero(counts))
    if progress:
        LOGGER.info(
            f"{PREFIX}{len(found)} images join the training set, {labelled} of them with {len(rows)} boxes "
            f"of the teacher, {len(problems)} corrupt"
        )
        log_problems(problems, PREFIX)
    return LabelScan(
        im_files=[detected.file for detected in found],
        labels=RowsPerImage(rows, offsets),
        segments=PolygonsPerImage(np.zeros((0, 2), np.float32), np.zeros(len(rows), np.int32), offsets),
        shapes=np.array([detected.size_wh for detected in found], np.int32).reshape(-1, 2),
        found=labelled,
        empty=len(found) - labelled,
        corrupt=len(problems),
        problems=problems,
    )
