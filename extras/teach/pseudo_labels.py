"""Images without labels: which are new, a detector's boxes as their labels, and their way into a data set."""

import os
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import torch

from extras.teach.cache import TeacherCache, picture_checksum
from utils.augmentations import letterbox
from utils.boxes import scale_boxes, xyxy2xywhn
from utils.console.text import progress_bar
from utils.data.images import chw_rgb, find_images, read_image
from utils.data.scan import MIN_SIDE_PX, THREADS, Problem, log_problems
from utils.data.store import LabelScan, PolygonsPerImage, RowsPerImage
from utils.logger import LOGGER

BATCH = 16
PREFIX = "unlabeled: "


def record_dtype(max_boxes: int) -> np.dtype:
    """Return the type of an image's record: its size in px, and `count` rows of class, xywhn."""
    return np.dtype([("size_wh", "<i4", (2,)), ("count", "<i4"), ("rows", "<f4", (max_boxes, 5))])


def new_files(path: str, known: list) -> list[str]:
    """Return the image files of `path` (folder, list file, or a list of these) that no entry of `known` has, once each.

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


def label_images(
    files: list[str], detect: Callable, imgsz: int, cache: TeacherCache, progress: bool = True
) -> LabelScan:
    """Label images by a detector; those that the cache has are not looked at again.

    detect: images uint8 [B, 3, imgsz, imgsz] RGB -> for each boxes [n, 5] class, xyxy in px of this square.
    A broken image is left out, logged and counted. ValueError if all are.
    """

    def load(i: int) -> tuple:
        mark = _file_checksum(files[i])
        record = cache.read("labels", i, mark)
        return i, mark, _read_square(files[i], imgsz) if record is None else record

    records, problems = {}, []  # the records by the image's number
    bar = progress_bar(None, f"{PREFIX}asking the teacher", progress, total=len(files))
    with ThreadPool(THREADS) as pool, bar:
        for start in range(0, len(files), BATCH):  # by parts: images that wait take memory
            waiting = []
            for i, mark, found in pool.map(load, range(start, min(start + BATCH, len(files)))):
                if isinstance(found, Problem):
                    problems.append(found)
                elif isinstance(found, Square):
                    waiting.append((i, mark, found))
                else:
                    records[i] = found
            answers = detect(torch.stack([square.pixels for *_, square in waiting])) if waiting else ()
            for (i, mark, square), boxes in zip(waiting, answers):
                records[i] = square.to_record(boxes, cache.dtype)
                cache.write("labels", i, mark, records[i])
            bar.update(min(BATCH, len(files) - start))
    if not records:
        raise ValueError(f"--unlabeled: none of the {len(problems)} images can be used; the first: {problems[0]}")
    numbers = sorted(records)
    scan = _as_scan([files[i] for i in numbers], np.stack([records[i] for i in numbers]), problems)
    if progress:
        _report(scan)
    return scan


class Square(NamedTuple):
    """A letterboxed image: pixels uint8 [3, imgsz, imgsz] RGB, and where in them the original lies."""

    pixels: torch.Tensor
    size_wh: tuple[int, int]
    ratio_wh: tuple[float, float]
    left_top: tuple[int, int]

    def to_record(self, boxes: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return the original's record of [n, 5] class, xyxy in px of the square, without boxes outside of it."""
        w, h = self.size_wh
        xyxy = scale_boxes(self.pixels.shape[1:], boxes[:, 1:].copy(), (h, w), (self.ratio_wh[::-1], self.left_top))
        rows = np.concatenate([boxes[:, :1], xyxy2xywhn(xyxy, w, h)], 1).astype(np.float32)
        rows = rows[(rows[:, 3:] > 0).all(1)]
        record = np.zeros((), dtype)
        record["size_wh"], record["count"], record["rows"][: len(rows)] = self.size_wh, len(rows), rows
        return record


def _read_square(file: str, imgsz: int) -> Square | Problem:
    try:
        image = read_image(file)
    except (OSError, ValueError) as error:
        return Problem.of_file(file, error)
    h, w = image.shape[:2]
    if min(w, h) < MIN_SIDE_PX:
        return Problem(file, 0, f"expected sides of at least {MIN_SIDE_PX} pixels, found {w} x {h}")
    square, ratio_wh, pad = letterbox(image, imgsz, auto=False)
    return Square(torch.from_numpy(chw_rgb(square)), (w, h), ratio_wh, tuple(round(side - 0.1) for side in pad))


def _file_checksum(file: str) -> int:
    try:
        stat = os.stat(file)
    except OSError:
        return 0
    return picture_checksum(np.array([stat.st_size, stat.st_mtime_ns]))


def _as_scan(files: list[str], records: np.ndarray, problems: list[Problem]) -> LabelScan:
    counts = records["count"]
    rows = np.concatenate([record["rows"][: record["count"]] for record in records])
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    labelled = int(np.count_nonzero(counts))
    return LabelScan(
        im_files=files,
        labels=RowsPerImage(rows, offsets),
        segments=PolygonsPerImage(np.zeros((0, 2), np.float32), np.zeros(len(rows), np.int32), offsets),
        shapes=records["size_wh"].copy(),
        found=labelled,
        empty=len(files) - labelled,
        corrupt=len(problems),
        problems=problems,
    )


def _report(scan: LabelScan) -> None:
    LOGGER.info(
        f"{PREFIX}{len(scan.im_files)} images join the training set, {scan.found} of them with "
        f"{len(scan.labels.values)} boxes of the teacher, {scan.corrupt} corrupt"
    )
    log_problems(scan.problems, PREFIX)
