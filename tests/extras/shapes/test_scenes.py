"""scenes.py: labels against pixels, same seed same bytes, and a folder that is touched only where it is ours."""

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

from extras.segment.targets import polygons_to_masks
from extras.shapes import folder as drawn_folder
from extras.shapes import scenes as shapes
from extras.shapes.scenes import (
    KINDS,
    draw_dataset,
    draw_objects,
    draw_scene,
    mask_to_box,
    mask_to_polygon,
    object_stencil,
    outline,
)
from utils.data.labels import parse_labels
from utils.data.polygons import Polygons
from utils.general import ROOT

SMALL = {"seed": 3, "train": 5, "val": 3, "test": 2, "imgsz": 64}


def digests(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def scenes(count, size=(192, 144), seed=0):
    return [draw_scene(np.random.default_rng([seed, i]), *size) for i in range(count)]


def test_kinds_are_those_of_the_dataset_file():
    config = yaml.safe_load((ROOT / "data" / "shapes.yaml").read_text())
    assert config["names"] == list(KINDS) and len(KINDS) >= 8


def test_the_set_with_polygons_has_the_same_pictures():
    """Its file differs in its folder and in what is drawn, not in names and pictures."""
    boxes, polygons = (yaml.safe_load((ROOT / f"data/{name}.yaml").read_text()) for name in ("shapes", "shapes-seg"))
    assert polygons["names"] == boxes["names"] and polygons["path"] == "datasets/shapes-seg"
    assert polygons["draw"] == {**boxes["draw"], "masks": True}


@pytest.mark.parametrize("kind", KINDS)
def test_outline_is_centred_and_simple(kind):
    points = outline(kind)
    np.testing.assert_allclose(points.max(0), -points.min(0), atol=1e-9)
    assert points.shape[1] == 2 and len(points) >= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [14, 40, 110])
def test_stencil_fits_and_has_about_the_size_asked_for(kind, size):
    for seed in range(6):
        stencil, _ = object_stencil(np.random.default_rng(seed), kind, size)
        edges = np.concatenate([stencil[0], stencil[-1], stencil[:, 0], stencil[:, -1]])
        assert edges.max() < 0.5  # nothing is cut off
        x1, y1, x2, y2 = mask_to_box(stencil >= 0.5)
        assert 0.6 * size <= max(x2 - x1, y2 - y1) <= 1.45 * size  # rotation: up to the diagonal


def test_kinds_differ_from_each_other_at_the_smallest_size():
    """Under every rotation, no small filled object covers the same pixels as one of another kind."""
    size = 0.08 * 192
    stencils = {}
    for kind in KINDS:
        views = []
        for angle in range(0, 360, 10):
            points = outline(kind) / np.ptp(outline(kind), axis=0).max() * size
            c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            canvas = np.zeros((160, 160), np.uint8)
            cv2.fillPoly(canvas, [np.round((points @ [[c, s], [-s, c]] + 16) * 5).astype(np.int32)], 1)
            views.append(canvas.astype(bool))
        stencils[kind] = views
    for a in KINDS:
        for b in KINDS:
            if a < b:
                best = max(np.sum(stencils[a][0] & v) / np.sum(stencils[a][0] | v) for v in stencils[b])
                assert best < 0.85, (a, b, best)


def test_boxes_are_tight_around_the_changed_pixels():
    """On a flat picture, the label of a single object is the box of the pixels that it changed by half its colour."""
    tested = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        image = np.zeros((96, 128, 3), np.float32)  # on black a shadow changes nothing
        masks = [o.mask for o in draw_objects(rng, image)]
        if len(masks) != 1:
            continue
        change = np.linalg.norm(image, axis=2)
        x1, y1, x2, y2 = mask_to_box(masks[0])
        inside = change[y1:y2, x1:x2]
        for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert side.max() > 20, seed  # at least half of CONTRAST_MIN, less the shading
        outside = change.copy()
        outside[y1:y2, x1:x2] = 0
        assert outside.max() <= 0.5 * change.max() + 1, seed  # less than half of a pixel
        tested += 1
    assert tested >= 10


