"""Polygons of the label rows of an image, in flat arrays: moved, cut to a rectangle, and the boxes around them."""

from typing import NamedTuple

import numpy as np

from utils.boxes import clip_boxes


class Polygons(NamedTuple):
    """The polygons of n label rows: points [P, 2] one polygon after the other, counts [n]; 0 for a row without one."""

    points: np.ndarray
    counts: np.ndarray

    @classmethod
    def none(cls, n: int) -> "Polygons":
        return cls(np.zeros((0, 2), np.float32), np.zeros(n, np.int32))

    @classmethod
    def from_list(cls, segments, n: int) -> "Polygons":
        """From a list of n arrays [k, 2]; an empty list means that no row has a polygon."""
        if len(segments) == 0:
            return cls.none(n)
        return cls(np.concatenate(segments).reshape(-1, 2), np.array([len(s) for s in segments], np.int32))

    @classmethod
    def join(cls, parts: list) -> "Polygons":
        return cls(np.concatenate([p.points for p in parts]), np.concatenate([p.counts for p in parts]))

    def take(self, rows: np.ndarray) -> "Polygons":
        """Return the rows where the bool array [n] is True."""
        return Polygons(self.points[np.repeat(rows, self.counts)], self.counts[rows])

    def to_list(self) -> list:
        return np.split(self.points, np.cumsum(self.counts)[:-1]) if len(self.counts) else []

    def moved(self, points: np.ndarray) -> "Polygons":
        return Polygons(points, self.counts)

    def mirrored(self, axis: int, size: float) -> "Polygons":
        """Return the polygons flipped up-down (axis 0) or left-right (axis 1) in an image of `size` px along it."""
        points = self.points.copy()
        points[:, 1 - axis] = size - points[:, 1 - axis]
        return self.moved(points)

    def next_points(self) -> np.ndarray:
        """For each point the index [P] of the one after it; the last of a polygon is followed by its first."""
        counts = self.counts[self.counts > 0]
        starts = np.cumsum(counts) - counts
        following = np.arange(1, len(self.points) + 1)
        following[starts + counts - 1] = starts
        return following


def clip_polygons(polygons: Polygons, low, high) -> Polygons:
    """Return what of the polygons is inside the rectangle from `low` to `high` (x, y); count 0 where nothing is.

    Where a concave polygon falls apart, its parts stay joined along the rectangle's side. Source: Sutherland and
    Hodgman, 1974.
    """
    if ((polygons.points >= low) & (polygons.points <= high)).all():
        return polygons
    rows = np.repeat(np.arange(len(polygons.counts)), polygons.counts)
    for axis, limit, sign in ((0, low[0], 1), (0, high[0], -1), (1, low[1], 1), (1, high[1], -1)):
        points, following = polygons.points, polygons.next_points()
        depth = (points[:, axis] - limit) * sign
        inside = depth >= 0
        crosses = inside != inside[following]
        share = depth / np.where(crosses, depth - depth[following], 1)
        cuts = points + share[:, None] * (points[following] - points)
        cuts[:, axis] = limit
        kept = np.stack([inside, crosses], 1)  # for each point and the cut after it
        rows = np.stack([rows, rows], 1)[kept]
        counts = np.bincount(rows, minlength=len(polygons.counts)).astype(np.int32)
        polygons = Polygons(np.stack([points, cuts], 1)[kept], counts)
    return polygons


def visible_boxes(polygons: Polygons, w: int, h: int) -> np.ndarray:
    """Return boxes [n, 4] xyxy around the parts of the polygons inside a w x h image; zeros where nothing is inside.

    Exact: every edge is cut at the image's sides (Liang and Barsky, 1984), and image corners inside the polygon count.
    """
    points = polygons.points.astype(np.float64)
    starts = np.concatenate([[0], np.cumsum(polygons.counts)[:-1]])
    step = points[polygons.next_points()] - points
    slope = np.where(step == 0, 1e-12, step)
    at_low, at_high = -points / slope, (np.array([w, h]) - points) / slope
    enter = np.minimum(at_low, at_high).max(1).clip(0)[:, None]
    leave = np.maximum(at_low, at_high).min(1).clip(None, 1)[:, None]
    ends = np.stack([points + enter * step, points + leave * step])  # [2, P, 2] of the visible part of each edge
    visible = enter <= leave
    low = np.minimum.reduceat(np.where(visible, ends, np.inf).min(0), starts)
    high = np.maximum.reduceat(np.where(visible, ends, -np.inf).max(0), starts)
    for corner in ((0, 0), (w, 0), (w, h), (0, h)):
        inside = _contains(points, step, starts, corner)[:, None]
        low, high = np.where(inside, np.minimum(low, corner), low), np.where(inside, np.maximum(high, corner), high)
    boxes = np.concatenate([low, high], 1)
    boxes[~np.isfinite(boxes).all(1)] = 0
    return clip_boxes(boxes, (h, w)).astype(np.float32)


def _contains(points, step, starts, corner) -> np.ndarray:
    """Which polygons [n] contain the point `corner`: an odd number of edges lies to the right of it."""
    x, y = points.T
    crosses = (y > corner[1]) != (y + step[:, 1] > corner[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        to_the_right = x + (corner[1] - y) / step[:, 1] * step[:, 0] > corner[0]
    return np.add.reduceat(crosses & to_the_right, starts, dtype=np.int64) % 2 == 1
