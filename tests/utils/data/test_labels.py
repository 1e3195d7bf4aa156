import logging
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SHARED, needs_shared, write_tiny_dataset
from utils.data import labels as labels_module
from utils.data.folder import is_writable
from utils.data.labels import (
    image_to_label_path,
    label_cache_path,
    parse_labels,
    scan_labels,
)
from utils.data.store import Paths, PolygonsPerImage, RowsPerImage

PATHS = [
    # (image, label, what the row proves)
    ("data/images/train/1.jpg", "data/labels/train/1.txt", "the folder called images is replaced"),
    ("/images/set/images/a.b.png", "/images/set/labels/a.b.txt", "only the last one is; only the last suffix goes"),
    ("/data/myimages/1.jpg", "/data/myimages/1.txt", "a part of a folder's name does not count: label beside image"),
    ("images/1.jpg", "labels/1.txt", "a relative path may start with images"),
    ("images.jpg", "images.txt", "a file name is no folder"),
    ("1.jpg", "1.txt", "no folder at all"),
]


@pytest.mark.parametrize("image,label,proves", PATHS, ids=[row[2] for row in PATHS])
def test_image_to_label_path(image, label, proves):
    assert image_to_label_path(image) == label.replace("/", os.sep)
    assert image_to_label_path(Path(image)) == label.replace("/", os.sep)


@pytest.mark.parametrize("files", [[], ["a.jpg"], ["a/é 日本.jpg", "", "b.jpg", "b.jpg", os.fsdecode(b"\xff.jpg")]])
def test_paths_are_like_a_list(files):
    paths = Paths(files)
    assert len(paths) == len(files) and list(paths) == files and paths == files and files == paths
    assert paths[:2] == files[:2] and paths[::-1] == files[::-1] and bool(paths) == bool(files)
    for i in range(-len(files), len(files)):
        assert paths[i] == paths[np.int64(i)] == files[i]
    for file in files:
        assert file in paths and paths.index(file) == files.index(file)
    for i in (len(files), -len(files) - 1):
        with pytest.raises(IndexError):
            paths[i]
    assert paths != [*files, "c.jpg"] and paths != [f"{file}x" for file in files] or not files
    assert pickle.loads(pickle.dumps(paths)) == files and [*paths, "x"] == [*files, "x"]


BAD_ROWS = [
    # (text, nc, line, part of the reason, what the row proves)
    ("0 .5 .5 .2", 3, 1, "found 4", "four columns"),
    ("0 .5 .5 .2 .2 .3", 3, 1, "found 6", "six columns are neither a box nor a polygon"),
    ("0 .1 .1 .2 .2 .3 .3 .4", 3, 1, "found 8", "a polygon with half a point"),
    (
        "0 .5 .5 .2 .2\n\n3 .5 .5 .2 .2",
        3,
        3,
        "class 3 is beyond the data set's 3 classes (0 to 2)",
        "blank lines count",
    ),
    ("0 -.1 .5 .2 .2", 3, 1, "between 0 and 1 (divided by the image's size), found -.1", "negative value"),
    ("0 .5 .5 .2 1.2", 3, 1, "found 1.2", "not normalised"),
    ("0 .5 .5 nan .2", 3, 1, "found nan", "nan"),
    ("0 .5 .5 inf .2", 3, 1, "found inf", "infinity"),
    ("cat .5 .5 .2 .2", 3, 1, "expected numbers, found 'cat'", "a name instead of a number"),
    ("0,.5,.5,.2,.2 1 1 1 1", 3, 1, "found '0,.5,.5,.2,.2'", "commas"),
    ("1.5 .5 .5 .2 .2", 3, 1, "class number 0, 1, 2 ..., found 1.5", "a broken class"),
    ("-1 .5 .5 .2 .2", 3, 1, "class number 0, 1, 2 ..., found -1", "a negative class"),
    ("inf .5 .5 .2 .2", None, 1, "class number", "an infinite class"),
    ("nan .5 .5 .2 .2", None, 1, "class number", "a class that is no number"),
    ("0 .1 .1", 3, 1, "found 3", "a polygon of one point; two points would be a box"),
    ("0 .1 .1 .2 .2 .3 1.3", 3, 1, "found 1.3", "a polygon that leaves the image"),
    ("0 .1 .1 .2 .2 .3 -.3", 3, 1, "found -.3", "on the other side too"),
    ("0 .1 .1 .2 .2 .3 nan", 3, 1, "found nan", "a polygon with nan"),
    ("0 .1 .1 .2 .1 .3 .3\n0 .5 .5 .5 .5 .5 .5 .5 .5", 3, 2, "an area, found 4 points on one line", "one point"),
    ("0 .1 .2 .3 .4 .1 .2 .3 .4", 3, 1, "an area, found 4 points on one line", "there and back again"),
    ("0 .1 .1 .2 .2 .35 .35", 3, 1, "an area, found 3 points on one line", "a diagonal, after rounding"),
    ("0 .1 .7 .2 .7 .35 .7", 3, 1, "an area, found 3 points on one line", "a line along a side"),
]


