"""YOLO label files: where they are, parsing with the reason of every problem, and a scan of a data set with a cache.

A row is `class x_centre y_centre width height`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon, which is kept beside its
box), everything but the class divided by the image's width or height. Each row is one or the other by itself.
"""

import hashlib
import json
import os
import zipfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils.boxes import xyxy2xywh
from utils.data.images import image_size
from utils.general import write_cache
from utils.logger import LOGGER

CACHE_VERSION = 2
MIN_SIDE_PX = 10  # smaller images are refused
MAX_PROBLEMS_LOGGED = 20
SCAN_THREADS = 8
ROUNDING = 2**-24  # 1 plus this is still 1.0 in float32
FLAT = 1e-12  # twice the area of a triangle, as a share of the image, up to which its points are on one line


class Problem(NamedTuple):
    """What is wrong with a file. `line` counts from 1; 0 means the whole file."""

    file: str
    line: int
    reason: str

    def __str__(self):
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class Paths(Sequence):
    """A list of paths, kept as one bytearray and offsets: no Python object per path. A slice of it is a list."""

    def __init__(self, paths=()):
        self.text, self.ends = bytearray(), array("q")
        for path in paths:
            self.append(path)

    def append(self, path: str) -> None:
        self.text += os.fsencode(path)
        self.ends.append(len(self.text))

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return os.fsdecode(bytes(self.text[self.ends[i - 1] if i else 0 : self.ends[i]]))

    def __eq__(self, other):
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __repr__(self):
        return f"{type(self).__name__}({list(self)})"


class RowsPerImage(Sequence):
    """A list of arrays [n_i, C], kept as one array and offsets: no Python object per image. Items are views."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray):
        self.values, self.offsets = values, offsets  # [sum of n_i, C]; [N + 1]

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def reordered(self, order: np.ndarray) -> "RowsPerImage":
        """The same for the images `order`."""
        return RowsPerImage(*_take_groups(self.values, self.offsets, order))


class PolygonsPerImage(Sequence):
    """A list with, for each image, a list of polygons [k, 2] (normalised) in the order of its label rows.

    A row that was a box has an empty polygon [0, 2]; an image without any polygon has an empty list.
    """

    def __init__(self, points: np.ndarray, counts: np.ndarray, row_offsets: np.ndarray):
        self.points = points  # [P, 2], of all polygons one after the other
        self.counts = counts  # [M] points of each label row
        self.row_offsets = row_offsets  # [N + 1] first label row of each image
        self.point_offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def __len__(self):
        return len(self.row_offsets) - 1

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        points, counts = self.flat(i)
        return np.split(points, np.cumsum(counts)[:-1]) if len(points) else []

    def flat(self, i) -> tuple[np.ndarray, np.ndarray]:
        """Image i's points [P_i, 2] (a view) and the number of points of each of its rows [n_i]."""
        i = range(len(self))[i]
        first, last = self.row_offsets[i], self.row_offsets[i + 1]
        return self.points[self.point_offsets[first] : self.point_offsets[last]], self.counts[first:last]

    def reordered(self, order: np.ndarray) -> "PolygonsPerImage":
        """The same for the images `order`."""
        rows, row_offsets = _take_groups(np.arange(len(self.counts)), self.row_offsets, order)
        return PolygonsPerImage(_take_groups(self.points, self.point_offsets, rows)[0], self.counts[rows], row_offsets)


