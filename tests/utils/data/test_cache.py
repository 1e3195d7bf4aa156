import logging
import os

import numpy as np
import pytest
from conftest import write_tiny_dataset

from utils.data import cache as image_cache
from utils.data.cache import DiskCache, RamCache, available_memory
from utils.data.images import write_image
from utils.dataloaders import LoadImagesAndLabels

SIZES = np.array([[6, 4], [5, 5], [3, 8]])  # width, height


def load(i: int) -> np.ndarray:
    w, h = SIZES[i]
    return np.full((h, w, 3), i, np.uint8)


def test_ram_cache_holds_every_image():
    cache = RamCache(SIZES)
    assert cache.fill(load, "", progress=False)
    for i in range(3):
        np.testing.assert_array_equal(cache[i], load(i))
    assert cache.pixels.size == SIZES.prod(1).sum() * 3


def test_ram_cache_is_refused_when_memory_is_short(monkeypatch, caplog):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 10)
    with caplog.at_level(logging.WARNING, logger="yolov5_edgevit"):
        assert not RamCache(SIZES).fill(load, "train: ", progress=False)
    assert "train: --cache ram needs" in caplog.text


def test_available_memory_is_plausible():
    assert available_memory() > 1 << 20


@pytest.fixture
def files(tmp_path) -> list:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
        os.utime(tmp_path / f"{i}.jpg", (1000, 1000))
    return [str(tmp_path / f"{i}.jpg") for i in range(3)]


def test_disk_cache_writes_once_and_again_when_the_image_changed(files, tmp_path):
    loaded = []

    def counted(i):
        loaded.append(i)
        return load(i)

    cache = DiskCache(files, [1, 1, 4], counted)
    assert cache.fill(SIZES, "", progress=False) and sorted(loaded) == [0, 1, 2]
    assert sorted(file.name for file in tmp_path.glob("*.npy")) == ["0.jpg.npy", "1.jpg.npy", "2.jpg.4.npy"]
    np.testing.assert_array_equal(cache[1], load(1))
    assert cache.fill(SIZES, "", progress=False) and len(loaded) == 3
    newer = os.path.getmtime(cache.path(1)) + 10
    os.utime(files[1], (newer, newer))
    assert cache.fill(SIZES, "", progress=False) and loaded[3:] == [1]
    os.remove(cache.path(0))  # deleted while in use
    np.testing.assert_array_equal(cache[0], load(0))
    assert not list(tmp_path.glob("*.tmp"))


def test_disk_cache_is_refused_when_space_is_short(files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 0}))
    with caplog.at_level(logging.WARNING, logger="yolov5_edgevit"):
        assert not DiskCache(files, [1, 1, 1], load).fill(SIZES, "", progress=False)
    assert "--cache disk needs" in caplog.text and not list(tmp_path.glob("*.npy"))


def test_folders_of_one_name_do_not_mix_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "is_writable", lambda folder: False)
    cache = DiskCache(["/a/images/0.jpg", "/b/images/0.jpg"], [1, 1], load)
    assert cache.path(0) != cache.path(1)
    assert cache.path(0).startswith(str(tmp_path / "cache" / "yolov5-edgevit" / "images"))


@pytest.mark.parametrize("images, free, small", [(10, 1e9, True), (1000, 1e9, False), (0, 1e9, True)])
def test_auto_takes_little_memory(monkeypatch, images, free, small):
    monkeypatch.setattr(image_cache, "available_memory", lambda: free)
    monkeypatch.setattr(image_cache, "get_start_method", lambda: "fork")
    assert image_cache.RamCache(np.array([[640, 480]] * images).reshape(-1, 2)).is_small() == small


def test_auto_needs_workers_that_share_memory(monkeypatch):
    monkeypatch.setattr(image_cache, "get_start_method", lambda: "spawn")
    assert not image_cache.RamCache(np.array([[4, 4]])).is_small()


@pytest.mark.parametrize("kind, kept", [("auto", True), ("ram", True), ("off", False), (None, False)])
def test_kinds_of_cache(tiny_dataset, kind, kept):
    dataset = LoadImagesAndLabels(str(tiny_dataset.parent / "images" / "train"), 64, cache_images=kind)
    assert isinstance(dataset.cache, image_cache.RamCache) == kept


@pytest.fixture
def dataset(tmp_path) -> LoadImagesAndLabels:
    """Six images with a box each."""
    for i in range(6):
        write_image(tmp_path / f"{i}.jpg", np.full((40, 40, 3), 30 * i, np.uint8))
        (tmp_path / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return LoadImagesAndLabels(str(tmp_path), 64, 1)


def test_an_image_that_is_missing_for_a_moment_has_its_labels_again(dataset, tmp_path, caplog):
    (tmp_path / "2.jpg").rename(tmp_path / "away")
    assert len(dataset[2][1]) == 0 and (dataset[2][0] == 114).any()
    assert "2.jpg: no such file; a grey image without labels takes its place" in caplog.text
    assert len(caplog.records) == 1
    (tmp_path / "away").rename(tmp_path / "2.jpg")
    assert len(dataset[2][1]) == 1


@pytest.mark.parametrize("damage,ends", [("missing", True), ("empty", False), ("broken", False)])
def test_most_images_missing_is_an_error_but_broken_ones_are_not(dataset, tmp_path, damage, ends):
    """Broken ones would be so at the start, too; a network drive that is gone comes back."""
    for i in range(4):
        file = tmp_path / f"{i}.jpg"
        file.unlink() if damage == "missing" else file.write_bytes(b"" if damage == "empty" else b"\xff\xd8\xff")
    dataset[5]
    if ends:
        with pytest.raises(OSError, match="0.jpg: no such file; the data are gone: 4 of 6 images tried are"):
            dataset[0]
    else:
        assert len(dataset[0][1]) == 0


def test_a_cache_lies_in_the_users_folder_where_the_data_are_read_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_tiny_dataset(tmp_path / "tiny")
    os.rename(
        os.fsencode(data.parent / "images/train/000.jpg"), os.fsencode(data.parent) + b"/images/train/caf\xe9.jpg"
    )
    folders = [path for path in (tmp_path / "tiny").rglob("*") if path.is_dir()]
    before = sorted((tmp_path / "tiny").rglob("*"))
    for folder in folders:
        folder.chmod(0o555)
    try:
        dataset = LoadImagesAndLabels(str(data.parent / "images" / "train"), 64, 2, cache_images="disk")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert sorted((tmp_path / "tiny").rglob("*")) == before
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 8 == len(dataset)
    assert len(list((tmp_path / "cache").rglob("*.cache.npz"))) == 1