@pytest.mark.parametrize("text,nc,line,reason,proves", BAD_ROWS, ids=[row[4] for row in BAD_ROWS])
def test_bad_rows_are_reported_with_line_and_reason(text, nc, line, reason, proves):
    parsed = parse_labels(text, nc)
    assert [number for number, _ in parsed.errors] == [line]
    assert reason in parsed.errors[0][1]


def test_good_rows():
    text = "\n  0 .5 .5 .2 .4  \r\n79.0 0 0 1 1\n2 .1 .2 .5 .2 .3 .6\n"
    parsed = parse_labels(text)
    expected = [[0, 0.5, 0.5, 0.2, 0.4], [79, 0, 0, 1, 1], [2, 0.3, 0.4, 0.4, 0.4]]  # the polygon becomes its box
    np.testing.assert_allclose(parsed.labels, np.float32(expected), rtol=1e-6)
    np.testing.assert_array_equal(parsed.counts, [0, 0, 3])
    np.testing.assert_allclose(parsed.points, np.float32([[0.1, 0.2], [0.5, 0.2], [0.3, 0.6]]))
    assert parsed.labels.dtype == parsed.points.dtype == np.float32
    assert not parsed.errors and not parsed.duplicates
    assert parse_labels("0 .5 .5 1.00000001 .4").labels.shape == (1, 5)  # 1 after rounding to float32
    assert parse_labels("").labels.shape == (0, 5) and parse_labels("\n \n").points.shape == (0, 2)


GOOD_POLYGONS = [
    # (coordinates, points, what the row proves)
    (".5 .5 .6 .5 .6 .6", 3, "a triangle"),
    (".5 .5 .5 .5 .6 .5 .6 .6 .5 .5", 5, "repeated points do no harm"),
    (".1 .1 .2 .2 .3 .3 .3 .300001", 4, "nearly a line"),
    (".1 .1 .3 .3 .3 .1 .1 .3", 4, "crosses itself"),
    ("0 0 1 0 1 1 0 1", 4, "the whole image"),
]


@pytest.mark.parametrize("text,count,proves", GOOD_POLYGONS, ids=[row[2] for row in GOOD_POLYGONS])
def test_good_polygons(text, count, proves):
    parsed = parse_labels(f"1 {text}")
    assert not parsed.errors and parsed.counts.tolist() == [count]


