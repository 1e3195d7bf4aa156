"""A data set's labels in memory: a few arrays and offsets, no Python object for each image."""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np


class FlatSequence(Sequence):
    """A sequence whose items are made when they are wanted, by item(i); a slice of it is a list."""

    def __getitem__(self, i):
        indices = range(len(self))[i]
        return [self.item(j) for j in indices] if isinstance(i, slice) else self.item(indices)


class Paths(FlatSequence):
    """A list of paths, kept as one bytearray and offsets."""

    def __init__(self, paths=()):
        self.text, self.ends = bytearray(), array("q")
        for path in paths:
            self.append(path)

    def append(self, path: str) -> None:
        self.text += os.fsencode(path)
        self.ends.append(len(self.text))

    def __len__(self):
        return len(self.ends)

    def item(self, i: int) -> str:
        return os.fsdecode(bytes(self.text[self.ends[i - 1] if i else 0 : self.ends[i]]))

    def __eq__(self, other):
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __repr__(self):
        return f"{type(self).__name__}({list(self)})"


class RowsPerImage(FlatSequence):
    """A list of arrays [n_i, C], kept as one array and offsets. Items are views."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray):
        self.values, self.offsets = values, offsets  # [sum of n_i, C]; [N + 1]

    def __len__(self):
        return len(self.offsets) - 1

    def item(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def reordered(self, order: np.ndarray) -> "RowsPerImage":
        """Return the rows of the images `order`."""
        return RowsPerImage(*_take_groups(self.values, self.offsets, order))


class PolygonsPerImage(FlatSequence):
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

    def item(self, i: int) -> list[np.ndarray]:
        points, counts = self.flat(i)
        return np.split(points, np.cumsum(counts)[:-1]) if len(points) else []

    def flat(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image i's points [P_i, 2] (a view) and the number of points of each of its rows [n_i]."""
        i = range(len(self))[i]
        first, last = self.row_offsets[i], self.row_offsets[i + 1]
        return self.points[self.point_offsets[first] : self.point_offsets[last]], self.counts[first:last]

    def reordered(self, order: np.ndarray) -> "PolygonsPerImage":
        """Return the polygons of the images `order`."""
        rows, row_offsets = _take_groups(np.arange(len(self.counts)), self.row_offsets, order)
        return PolygonsPerImage(_take_groups(self.points, self.point_offsets, rows)[0], self.counts[rows], row_offsets)


def _take_groups(values: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the groups values[offsets[i] : offsets[i + 1]] into another order; return the new (values, offsets)."""
    counts = np.diff(offsets)[order]
    new_offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return values[np.arange(new_offsets[-1]) + np.repeat(offsets[order] - new_offsets[:-1], counts)], new_offsets


@dataclass
class LabelScan:
    """The images and labels of a data set; the lists hold the usable images only, in the order given."""

    im_files: Sequence  # paths, str
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
        """Return the counts in words."""
        text = f"{self.found} images, {self.missing + self.empty} backgrounds, {self.corrupt} corrupt"
        return text + (f", {self.duplicates} duplicate labels dropped" if self.duplicates else "")


COUNTS = tuple(f.name for f in fields(LabelScan))[4:]  # the fields after the arrays, problems included


def join_scans(a: LabelScan, b: LabelScan) -> LabelScan:
    """Return the images of `a`, then those of `b`."""
    offsets = np.concatenate([a.labels.offsets, b.labels.offsets[1:] + a.labels.offsets[-1]])
    points = np.concatenate([a.segments.points, b.segments.points])
    return LabelScan(
        im_files=[*a.im_files, *b.im_files],
        labels=RowsPerImage(np.concatenate([a.labels.values, b.labels.values]), offsets),
        segments=PolygonsPerImage(points, np.concatenate([a.segments.counts, b.segments.counts]), offsets),
        shapes=np.concatenate([a.shapes, b.shapes]),
        **{name: getattr(a, name) + getattr(b, name) for name in COUNTS},
    )
