"""YOLO label files: where they are, parsing with the reason of every problem, and a scan of a data set with a cache.

A row is `class x_centre y_centre width height`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon, which is kept beside its
box), everything but the class divided by the image's width or height. Each row is one or the other by itself.
"""

import hashlib
import json
import os
import zipfile
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.boxes import xyxy2xywh
from utils.console.text import brief
from utils.data.folder import is_writable, user_cache_dir
from utils.data.images import inspect_image
from utils.data.label_files import image_to_label_path, odd_label_files
from utils.data.scan import MIN_SIDE_PX, Problem, files_digest, log_problems, map_files
from utils.data.store import COUNTS, LabelScan, Paths, PolygonsPerImage, RowsPerImage
from utils.files import read_text, write_cache
from utils.logger import LOGGER

CACHE_VERSION = 3
ROUNDING = 2**-24  # 1 plus this is still 1.0 in float32
FLAT = 1e-12  # the area of a box or triangle, as a share of the image, up to which there is nothing in it


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
    """Return (numbers, "") of a good row, ([], reason) of a bad one."""
    n = len(columns)
    if n != 5 and (n < 7 or n % 2 == 0):
        return [], f"expected 5 columns (class x y w h) or a polygon (class and 3 or more x y pairs), found {n}"
    try:
        values = [float(column) for column in columns]
    except ValueError:
        bad = next(column for column in columns if not _is_number(column))
        return [], f"expected numbers, found {brief(bad)}"
    cls = values[0]
    if not cls.is_integer() or cls < 0:
        return [], f"expected a class number 0, 1, 2 ..., found {columns[0][:40]}"
    if nc is not None and cls >= nc:
        return [], f"class {str(int(cls))[:40]} is beyond the data set's {nc} classes (0 to {nc - 1})"
    for text, value in zip(columns[1:], values[1:]):
        if not 0 <= value <= 1 + ROUNDING:  # also catches nan
            return [], f"expected coordinates between 0 and 1 (divided by the image's size), found {text[:40]}"
    if n == 5 and values[3] * values[4] <= FLAT:
        return [], f"expected a box with an area, found width {columns[3][:40]} and height {columns[4][:40]}"
    if n > 5 and _is_flat(values[1::2], values[2::2]):
        return [], f"expected a polygon with an area, found {n // 2} points on one line"
    return values, ""


def _is_flat(x: list, y: list) -> bool:
    """True if the points are on one line, or all in one point."""
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
    odd = odd_label_files(im_files)
    if odd and progress:
        first = " for ".join(reversed(next(iter(odd.items()))))
        LOGGER.warning(f"{prefix}{len(odd)} label files are spelled otherwise than their images, and used: {first}")
    key = _content_key(im_files, nc, odd)
    scan = _load_cache(cache, key, im_files) if cache else None
    if scan is None:
        scan = _scan(im_files, nc, odd, prefix, progress)
        if cache:
            _save_cache(cache, key, im_files, scan)
    elif progress:
        LOGGER.info(f"{prefix}Labels from {cache}: {scan.summary()}")
    if progress:
        log_problems(scan.problems, prefix)
    return scan


def _scan(im_files: list, nc: int | None, odd: dict[str, str], prefix: str, progress: bool) -> LabelScan:
    where = os.path.dirname(image_to_label_path(im_files[0])) if im_files else ""
    records, problems, duplicates = _FlatRecords(), [], 0
    counts: dict[str, Any] = {"found": 0, "missing": 0, "empty": 0, "corrupt": 0}
    description = f"{prefix}Scanning {where}"

    def check(im_file: str) -> _Record:
        return _check_image_and_label(im_file, odd.get(im_file) or image_to_label_path(im_file), nc)

    for record in map_files(check, im_files, description, progress):
        counts[record.state] += 1
        problems += record.problems
        if record.state != "corrupt":
            duplicates += len(record.parsed.duplicates)
            records.append(record)
    scan = LabelScan(**records.columns(), duplicates=duplicates, problems=problems, **counts)
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


def _check_image_and_label(im_file: str, label_file: str, nc: int | None) -> _Record:
    try:
        size_wh, note = inspect_image(im_file)
        if min(size_wh) < MIN_SIDE_PX:
            raise ValueError(f"expected sides of at least {MIN_SIDE_PX} pixels, found {size_wh[0]} x {size_wh[1]}")
    except (OSError, ValueError) as error:
        return _Record(im_file, "corrupt", problems=[Problem.of_file(im_file, error)])
    notes = [Problem(im_file, 0, note)] if note else []
    try:
        text = read_text(label_file)
        if not text.isascii():
            raise ValueError("expected rows of numbers, found other text")
        parsed = parse_labels(text, nc)
    except FileNotFoundError:
        return _Record(im_file, "missing", size_wh, problems=notes)
    except (OSError, ValueError) as error:
        return _Record(im_file, "corrupt", problems=[Problem.of_file(label_file, error)])
    if parsed.errors:
        reasons = [Problem(label_file, line, f"{reason}; image left out") for line, reason in parsed.errors]
        return _Record(im_file, "corrupt", problems=reasons)
    notes += [Problem(label_file, line, "repeats an earlier row; row dropped") for line in parsed.duplicates]
    return _Record(im_file, "found" if len(parsed.labels) else "empty", size_wh, parsed, notes)


def label_cache_path(im_files: list, source: str) -> Path:
    """Return where to keep the scan of `source`: beside the label folder or, if read-only, in the user's cache."""
    labels = Path(image_to_label_path(im_files[0])).resolve().parent
    tag = hashlib.sha256(os.fsencode(str(source))).hexdigest()[:8]
    folder = labels.parent
    if not is_writable(folder):
        tag = hashlib.sha256(os.fsencode(f"{labels} {source}")).hexdigest()[:16]
        folder = user_cache_dir() / "labels"
    return folder / f"{labels.name}-{tag}.cache.npz"


def _content_key(im_files: list, nc: int | None, odd: dict[str, str]) -> str:
    """Return a text that changes when an image or label file does, and with `nc`."""
    files = (file for im_file in im_files for file in (im_file, odd.get(im_file) or image_to_label_path(im_file)))
    return files_digest(files, f"{CACHE_VERSION} {nc}\n")


def _save_cache(path: Path, key: str, im_files: list, scan: LabelScan) -> None:
    rest = iter(scan.im_files)  # those of im_files that were kept, in this order
    next_kept, kept = next(rest, None), np.zeros(len(im_files), bool)
    for i, file in enumerate(im_files):
        if file == next_kept:
            next_kept, kept[i] = next(rest, None), True
    info = {name: getattr(scan, name) for name in COUNTS}
    arrays: dict[str, Any] = {
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
        LOGGER.warning(f"the label cache {path} cannot be written ({error}); the next run scans again")


def _load_cache(path: Path, key: str, im_files: list) -> LabelScan | None:
    """Return the scan of these very files, or None."""
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
        LOGGER.warning(f"the label cache {path} is damaged ({error}); scanning again")
        return None