def test_masks_decide_the_labels_and_cover_what_was_painted():
    """Painting touches nothing but the object's pixels, their antialiased rim and the shadow, which only darkens."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image = np.zeros((96, 128, 3), np.float32)  # on black a shadow changes nothing
        masks = [o.mask for o in draw_objects(rng, image)]
        drawn = (image > 1).any(2)
        union = np.any(masks, axis=0) if masks else np.zeros(drawn.shape, bool)
        rim = cv2.dilate(union.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)  # thin tips
        assert not (drawn & ~rim).any()
        assert (drawn | ~union).mean() > 0.999  # a pixel of an object is painted


def test_labels_are_valid_and_varied():
    results = scenes(300)
    labels = np.concatenate([labels for _, labels in results])
    counts = [len(rows) for _, rows in results]
    assert all(image.shape == (144, 192, 3) and image.dtype == np.uint8 for image, _ in results)
    xy1, xy2 = labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2
    assert xy1.min() >= -1e-6 and xy2.max() <= 1 + 1e-6 and labels[:, 3:].min() > 0.02
    assert set(labels[:, 0]) == set(range(len(KINDS)))
    assert 0.02 < np.mean([c == 0 for c in counts]) < 0.15 and max(counts) >= 6 and 3 < np.mean(counts) < 6
    long_side_px = (labels[:, 3:] * [192, 144]).max(1)
    assert long_side_px.min() < 0.15 * 192 and long_side_px.max() > 0.55 * 192


def test_objects_stay_visible():
    """No object is hidden by the later ones for more than 1 - VISIBLE_MIN, and no two boxes overlap too much."""
    for seed in range(60):
        image = np.zeros((144, 192, 3), np.float32)
        masks = [o.mask for o in draw_objects(np.random.default_rng(seed), image)]
        for i, mask in enumerate(masks):
            later = np.any(masks[i + 1 :], axis=0) if masks[i + 1 :] else np.zeros_like(mask)
            assert (mask & ~later).sum() >= shapes.VISIBLE_MIN * mask.sum()


def test_pictures_scale_with_imgsz():
    small, large = (np.concatenate([rows for _, rows in scenes(100, size=(s, s), seed=1)]) for s in (96, 320))
    np.testing.assert_allclose(small[:, 3:].mean(0), large[:, 3:].mean(0), atol=0.04)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_dataset(tmp_path / name, **{**SMALL, "seed": seed})
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b and len(a) == 2 * (5 + 3 + 2) + 1
    assert all(a[name] != c[name] for name in a if name.endswith(".jpg"))


def test_splits_and_counts_are_independent(tmp_path):
    """More training pictures leave the others as they are, and no two pictures are equal."""
    draw_dataset(tmp_path / "a", **SMALL)
    draw_dataset(tmp_path / "b", **{**SMALL, "train": 7})
    a, b = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert all(b[name] == digest for name, digest in a.items() if name != drawn_folder.MANIFEST)
    images = [digest for name, digest in a.items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images)


def test_second_call_writes_nothing(tmp_path):
    draw_dataset(tmp_path / "s", **SMALL)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    draw_dataset(tmp_path / "s", **SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}


def test_other_options_draw_anew_and_keep_what_is_not_ours(tmp_path):
    folder = tmp_path / "s"
    draw_dataset(folder, **SMALL)
    (folder / "images" / "train" / "mine.jpg").write_bytes(b"mine")
    (folder / "notes.txt").write_text("mine")
    draw_dataset(folder, **{**SMALL, "seed": 9, "train": 2})
    draw_dataset(tmp_path / "fresh", **{**SMALL, "seed": 9, "train": 2})
    found, fresh = digests(folder), digests(tmp_path / "fresh")
    extra = set(found) - set(fresh)
    assert extra == {"images/train/mine.jpg", "notes.txt"}
    assert all(found[name] == fresh[name] for name in fresh)
    assert (folder / "notes.txt").read_text() == "mine"


def test_interrupted_redrawing_is_finished_by_the_next_call(tmp_path, monkeypatch):
    folder, wanted = tmp_path / "s", {**SMALL, "seed": 9, "train": 7}
    draw_dataset(folder, **SMALL)
    replace, calls = drawn_folder.os.replace, []

    def failing_replace(source, target):
        calls.append(target)
        if len(calls) == 6:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(drawn_folder.os, "replace", failing_replace)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(folder, **wanted)
    assert json.loads((folder / drawn_folder.MANIFEST).read_text())["complete"] is False
    monkeypatch.setattr(drawn_folder.os, "replace", replace)
    draw_dataset(folder, **wanted)
    draw_dataset(tmp_path / "fresh", **wanted)
    assert digests(folder) == digests(tmp_path / "fresh")


def test_interrupted_first_drawing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "draw_scene", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "s", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, content", [("photo.jpg", "photo"), ("drawn.json", "[]"), ("drawn.json", "{"), ("drawn.json", "{}")]
)
def test_a_folder_of_someone_else_is_refused_and_untouched(tmp_path, name, content):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_text(content)
    with pytest.raises(FileExistsError, match="exists and has no drawn.json of this project"):
        draw_dataset(tmp_path / "s", **SMALL)
    assert [p.name for p in tmp_path.rglob("*")] == ["s", name] and (tmp_path / "s" / name).read_text() == content


def test_two_processes_may_draw_at_the_same_time(tmp_path):
    code = f"from extras.shapes.scenes import draw_dataset; draw_dataset({str(tmp_path / 's')!r}, **{SMALL!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    draw_dataset(tmp_path / "alone", **SMALL)
    assert digests(tmp_path / "s") == digests(tmp_path / "alone")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "s"]


@pytest.mark.parametrize(
    "option, value",
    [("imgsz", 16), ("train", 0), ("val", 2.5), ("seed", -1), ("test", True), ("seed", "0")],
)
def test_wrong_options_are_named(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"'{option}' must be an integer .* found"):
        draw_dataset(tmp_path / "s", **{option: value})


def as_mask(polygon, shape_hw) -> np.ndarray:
    return polygons_to_masks(Polygons.from_list([polygon], 1), shape_hw)[0].astype(bool)


def without_holes(mask) -> np.ndarray:
    """The mask with everything that cannot be reached from a frame around the picture."""
    around = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(around, None, (0, 0), 2)
    return around[1:-1, 1:-1] != 2


@pytest.mark.parametrize("size", [(128, 128), (96, 128), (192, 144)])
def test_polygons_hold_the_pixels_of_their_object(size):
    """IoU with the filled mask at least 0.95 for every object, and the box of the polygon is that of the mask."""
    width, height = size
    compared = hollow = 0
    for i in range(40):
        image = np.zeros((height, width, 3), np.float32)
        for _, mask, silhouette in shapes.draw_objects(np.random.default_rng([8, i]), image):
            x1, y1, x2, y2 = mask_to_box(mask)
            if min(x1, y1, width - x2, height - y2) > 0:  # else the edge of the picture may have opened a hole
                np.testing.assert_array_equal(silhouette, without_holes(mask))
            polygon = mask_to_polygon(silhouette)
            found = as_mask(polygon, (height, width))
            assert (found & silhouette).sum() >= 0.95 * (found | silhouette).sum()
            np.testing.assert_allclose([*polygon.min(0), *polygon.max(0)], [x1, y1, x2, y2], atol=0.5)
            compared += 1
            hollow += (silhouette != mask).any()
    assert compared > 150 and hollow > 15


POLYGONS = [
    # (mask, polygon, what the row proves)
    (np.s_[2:5, 3:9], [[3, 2], [9, 2], [9, 5], [3, 5]], "along the pixels' outer edges, not through their middles"),
    (np.s_[0:10, 0:12], [[0, 0], [12, 0], [12, 10], [0, 10]], "the whole picture"),
    (np.s_[4:5, 7:8], [[7, 4], [8, 4], [8, 5], [7, 5]], "one pixel"),
    (np.s_[4:5, 2:9], [[2, 4], [9, 4], [9, 5], [2, 5]], "a line of pixels"),
]


@pytest.mark.parametrize("region,expected,proves", POLYGONS, ids=[row[2] for row in POLYGONS])
def test_mask_to_polygon(region, expected, proves):
    """Up to the corners, which are cut from the middle of one pixel's edge to the next."""
    mask = np.zeros((10, 12), bool)
    mask[region] = True
    polygon = mask_to_polygon(mask)
    assert polygon.dtype == np.float32
    np.testing.assert_array_equal(as_mask(polygon, (10, 12)), mask)
    for corner in expected:
        assert np.abs(polygon - corner).sum(1).min() <= 0.5