def test_each_row_is_a_box_or_a_polygon_by_itself():
    """One polygon among boxes makes no polygon of them, and one box among polygons no box."""
    parsed = parse_labels("0 .5 .5 .2 .2\n1 .1 .1 .3 .1 .3 .3\n2 .4 .4 .2 .2\n3 .1 .1 .3 .1 .3 .3 .1 .3")
    assert parsed.counts.tolist() == [0, 3, 0, 4] and parsed.labels[:, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(parsed.labels[[0, 2], 1:], [[0.5, 0.5, 0.2, 0.2], [0.4, 0.4, 0.2, 0.2]])


def test_bad_polygons_are_named_with_file_and_line(tmp_path, messages):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, text in (("a", "0 .1 .1 .3 .1 .3 .3\n"), ("b", "0 .1 .1 .3 .1 .3 .3\n1 .2 .2 .2 .2 .2 .2\n")):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    scan = scan_labels([str(tmp_path / "images" / f"{name}.png") for name in "ab"], nc=2)
    assert [Path(file).stem for file in scan.im_files] == ["a"] and scan.corrupt == 1
    expected = f"WARNING {tmp_path}/labels/b.txt:2: expected a polygon with an area, found 3 points on one line"
    assert messages()[-1] == f"{expected}; image left out"


def test_repeated_rows_are_dropped_and_order_kept():
    parsed = parse_labels("1 .5 .5 .2 .2\n0 .1 .1 .1 .1\n1 .50 .5 .2 .2\n2 .5 .5 .2 .2")
    assert parsed.labels[:, 0].tolist() == [1, 0, 2] and parsed.duplicates == [3]


unit = st.floats(0, 1, width=32)
side = st.floats(2**-19, 1, width=32)  # a box without an area is refused
box_rows = st.lists(st.tuples(st.integers(0, 79), unit, unit, side, side), max_size=6, unique=True)


@settings(max_examples=50, deadline=None)
@given(box_rows)
def test_written_rows_read_back(rows):
    text = "\n".join(" ".join(str(value) for value in row) for row in rows)
    parsed = parse_labels(text, 80)
    assert not parsed.errors
    np.testing.assert_array_equal(parsed.labels, np.array(rows, np.float32).reshape(-1, 5))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="01.-5e nax\n\t", max_size=60))
def test_any_text_gives_valid_rows_or_errors(text):
    parsed = parse_labels(text, 6)
    assert np.isfinite(parsed.labels).all()
    assert ((parsed.labels[:, 1:] >= 0) & (parsed.labels[:, 1:] <= 1)).all()
    assert set(parsed.labels[:, 0]) <= set(range(6))
    used = len(parsed.labels) + len(parsed.errors) + len(parsed.duplicates)
    assert used == sum(bool(line.strip()) for line in text.splitlines())


def test_rows_per_image_behaves_as_a_list_of_arrays():
    rows = RowsPerImage(np.arange(30, dtype=np.float32).reshape(6, 5), np.array([0, 2, 2, 6]))
    assert [len(r) for r in rows] == [2, 0, 4] and len(rows) == 3
    np.testing.assert_array_equal(rows[-1], rows[2])
    assert [len(r) for r in rows[:2]] == [2, 0]
    np.testing.assert_array_equal(np.concatenate(rows, 0), rows.values)
    rows[0][:, 0] = 7  # views: a user may change them
    assert rows.values[:2, 0].tolist() == [7, 7]
    with pytest.raises(IndexError):
        rows[3]
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(np.concatenate(list(rows.reordered(order))), np.concatenate([rows[i] for i in order]))
    assert [len(r) for r in rows.reordered(order)] == [4, 2, 0]


def test_polygons_per_image():
    points = np.arange(14, dtype=np.float32).reshape(7, 2)
    # image 0: a box and a triangle; image 1: no row; image 2: one box; image 3: one four-cornered polygon
    polygons = PolygonsPerImage(points, np.array([0, 3, 0, 4]), np.array([0, 2, 2, 3, 4]))
    assert [[len(p) for p in image] for image in polygons] == [[0, 3], [], [], [4]]
    np.testing.assert_array_equal(polygons[0][1], points[:3])
    again = polygons.reordered(np.array([3, 2, 0, 1]))
    assert [[len(p) for p in image] for image in again] == [[4], [], [0, 3], []]
    np.testing.assert_array_equal(again[0][0], points[3:])


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, logger="yolov5_edgevit")
    levels = {logging.WARNING: "WARNING "}
    return lambda: [levels.get(record.levelno, "") + record.getMessage() for record in caplog.records]


