"""Counts on lines and in zones: who crosses which way, who enters and leaves; trembling and detours count nothing."""

import numpy as np
import pytest

from extras.track.counting import LineCount, Watch, ZoneCount, anchor_point
from extras.track.places import Place, Places

DOWN = np.float32([[50, 0], [50, 100]])  # a line from top to bottom: its right is the picture's left
SQUARE = np.float32([[20, 20], [60, 20], [60, 60], [20, 60]])


@pytest.mark.parametrize(
    ("points", "margin_px", "directions"),
    [
        ([(80, 50), (20, 50)], 0, ["in"]),
        ([(20, 50), (80, 50)], 0, ["out"]),
        ([(80, 50), (60, 50), (50, 50), (40, 50)], 0, ["in"]),  # on the line is on neither side
        ([(80, 50), (50, 50), (80, 50)], 0, []),  # touched, and back
        ([(80, 50), (20, 50), (80, 50)], 0, ["in", "out"]),
        ([(80, 50), (49, 50), (51, 50), (49, 50), (20, 50)], 2, ["in"]),  # it trembles within the margin
        ([(80, 150), (20, 150)], 0, []),  # past the end of the line
        ([(80, -20), (20, 60)], 0, ["in"]),  # aslant: through the line at y 20
        ([(80, -60), (20, 20)], 0, []),  # aslant: past it at y -20
        ([(20, 50)], 0, []),  # seen first behind it
    ],
)
def test_lines(points, margin_px, directions):
    line = LineCount("gate", DOWN)
    events = [line.update(7, np.array(point, float), margin_px) for point in points]
    assert [event["direction"] for event in events if event] == directions
    assert line.counts == {way: directions.count(way) for way in ("in", "out")}


def test_a_line_keeps_objects_apart():
    line = LineCount("gate", DOWN)
    for one, x in ((1, 80), (2, 20), (1, 70), (2, 30)):
        assert line.update(one, np.array([x, 50.0]), 0) is None
    assert line.update(2, np.array([80, 50.0]), 0)["direction"] == "out"


@pytest.mark.parametrize(
    ("points", "margin_px", "events", "entered", "inside"),
    [
        ([(0, 40), (40, 40), (100, 40)], 0, ["enter", "leave"], 1, 0),
        ([(40, 40)], 0, ["enter"], 1, 1),  # seen first inside
        ([(0, 40), (100, 40)], 0, [], 0, 0),  # never seen inside
        ([(40, 40), (59, 40), (61, 40), (59, 40)], 2, ["enter"], 1, 1),  # it trembles on the border
        ([(40, 40), (80, 40), (40, 40)], 0, ["enter", "leave", "enter"], 2, 1),
    ],
)
def test_zones(points, margin_px, events, entered, inside):
    zone = ZoneCount("door", SQUARE)
    found = [zone.update(7, np.array(point, float), margin_px, t / 10) for t, point in enumerate(points)]
    assert [event["event"] for event in found if event] == events
    assert (zone.entered, len(zone.inside)) == (entered, inside)


def test_time_in_a_zone_is_that_of_the_frames():
    """At a rate that varies too."""
    zone = ZoneCount("door", SQUARE)
    found = [zone.update(7, np.array([x, 40.0]), 0, t) for x, t in ((0, 0.0), (30, 0.25), (50, 1.5), (90, 2.0))]
    assert found[-1] == {"event": "leave", "duration_s": 1.75}


def row(one: int, x: float) -> dict:
    return {"id": one, "class": 0, "name": "car", "confidence": 0.9, "box_xyxy": [x - 10, 30, x + 10, 50]}


def test_a_lost_object_is_no_longer_inside():
    watch = Watch(Places(zones=[Place("door", SQUARE)]), (100, 100), lost_s=1.0)
    assert [e["event"] for e in watch.look([row(1, 40), row(2, 45)], 0.0)] == ["enter", "enter"]
    assert watch.look([row(2, 45)], 1.0) == []
    (event,) = watch.look([row(2, 45)], 1.5)
    assert event == {"event": "lost", "duration_s": 0.0, "place": "door", **row(1, 40)}
    assert watch.summary() == ["zone door: 2 entered, 1 inside"] and set(watch.seen) == {2}


@pytest.mark.parametrize(
    ("anchor", "box_xyxy", "point", "margin_px"),
    [("centre", (0, 0, 40, 20), (20, 10), 1.0), ("bottom", (0, 0, 40, 20), (20, 20), 1.0)],
)
def test_anchor(anchor, box_xyxy, point, margin_px):
    found, margin = anchor_point(box_xyxy, anchor)
    assert tuple(found) == point and margin == margin_px