@pytest.mark.parametrize("kind", ["circle", "square"])
def test_hollow_objects_at_the_edge_are_filled_too(kind):
    """There the hole may be open, but the outline stays that of the filled object: that of a convex one is convex."""
    opened = 0
    for seed in range(60):
        stencil, is_filled = object_stencil(np.random.default_rng(seed), kind, 60)
        corner = (-len(stencil) // 4, 20)
        mask, silhouette = (
            shapes._place(pixels, corner, 128, 96, least=0) >= 0.5
            for pixels in (stencil, shapes._without_holes(stencil))
        )
        polygon = mask_to_polygon(silhouette)
        assert cv2.contourArea(cv2.convexHull(polygon)) < 1.05 * cv2.contourArea(polygon)
        assert not (mask & ~silhouette).any() and (is_filled == (mask == silhouette).all())
        opened += (without_holes(mask) != silhouette).any()
    assert opened >= 5


def test_label_files_with_polygons(tmp_path):
    """The same pictures to the byte; every object is a polygon around the box that it has otherwise."""
    draw_dataset(tmp_path / "boxes", **SMALL)
    draw_dataset(tmp_path / "polygons", **SMALL, masks=True)
    boxes, polygons = digests(tmp_path / "boxes"), digests(tmp_path / "polygons")
    assert boxes.keys() == polygons.keys()
    assert all(boxes[name] == polygons[name] for name in boxes if name.endswith(".jpg"))
    objects = 0
    for file in sorted((tmp_path / "boxes/labels").rglob("*.txt")):
        with_boxes = parse_labels(file.read_text(), len(KINDS))
        with_polygons = parse_labels((tmp_path / "polygons" / file.relative_to(tmp_path / "boxes")).read_text())
        assert not with_polygons.errors and not with_polygons.duplicates and (with_polygons.counts >= 3).all()
        np.testing.assert_allclose(with_polygons.labels, with_boxes.labels, atol=0.5 / 48)  # half a pixel
        objects += len(with_polygons.labels)
    assert objects > 20


def test_a_folder_with_boxes_is_drawn_anew_with_polygons_and_back(tmp_path):
    draw_dataset(tmp_path / "s", **SMALL)
    before = digests(tmp_path / "s")
    draw_dataset(tmp_path / "s", **SMALL, masks=True)
    assert digests(tmp_path / "s") != before
    draw_dataset(tmp_path / "s", **SMALL, masks=False)
    assert digests(tmp_path / "s") == before
    assert "masks" not in json.loads((tmp_path / "s" / drawn_folder.MANIFEST).read_text())


@pytest.mark.parametrize("value", [1, "true", None])
def test_wrong_masks_option_is_named(tmp_path, value):
    with pytest.raises(ValueError, match=f"'masks' must be true or false, found {value!r}"):
        draw_dataset(tmp_path / "s", masks=value)


def test_label_files_hold_what_draw_scene_returns(tmp_path):
    draw_dataset(tmp_path / "s", **SMALL)
    for split_index, split in enumerate(shapes.SPLITS):
        for i in range(SMALL[split]):
            image = cv2.imread(str(tmp_path / "s" / "images" / split / f"{i:05d}.jpg"))
            height, width = image.shape[:2]
            _, expected = draw_scene(np.random.default_rng([SMALL["seed"], split_index, i]), width, height)
            text = (tmp_path / "s" / "labels" / split / f"{i:05d}.txt").read_text()
            rows = np.array([line.split() for line in text.splitlines()], np.float32).reshape(-1, 5)
            np.testing.assert_allclose(rows, expected, atol=1e-6)
            assert max(height, width) == SMALL["imgsz"]
