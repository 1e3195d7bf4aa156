"""Lines and zones from flags and files: what is read, and what is said where they are wrong."""

import numpy as np
import pytest

from extras.track.places import read_places


def test_flags_and_file_together(tmp_path):
    file = tmp_path / "watch.yaml"
    file.write_text("lines:\n  gate: [0.5, 0, 0.5, 1]\nzones:\n  door: [0, 0, 100, 0, 100, 50]\nanchor: bottom\n")
    places = read_places(["a:b:1,2,3,4"], ["yard:0,0,1,0,1,1"], file)
    assert [place.name for place in places.lines] == ["a:b", "gate"] and places.anchor == "bottom"
    assert [place.name for place in places.zones] == ["yard", "door"]
    shares, pixels = places.lines[1].in_pixels((100, 200)), places.zones[1].in_pixels((100, 200))
    np.testing.assert_array_equal(shares, [[100, 0], [100, 100]])
    np.testing.assert_array_equal(pixels, [[0, 0], [100, 0], [100, 50]])


@pytest.mark.parametrize(
    ("lines", "zones", "text", "words"),
    [
        (["0,0,1,1"], [], "", "--lines: expected NAME:x1,y1,x2,y2, found '0,0,1,1'"),
        (["gate:0,0,1"], [], "", "--lines gate: expected the 4 numbers x1, y1, x2, y2, found"),
        (["gate:0,0,1,x"], [], "", "--lines gate: expected the 4 numbers"),
        (["gate:0,0,1,nan"], [], "", "--lines gate: expected the 4 numbers"),
        (["gate:1,1,1,1"], [], "", "--lines gate: expected two points, found the same one twice"),
        ([], ["door:0,0,1,1"], "", "--zones door: expected 6 numbers or more, an x and a y for each corner"),
        ([], ["door:0,0,1,1,0"], "", "--zones door: expected 6 numbers or more"),
        (["a:0,0,1,1"], ["a:0,0,1,1,0,1"], "", "expected a name for each, found 'a' twice"),
        ([], [], "line: {a: [0, 0, 1, 1]}", "watch.yaml: expected lines, zones and anchor, found 'line'"),
        ([], [], "anchor: top", "watch.yaml: anchor: expected centre or bottom, found 'top'"),
        ([], [], "lines: [1, 2]", "watch.yaml: lines: expected 'name: .x, y, x, y ...]', found a list"),
        ([], [], "lines: {a: [[0, 0], 1]}", "watch.yaml: a: expected the 4 numbers"),
        ([], [], "zones: {a: 5}", "watch.yaml: a: expected 6 numbers or more"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, lines, zones, text, words):
    (tmp_path / "watch.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_places(lines, zones, tmp_path / "watch.yaml" if text else None)
