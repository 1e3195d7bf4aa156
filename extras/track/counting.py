"""Counts of followed objects on lines and in zones. Numbers in, numbers out: needs no tracker and no picture.

A point counts as on one side only when it is farther from the border than a margin, so that an object whose box
trembles on a line is not counted again and again.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

MARGIN_SHARE = 0.05  # of the short side of an object's box


@dataclass
class LineCount:
    """A line from its first point to its second, and who has crossed it. `in` is from its left to its right."""

    name: str
    ends: np.ndarray  # [2, 2] x and y in pixels
    counts: dict = field(default_factory=lambda: {"in": 0, "out": 0})
    last: dict = field(default_factory=dict)  # id -> the last point that was clearly on one side, its distance

    def update(self, one: int, point: np.ndarray, margin_px: float, time_s: float = 0.0) -> dict | None:
        """Return what happened to the object `one` now that it is at `point`: {"event": "cross", ...} or None."""
        start, along = self.ends[0], self.ends[1] - self.ends[0]
        across = along[0] * (point[1] - start[1]) - along[1] * (point[0] - start[0])
        distance = float(across / np.hypot(*along))  # above 0 on the right of who walks along the line
        if abs(distance) <= margin_px:
            return None
        before, self.last[one] = self.last.get(one), (point, distance)
        if before is None or (before[1] > 0) == (distance > 0):
            return None
        share = before[1] / (before[1] - distance)
        crossing = before[0] + share * (point - before[0]) - start
        if not 0 <= crossing @ along <= along @ along:  # It went past an end of the line.
            return None
        direction = "in" if distance > 0 else "out"
        self.counts[direction] += 1
        return {"event": "cross", "direction": direction}

    def forget(self, one: int) -> dict | None:
        """Drop an object that was lost; a line has no event for it."""
        self.last.pop(one, None)

    def summary(self) -> str:
        return f"line {self.name}: {self.counts['in']} in, {self.counts['out']} out"


@dataclass
class ZoneCount:
    """A zone, who is in it since when, and how many have entered it."""

    name: str
    corners: np.ndarray  # float32 [n, 2] x and y in pixels
    entered: int = 0
    inside: dict = field(default_factory=dict)  # id -> time of entry, time when last seen inside; in seconds

    def update(self, one: int, point: np.ndarray, margin_px: float, time_s: float = 0.0) -> dict | None:
        """Return what happened to the object `one` now that it is at `point`: an entry, a leave, or None."""
        depth = cv2.pointPolygonTest(self.corners.astype(np.float32), (float(point[0]), float(point[1])), True)
        if one not in self.inside:
            if depth <= margin_px:
                return None
            self.inside[one] = (time_s, time_s)
            self.entered += 1
            return {"event": "enter"}
        since_s = self.inside[one][0]
        if depth >= -margin_px:
            self.inside[one] = (since_s, time_s)
            return None
        del self.inside[one]
        return {"event": "leave", "duration_s": time_s - since_s}

    def forget(self, one: int) -> dict | None:
        """Drop an object that was lost; where it was inside, this is an event of its own."""
        if one not in self.inside:
            return None
        since_s, seen_s = self.inside.pop(one)
        return {"event": "lost", "duration_s": seen_s - since_s}

    def summary(self) -> str:
        return f"zone {self.name}: {self.entered} entered, {len(self.inside)} inside"


@dataclass
class Seen:
    """What was last seen of an object: its row of a result, as events show it."""

    time_s: float
    row: dict


class Watch:
    """All lines and zones of one video or stream. look() takes a frame's objects and returns the events."""

    def __init__(self, places, shape_hw: tuple, lost_s: float):
        self.lines = [LineCount(place.name, place.in_pixels(shape_hw)) for place in places.lines]
        self.zones = [ZoneCount(place.name, place.in_pixels(shape_hw)) for place in places.zones]
        self.anchor, self.lost_s = places.anchor, lost_s
        self.seen: dict[int, Seen] = {}

    def look(self, objects: list, time_s: float) -> list:
        """Return the events of a frame: dicts with event, place, and what `objects` (dicts with id, box_xyxy) say."""
        events = []
        for row in objects:
            self.seen[row["id"]] = Seen(time_s, row)
            point, margin_px = anchor_point(row["box_xyxy"], self.anchor)
            for place in self.lines + self.zones:
                if event := place.update(row["id"], point, margin_px, time_s):
                    events.append({**event, "place": place.name, **row})
        return events + self._lost(time_s)

    def _lost(self, time_s: float) -> list:
        events = []
        for one in [one for one, seen in self.seen.items() if time_s - seen.time_s > self.lost_s]:
            row = self.seen.pop(one).row
            for place in self.lines + self.zones:
                if event := place.forget(one):
                    events.append({**event, "place": place.name, **row})
        return events

    def summary(self) -> list:
        """Return a phrase for each line and zone."""
        return [place.summary() for place in self.lines + self.zones]


def anchor_point(box_xyxy, anchor: str) -> tuple[np.ndarray, float]:
    """Return the point [2] of a box that counts, and how far from a border it must be, in pixels."""
    x1, y1, x2, y2 = box_xyxy
    y = y2 if anchor == "bottom" else (y1 + y2) / 2
    return np.array([(x1 + x2) / 2, y]), MARGIN_SHARE * min(x2 - x1, y2 - y1)