def _take_groups(values: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups i = values[offsets[i] : offsets[i + 1]] put into another order: (values, offsets)."""
    counts = np.diff(offsets)[order]
    new_offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return values[np.arange(new_offsets[-1]) + np.repeat(offsets[order] - new_offsets[:-1], counts)], new_offsets


@dataclass
class LabelScan:
    """Result of `scan_labels`; the lists hold the usable images only, in the order given."""

    im_files: Sequence  # of str
    labels: RowsPerImage  # float32 [n, 5] class, xywhn
    segments: PolygonsPerImage
    shapes: np.ndarray  # int32 [N, 2] width, height after EXIF orientation
    found: int = 0  # images with a label file that has rows
    missing: int = 0  # without a label file: background
    empty: int = 0  # with an empty label file: background
    corrupt: int = 0  # left out: broken image or bad label row
    duplicates: int = 0  # rows dropped because they repeat an earlier one
    problems: list = field(default_factory=list)

    def summary(self) -> str:
        text = f"{self.found} images, {self.missing + self.empty} backgrounds, {self.corrupt} corrupt"
        return text + (f", {self.duplicates} duplicate labels dropped" if self.duplicates else "")


def image_to_label_path(path) -> str:
    """data/images/train/1.jpg -> data/labels/train/1.txt: the last folder called images, if any, is replaced."""
    folder, name = os.path.split(str(path))
    parts = folder.replace("/", os.sep).split(os.sep)  # Windows takes both
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return os.sep.join([*parts, os.path.splitext(name)[0] + ".txt"]) if folder else os.path.splitext(name)[0] + ".txt"


class ParsedLabels(NamedTuple):
    labels: np.ndarray  # float32 [n, 5] class, xywhn
    points: np.ndarray  # float32 [P, 2] polygon points, normalised
    counts: np.ndarray  # int32 [n] polygon points of each row, 0 for a box
    errors: list  # (line, reason) of each bad row; then the arrays hold the good rows
    duplicates: list  # lines that repeat an earlier row, and are dropped


def parse_labels(text: str, nc: int | None = None) -> ParsedLabels:
    """Read the rows of one label file; `nc` is the number of classes, None accepts any."""
    labels, polygons, errors, duplicates, seen = [], [], [], [], set()
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        values, reason = _parse_row(columns, nc)
        if reason:
            errors.append((number, reason))
        elif tuple(values) in seen:
            duplicates.append(number)
        else:
            seen.add(tuple(values))
            points = np.array(values[1:] if len(values) > 5 else [], np.float32).reshape(-1, 2)
            box = _bounding_xywh(points) if len(points) else values[1:]
            labels.append((values[0], *box))
            polygons.append(points)
    return ParsedLabels(
        labels=np.array(labels, np.float32).reshape(-1, 5),
        points=np.concatenate(polygons) if polygons else np.zeros((0, 2), np.float32),
        counts=np.array([len(points) for points in polygons], np.int32),
        errors=errors,
        duplicates=duplicates,
    )


def _parse_row(columns: list, nc: int | None) -> tuple[list, str]:
    """(numbers, "") of a good row, ([], reason) of a bad one."""
    n = len(columns)
    if n != 5 and (n < 7 or n % 2 == 0):
        return [], f"expected 5 columns (class x y w h) or a polygon (class and 3 or more x y pairs), found {n}"
    try:
        values = [float(column) for column in columns]
    except ValueError:
        bad = next(column for column in columns if not _is_number(column))
        return [], f"expected numbers, found {bad!r}"
    cls = values[0]
    if not cls.is_integer() or cls < 0:
        return [], f"expected a class number 0, 1, 2 ..., found {columns[0]}"
    if nc is not None and cls >= nc:
        return [], f"class {int(cls)} is beyond the data set's {nc} classes (0 to {nc - 1})"
    for text, value in zip(columns[1:], values[1:]):
        if not 0 <= value <= 1 + ROUNDING:  # also catches nan
            return [], f"expected coordinates between 0 and 1 (divided by the image's size), found {text}"
    if n > 5 and _is_flat(values[1::2], values[2::2]):
        return [], f"expected a polygon with an area, found {n // 2} points on one line"
    return values, ""


def _is_flat(x: list, y: list) -> bool:
    """True if the points are on one line, or all in one place."""
    sides = zip(x[1:], y[1:], x[2:], y[2:])  # with the first point each makes a triangle
    return all(abs((ax - x[0]) * (by - y[0]) - (bx - x[0]) * (ay - y[0])) <= FLAT for ax, ay, bx, by in sides)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bounding_xywh(points: np.ndarray) -> np.ndarray:
    return xyxy2xywh(np.concatenate([points.min(0), points.max(0)]))


def scan_labels(
    im_files: list, nc: int | None = None, cache: Path | None = None, prefix: str = "", progress: bool = True
) -> LabelScan:
    """Check every image and read its labels, or take all from the cache file if no file changed since.

    `cache` is the .npz to use (`label_cache_path` proposes one), None for no cache. A broken image, and an image
    with a bad label row, are left out; the first problems are logged with file, line and reason, all are counted.
    """
    key = _content_key(im_files, nc)
    scan = _load_cache(cache, key, im_files) if cache else None
    if scan is None:
        scan = _scan(im_files, nc, prefix, progress)
        if cache:
            _save_cache(cache, key, im_files, scan)
    elif progress:
        LOGGER.info(f"{prefix}Labels from {cache}: {scan.summary()}")
    if progress:
        _log_problems(scan.problems, prefix)
    return scan


def _scan(im_files: list, nc: int | None, prefix: str, progress: bool) -> LabelScan:
    where = os.path.dirname(image_to_label_path(im_files[0])) if im_files else ""
    records, corrupt, problems, duplicates = _FlatRecords(), 0, [], 0
    counts = {"found": 0, "missing": 0, "empty": 0}
    description = f"{prefix}Scanning {where}"
    with ThreadPool(SCAN_THREADS) as pool, tqdm(total=len(im_files), desc=description, disable=not progress) as bar:
        for record in pool.imap(lambda file: _check_image_and_label(file, nc), im_files, chunksize=16):
            bar.update()
            problems += record.problems
            if record.state == "corrupt":
                corrupt += 1
                continue
            counts[record.state] += 1
            duplicates += len(record.problems)
            records.append(record)
    scan = LabelScan(**records.columns(), corrupt=corrupt, duplicates=duplicates, problems=problems, **counts)
    if progress:
        LOGGER.info(f"{description}... {scan.summary()}")
    return scan


class _FlatRecords:
    """Records of usable images. Flat: a few Python objects for each image would take several times the memory."""

    def __init__(self):
        self.im_files, self.sizes_wh, self.offsets = Paths(), array("i"), array("q", [0])
        self.labels, self.counts, self.points = array("f"), array("i"), array("f")  # as in ParsedLabels

    def append(self, record: "_Record") -> None:
        self.im_files.append(record.im_file)
        self.sizes_wh.extend(record.size_wh)
        self.offsets.append(self.offsets[-1] + len(record.parsed.labels))
        for name in ("labels", "counts", "points"):
            getattr(self, name).frombytes(getattr(record.parsed, name).tobytes())

    def columns(self) -> dict:
        offsets, points = np.array(self.offsets), np.array(self.points).reshape(-1, 2)
        return {
            "im_files": self.im_files,
            "labels": RowsPerImage(np.array(self.labels).reshape(-1, 5), offsets),
            "segments": PolygonsPerImage(points, np.array(self.counts), offsets),
            "shapes": np.array(self.sizes_wh).reshape(-1, 2),
        }


class _Record(NamedTuple):
    im_file: str
    state: str  # found, missing, empty or corrupt
    size_wh: tuple = (0, 0)
    parsed: ParsedLabels = parse_labels("")
    problems: list = []


def _check_image_and_label(im_file: str, nc: int | None) -> _Record:
    try:
        size_wh = image_size(im_file)
        if min(size_wh) < MIN_SIDE_PX:
            raise ValueError(f"expected sides of at least {MIN_SIDE_PX} pixels, found {size_wh[0]} x {size_wh[1]}")
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{im_file}: ")
        return _Record(im_file, "corrupt", problems=[Problem(im_file, 0, reason)])
    label_file = image_to_label_path(im_file)
    try:
        text = Path(label_file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return _Record(im_file, "missing", size_wh)
    except (OSError, UnicodeDecodeError) as error:
        return _Record(im_file, "corrupt", problems=[Problem(label_file, 0, f"cannot read the labels: {error}")])
    parsed = parse_labels(text, nc)
    if parsed.errors:
        reasons = [Problem(label_file, line, f"{reason}; image left out") for line, reason in parsed.errors]
        return _Record(im_file, "corrupt", problems=reasons)
    repeats = [Problem(label_file, line, "repeats an earlier row; row dropped") for line in parsed.duplicates]
    return _Record(im_file, "found" if len(parsed.labels) else "empty", size_wh, parsed, repeats)


def _log_problems(problems: list, prefix: str) -> None:
    for problem in problems[:MAX_PROBLEMS_LOGGED]:
        LOGGER.warning(f"{prefix}WARNING {problem}")
    if len(problems) > MAX_PROBLEMS_LOGGED:
        LOGGER.warning(f"{prefix}WARNING and {len(problems) - MAX_PROBLEMS_LOGGED} more problems like these")


def label_cache_path(im_files: list, source: str) -> Path:
    """Where to keep the scan of `source`: next to the label folder, or if that is read-only, in the user's cache."""
    labels = Path(image_to_label_path(im_files[0])).resolve().parent
    tag = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    folder = labels.parent
    if not is_writable(folder):
        tag = hashlib.sha256(f"{labels} {source}".encode()).hexdigest()[:16]
        folder = user_cache_dir() / "labels"
    return folder / f"{labels.name}-{tag}.cache.npz"


def is_writable(folder) -> bool:
    """True if files can be made in `folder`. A folder without any write bit is left alone even by root."""
    try:
        return os.access(folder, os.W_OK) and bool(os.stat(folder).st_mode & 0o222)
    except OSError:
        return False


def user_cache_dir() -> Path:
    """The user's folder for files that can be made again: $XDG_CACHE_HOME or ~/.cache, then yolov5-edgevit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov5-edgevit"


def _content_key(im_files: list, nc: int | None) -> str:
    """Changes when a file is added, removed, resized or touched, and with `nc`."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {nc}\n".encode())
    for im_file in im_files:
        for file in (im_file, image_to_label_path(im_file)):
            try:
                stat = os.stat(file)
                digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(f"{file} -\n".encode())
    return digest.hexdigest()