@pytest.fixture
def problem_set(tmp_path) -> list:
    """Ten images, one for each kind of problem, and what is left of them: 00, 01, 02 and 03."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for i in range(10):
        cv2.imwrite(str(images / f"{i:02d}.jpg"), np.full((20, 30, 3), i, np.uint8))
        (labels / f"{i:02d}.txt").write_text("0 .5 .5 .2 .2\n")
    (labels / "01.txt").write_text("")  # empty
    (labels / "02.txt").unlink()  # missing
    (labels / "03.txt").write_text("0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n0 .5 .5 .2 .2\n")  # repeated row
    (labels / "04.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .2\n")  # 4 columns
    (labels / "05.txt").write_text("5 .5 .5 .2 .2\n")  # class beyond
    (labels / "06.txt").write_text("0 -.5 .5 .2 .2\n")  # negative box
    (images / "07.jpg").write_bytes((images / "07.jpg").read_bytes()[:200])  # broken JPEG
    cv2.imwrite(str(images / "08.jpg"), np.zeros((9, 30, 3), np.uint8))  # too small
    (labels / "09.txt").write_bytes(b"\xff\xfe\x00 .5")  # no text
    return [str(images / f"{i:02d}.jpg") for i in range(10)] + [str(images / "gone.jpg")]


def test_scan_counts_and_names_every_problem(problem_set, messages):
    scan = scan_labels(problem_set, nc=2, prefix="train: ")
    assert [Path(file).stem for file in scan.im_files] == ["00", "01", "02", "03"]
    assert (scan.found, scan.missing, scan.empty, scan.corrupt, scan.duplicates) == (2, 1, 1, 7, 1)
    assert [len(rows) for rows in scan.labels] == [1, 0, 0, 2]
    assert scan.shapes.tolist() == [[30, 20]] * 4
    where = [(Path(p.file).name, p.line) for p in scan.problems]
    assert where == [
        ("03.txt", 3), ("04.txt", 2), ("05.txt", 1), ("06.txt", 1), ("07.jpg", 0), ("08.jpg", 0), ("09.txt", 0),
        ("gone.jpg", 0),
    ]  # fmt: skip
    log = messages()
    assert "2 images, 2 backgrounds, 7 corrupt, 1 duplicate labels dropped" in log[0]
    assert sum("WARNING" in line for line in log) == 8
    folder = str(Path(problem_set[0]).parents[1] / "labels")
    assert f"WARNING train: {folder}/04.txt:2: expected 5 columns" in log[2]
    assert log[5] == f"WARNING train: {problem_set[7]}: " + log[5].split(": ", 2)[2]  # the path once, then the reason
    assert "gone.jpg: no such file" in log[8]


def test_only_the_first_problems_are_logged(tmp_path, messages):
    files = [str(tmp_path / f"{i}.jpg") for i in range(30)]
    scan = scan_labels(files)
    assert scan.corrupt == 30 and scan.im_files == []
    assert scan.labels.values.shape == (0, 5) and scan.shapes.shape == (0, 2)
    assert messages()[-1] == "WARNING and 10 more problems like these"
    assert sum("no such file" in line for line in messages()) == 20


def no_scan(*_args, **_kwargs):
    raise AssertionError("the cache was not used")


def test_cache_gives_the_same_scan_until_a_file_changes(problem_set, tmp_path, monkeypatch, messages):
    (tmp_path / "labels" / "00.txt").write_text("0 .1 .1 .9 .1 .5 .5\n1 .2 .2 .1 .1\n")
    cache = tmp_path / "x.cache.npz"
    first = scan_labels(problem_set, 2, cache)
    with monkeypatch.context() as patch:
        patch.setattr(labels_module, "_scan", no_scan)
        again = scan_labels(problem_set, 2, cache)
        with pytest.raises(AssertionError):
            scan_labels(problem_set, 3, cache)  # another nc
        with pytest.raises(AssertionError):
            scan_labels(problem_set[:-1], 2, cache)  # another set of files
    assert again.im_files == first.im_files and again.problems == first.problems and again.summary() == first.summary()
    np.testing.assert_array_equal(again.labels.values, first.labels.values)
    np.testing.assert_array_equal(again.shapes, first.shapes)
    np.testing.assert_array_equal(again.segments[0][0], first.segments[0][0])
    assert again.segments[3] == []
    assert any("04.txt:2" in line for line in messages()[-9:])  # problems are named again
    (tmp_path / "labels" / "04.txt").write_text("1 .5 .5 .2 .2\n")
    assert scan_labels(problem_set, 2, cache).corrupt == 6


def test_cache_is_no_pickle(problem_set, tmp_path):
    cache = tmp_path / "x.cache.npz"
    scan_labels(problem_set, 2, cache)
    with np.load(cache, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_damaged_cache_is_replaced(problem_set, tmp_path, messages):
    cache = tmp_path / "x.cache.npz"
    for damage in (b"", b"garbage", None):
        expected = scan_labels(problem_set, 2, cache)
        cache.write_bytes(cache.read_bytes()[:500] if damage is None else damage)
        assert scan_labels(problem_set, 2, cache).summary() == expected.summary()
        assert any("is damaged" in line for line in messages())


def test_cache_lives_beside_the_labels_or_with_the_user(problem_set, tmp_path, monkeypatch, messages):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside = label_cache_path(problem_set, "images")
    assert beside.parent == tmp_path and beside.name.startswith("labels-") and beside.name.endswith(".cache.npz")
    assert label_cache_path(problem_set, "list.txt") != beside  # two lists over one folder do not fight
    mode = tmp_path.stat().st_mode
    os.chmod(tmp_path, 0o555)
    try:
        assert not is_writable(tmp_path)  # even for root
        elsewhere = label_cache_path(problem_set, "images")
    finally:
        os.chmod(tmp_path, mode)
    assert elsewhere.parent == tmp_path / "cache" / "yolov5-edgevit" / "labels"
    scan_labels(problem_set, 2, elsewhere)
    assert elsewhere.is_file() and not beside.exists()
    # nowhere to write: a warning, and training goes on
    (tmp_path / "file").write_text("")
    assert scan_labels(problem_set, 2, tmp_path / "file" / "x.npz").found == 2
    assert "cannot be written" in "".join(messages())


def test_cache_leaves_no_temporary_file(problem_set, tmp_path):
    before = {file.name for file in tmp_path.iterdir()}
    scan_labels(problem_set, 2, tmp_path / "x.cache.npz")
    assert {file.name for file in tmp_path.iterdir()} == before | {"x.cache.npz"}


def test_tiny_data_set_has_no_problem(tmp_path):
    write_tiny_dataset(tmp_path / "tiny")
    files = sorted(str(file) for file in (tmp_path / "tiny/images/train").glob("*.jpg"))
    scan = scan_labels(files, 2, progress=False)
    assert scan.found == 8 and not scan.problems
    assert all(rows.shape == (2, 5) for rows in scan.labels)


@needs_shared
def test_real_sets():
    for folder, found, backgrounds, boxes in (
        ("bccd/images/train", 205, 0, 2804),
        ("coco256/images/train2017", 126, 2, 929),
        ("coco256/images/val2017", 128, 0, 898),
        ("coco256-seg/images/train2017", 98, 30, 746),
    ):
        files = sorted(str(file) for file in (SHARED / "datasets" / folder).glob("*.jpg"))
        scan = scan_labels(files, 80, progress=False)
        assert (scan.found, scan.missing + scan.empty, scan.corrupt) == (found, backgrounds, 0)
        assert len(scan.labels.values) == boxes
