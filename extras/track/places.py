"""Lines and zones as a user gives them, by flags or in a YAML file."""

from dataclasses import dataclass, field

import numpy as np

ANCHORS = ("centre", "bottom")
EXAMPLE = "NAME:x1,y1,x2,y2"


@dataclass(frozen=True)
class Place:
    """A line (two points) or a zone (three or more), [n, 2] x and y, in pixels or as shares of the picture."""

    name: str
    points: np.ndarray

    def in_pixels(self, shape_hw: tuple) -> np.ndarray:
        """Return the points float32 [n, 2] in pixels of a picture of this height and width.

        Coordinates between 0 and 1 in all points are shares, as no line or zone is so small.
        """
        is_share = ((self.points >= 0) & (self.points <= 1)).all()
        scale = np.float32([shape_hw[1], shape_hw[0]]) if is_share else np.ones(2, np.float32)
        return self.points * scale


@dataclass(frozen=True)
class Places:
    """All lines and zones, and the point of a box that counts: its centre, or the middle of its lower edge."""

    lines: list = field(default_factory=list)
    zones: list = field(default_factory=list)
    anchor: str = "centre"


def read_places(lines=None, zones=None, watch=None) -> Places:
    """Return the Places of the flags --lines and --zones and of the file --watch together."""
    found = Places([read_flag("--lines", text) for text in lines or []], [read_flag("--zones", t) for t in zones or []])
    if watch:
        of_file = read_file(watch)
        found = Places(found.lines + of_file.lines, found.zones + of_file.zones, of_file.anchor)
    names = [place.name for place in found.lines + found.zones]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"lines and zones: expected a name for each, found '{twice[0]}' twice")
    return found


def read_flag(flag: str, text: str) -> Place:
    """Return the place that a text NAME:x,y,x,y ... describes."""
    name, _, numbers = text.rpartition(":")
    if not name:
        raise ValueError(f"{flag}: expected {EXAMPLE}{',x3,y3 ...' * (flag == '--zones')}, found '{text}'")
    return read_points(f"{flag} {name}", name, numbers.split(","), flag == "--lines")


def read_file(path) -> Places:
    """Return the places of a YAML file with lines, zones and anchor."""
    from utils.files.yaml import load_yaml

    data = load_yaml(path)
    if unknown := sorted(set(map(str, data)) - {"lines", "zones", "anchor"}):
        raise ValueError(f"{path}: expected lines, zones and anchor, found '{unknown[0]}'")
    if (anchor := data.get("anchor", ANCHORS[0])) not in ANCHORS:
        raise ValueError(f"{path}: anchor: expected {' or '.join(ANCHORS)}, found '{anchor}'")
    places = {}
    for kind in ("lines", "zones"):
        named = data.get(kind) or {}
        if not isinstance(named, dict):
            raise ValueError(f"{path}: {kind}: expected 'name: [x, y, x, y ...]', found a {type(named).__name__}")
        places[kind] = [read_points(f"{path}: {k}", str(k), v, kind == "lines") for k, v in named.items()]
    return Places(**places, anchor=anchor)


def read_points(where: str, name: str, values, is_line: bool) -> Place:
    """Return a Place from a flat list of coordinates; `where` begins the message of an error."""
    wanted = "the 4 numbers x1, y1, x2, y2" if is_line else "6 numbers or more, an x and a y for each corner"
    try:
        numbers = np.array(values, np.float32).ravel()
    except (ValueError, TypeError):
        numbers = np.full(1, np.nan)
    if not np.isfinite(numbers).all() or len(numbers) % 2 or (len(numbers) != 4 if is_line else len(numbers) < 6):
        raise ValueError(f"{where}: expected {wanted}, found {str(values)[:80]}")
    points = numbers.reshape(-1, 2)
    if is_line and (points[0] == points[1]).all():
        raise ValueError(f"{where}: expected two points, found the same one twice")
    return Place(name, points)