def _save_cache(path: Path, key: str, im_files: list, scan: LabelScan) -> None:
    rest = iter(scan.im_files)  # those of im_files that were kept, in this order
    next_kept, kept = next(rest, None), np.zeros(len(im_files), bool)
    for i, file in enumerate(im_files):
        if file == next_kept:
            next_kept, kept[i] = next(rest, None), True
    info = {name: getattr(scan, name) for name in ("found", "missing", "empty", "corrupt", "duplicates", "problems")}
    arrays = {
        "key": np.array(key),
        "info": np.array(json.dumps(info)),
        "kept": kept,
        "labels": scan.labels.values,
        "offsets": scan.labels.offsets,
        "points": scan.segments.points,
        "counts": scan.segments.counts,
        "shapes": scan.shapes,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cache(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        LOGGER.warning(f"WARNING the label cache {path} cannot be written ({error}); the next run scans again")


def _load_cache(path: Path, key: str, im_files: list) -> LabelScan | None:
    """The scan of these very files, or None."""
    try:
        with np.load(path) as arrays:
            if str(arrays["key"]) != key:
                return None
            info = json.loads(str(arrays["info"]))
            info["problems"] = [Problem(*problem) for problem in info["problems"]]
            offsets = arrays["offsets"]
            return LabelScan(
                im_files=Paths(file for file, kept in zip(im_files, arrays["kept"]) if kept),
                labels=RowsPerImage(arrays["labels"], offsets),
                segments=PolygonsPerImage(arrays["points"], arrays["counts"], offsets),
                shapes=arrays["shapes"],
                **info,
            )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        LOGGER.warning(f"WARNING the label cache {path} is damaged ({error}); scanning again")
        return None


def join_scans(a: LabelScan, b: LabelScan) -> LabelScan:
    """The images of `a`, then those of `b`."""
    offsets = np.concatenate([a.labels.offsets, b.labels.offsets[1:] + a.labels.offsets[-1]])
    points = np.concatenate([a.segments.points, b.segments.points])
    counts = {
        name: getattr(a, name) + getattr(b, name) for name in ("found", "missing", "empty", "corrupt", "duplicates")
    }
    return LabelScan(
        im_files=[*a.im_files, *b.im_files],
        labels=RowsPerImage(np.concatenate([a.labels.values, b.labels.values]), offsets),
        segments=PolygonsPerImage(points, np.concatenate([a.segments.counts, b.segments.counts]), offsets),
        shapes=np.concatenate([a.shapes, b.shapes]),
        problems=[*a.problems, *b.problems],
        **counts,
    )
