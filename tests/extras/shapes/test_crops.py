"""crops.py: one object a picture in the folder of its kind, same seed same bytes, nobody else's folder."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import yaml

from extras.classify.data import check_classification_dataset
from extras.shapes import crops as shapes_cls
from extras.shapes import folder as drawn_folder
from extras.shapes.crops import draw_dataset, draw_picture
from extras.shapes.scenes import KINDS
from utils.general import ROOT

SMALL = {"seed": 3, "train": 10, "val": 9, "test": 3, "imgsz": 64}


def digests(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_data_file_names_the_kinds_and_draws_them(tmp_path, monkeypatch):
    config = yaml.safe_load((ROOT / "data" / "shapes-cls.yaml").read_text())
    assert config["names"] == list(KINDS)
    config |= {"path": str(tmp_path / "s"), "draw": {"by": "shapes_cls", **SMALL}}
    data = check_classification_dataset(config)
    assert data["nc"] == 8 and data["folders"] == list(KINDS) and data["imgsz"] == 64
    assert check_classification_dataset(data) == data  # what was checked can be checked again
    with pytest.raises(ValueError, match="'draw' of images for classification: expected 'path', and by: shapes_cls"):
        check_classification_dataset({**config, "draw": SMALL})


def test_every_picture_is_in_the_folder_of_its_kind(tmp_path):
    draw_dataset(tmp_path / "s", **SMALL)
    names = digests(tmp_path / "s").keys() - {drawn_folder.MANIFEST}
    counts = {split: sum(name.startswith(split) for name in names) for split in drawn_folder.SPLITS}
    assert counts == {split: SMALL[split] for split in drawn_folder.SPLITS}
    assert names >= {"train/circle/00000.jpg", "train/heart/00007.jpg", "train/circle/00008.jpg", "val/star/00003.jpg"}
    assert sorted(p.name for p in (tmp_path / "s" / "test").iterdir()) == sorted(KINDS)  # also where there is none
    assert all(cv2.imread(str(tmp_path / "s" / name)).shape == (64, 64, 3) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_object_is_well_visible(kind, monkeypatch):
    """The same picture without the object differs in many pixels, most of them inside the picture."""
    monkeypatch.setattr(shapes_cls, "MAX_CURVES", 0)
    monkeypatch.setattr(shapes_cls, "degrade", lambda rng, image: image.copy())
    shares = []
    for seed in range(20):
        image = draw_picture(np.random.default_rng(seed), kind, 64)
        with monkeypatch.context() as patch:
            patch.setattr(shapes_cls, "paint", lambda *_: None)
            background = draw_picture(np.random.default_rng(seed), kind, 64)
        shares.append((np.linalg.norm(image - background, axis=2) > 40).mean())
    assert min(shares) > 0.02 and 0.05 < np.mean(shares) < 0.6


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_dataset(tmp_path / name, **{**SMALL, "seed": seed})
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b and all(a[name] != c[name] for name in a if name.endswith(".jpg"))
    images = [digest for name, digest in a.items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images)


def test_folder_is_kept_redrawn_and_nobody_elses(tmp_path):
    folder = tmp_path / "s"
    draw_dataset(folder, **SMALL)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    draw_dataset(folder, **SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}  # nothing to do
    (folder / "train" / "circle" / "mine.jpg").write_bytes(b"mine")
    draw_dataset(folder, **{**SMALL, "seed": 9, "train": 8})
    draw_dataset(tmp_path / "fresh", **{**SMALL, "seed": 9, "train": 8})
    found, fresh = digests(folder), digests(tmp_path / "fresh")
    assert found.keys() - fresh.keys() == {"train/circle/mine.jpg"}
    assert all(found[name] == digest for name, digest in fresh.items())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
    with pytest.raises(FileExistsError, match="photos exists and has no drawn.json of this project"):
        draw_dataset(tmp_path / "photos", **SMALL)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_folder_of_detection_shapes_is_somebody_elses(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "drawn.json").write_text(json.dumps({"drawn_by": "utils/shapes.py", "version": 5}))
    with pytest.raises(FileExistsError):
        draw_dataset(tmp_path / "s", **SMALL)


def test_interrupted_redrawing_is_finished_by_the_next_call(tmp_path, monkeypatch):
    folder, wanted = tmp_path / "s", {**SMALL, "seed": 9, "train": 12}
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
    monkeypatch.undo()
    assert json.loads((folder / drawn_folder.MANIFEST).read_text())["complete"] is False
    draw_dataset(folder, **wanted)
    draw_dataset(tmp_path / "fresh", **wanted)
    assert digests(folder) == digests(tmp_path / "fresh")


@pytest.mark.parametrize("option, value", [("imgsz", 63), ("train", 7), ("val", 2.5), ("seed", -1), ("test", True)])
def test_wrong_options_are_named(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"'{option}' must be an integer .* found"):
        draw_dataset(tmp_path / "s", **{option: value})
