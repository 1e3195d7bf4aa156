"""utils/shapes.py: labels against pixels, same seed same bytes, and a folder that is touched only where it is ours."""

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

from utils import shapes
from utils.general import ROOT
from utils.shapes import KINDS, draw_dataset, draw_objects, draw_scene, mask_to_box, object_stencil, outline

SMALL = {"seed": 3, "train": 5, "val": 3, "test": 2, "imgsz": 64}


def digests(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def scenes(count, size=(192, 144), seed=0):
    return [draw_scene(np.random.default_rng([seed, i]), *size) for i in range(count)]


def test_kinds_are_those_of_the_dataset_file():
    config = yaml.safe_load((ROOT / "data" / "shapes.yaml").read_text())
    assert config["names"] == list(KINDS) and len(KINDS) >= 8


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
        kinds, masks = draw_objects(rng, image)
        if len(kinds) != 1:
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
        _, masks = draw_objects(rng, image)
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
        _, masks = draw_objects(np.random.default_rng(seed), image)
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
    assert all(b[name] == digest for name, digest in a.items() if name != shapes.MANIFEST)
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
    replace, calls = shapes.os.replace, []

    def failing_replace(source, target):
        calls.append(target)
        if len(calls) == 6:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(shapes.os, "replace", failing_replace)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(folder, **wanted)
    assert json.loads((folder / shapes.MANIFEST).read_text())["complete"] is False
    monkeypatch.setattr(shapes.os, "replace", replace)
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
    code = f"from utils.shapes import draw_dataset; draw_dataset({str(tmp_path / 's')!r}, **{SMALL!r})"
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
