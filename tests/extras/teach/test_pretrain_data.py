"""extras/teach/pretrain_data.py: what a source means, broken files, and batches that depend on seed and epoch alone."""

import logging

import cv2
import numpy as np
import pytest
import torch

from extras.teach.pretrain_data import PretrainDataset, load_pretrain_hyp, read_source, scan_images
from utils.data.images import GREY
from utils.data.loader import epoch_loader
from utils.files.yaml import load_yaml
from utils.general import ROOT


@pytest.fixture
def photos(tmp_path):
    """a.png b.png and deep/c.jpg of random size, beside files that are no images."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.jpg"):
        h, w = (int(side) for side in rng.integers(70, 90, 2))
        cv2.imwrite(str(folder / name), cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (w, h)))
    (folder / "notes.md").write_text("no image")
    (folder / "a.txt").write_text(
        "0 0.5 0.5 0.2 0.2\n"
    )  # a label file: a glob of everything must not read it as a list
    return folder


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{}", "a.png b.png c.jpg"),  # a folder and those in it
        ("{}/b.png", "b.png"),
        ("{}/*.png", "a.png b.png"),
        ("{}/*", "a.png b.png c.jpg"),
        ("{}/**/*.jpg", "c.jpg"),
        (["{}/deep", "{}/b.png"], "b.png c.jpg"),
        ("{}/../list.txt", "a.png b.png"),
        ("{}/../data.yaml", "c.jpg"),  # its training images
    ],
)
def test_sources(photos, source, names):
    (photos.parent / "list.txt").write_text("./photos/a.png\n./photos/b.png\n")
    (photos.parent / "data.yaml").write_text(f"path: {photos}\ntrain: deep\nval: .\nnames: [x]\nimgsz: 96\n")
    items = [item.format(photos) for item in ([source] if isinstance(source, str) else source)]
    data = read_source(items[0] if isinstance(source, str) else items)
    assert [file.rsplit("/", 1)[1] for file in data["train"]] == names.split()
    assert data["yaml_file"] == " ".join(items) and (data["nc"], data["names"]) == (0, {})
    assert data.get("imgsz") == (96 if "yaml" in items[0] else None)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("{}/nowhere", FileNotFoundError, "nowhere: no such folder"),
        ("{}/empty", FileNotFoundError, "empty: no images found"),
        ("{}/*.bmp", FileNotFoundError, r"\*.bmp: matches no image"),
        ("{}/notes.md", ValueError, "notes.md: expected a folder, images, list files"),
        ("{}/nowhere.yaml", FileNotFoundError, "nowhere.yaml"),
    ],
)
def test_a_source_without_images_says_so(photos, source, error, words):
    (photos / "empty").mkdir()
    with pytest.raises(error, match=words):
        read_source(source.format(photos))


def test_broken_images_are_counted_and_left_out(photos, caplog):
    caplog.set_level(logging.INFO, "yolov5_edgevit")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    files, sizes_wh = scan_images([*read_source(photos)["train"], "gone.png"])
    assert len(files) == len(sizes_wh) == 3 and "3 images, 2 corrupt" in caplog.text
    assert "broken.jpg: " in caplog.text and "gone.png: " in caplog.text
    with pytest.raises(ValueError, match="none of the 1 images can be used; the first: .*broken.jpg"):
        scan_images([str(photos / "broken.jpg")])


def loader_of(photos, epoch, cache=None, **options):
    files, sizes_wh = scan_images(read_source(photos)["train"], progress=False)
    dataset = PretrainDataset(files, sizes_wh, 64, load_pretrain_hyp(), augment=True, cache_images=cache)
    loader = epoch_loader(dataset, 2, shuffle=True, **options)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_batches_depend_on_the_epoch_alone(photos):
    first = loader_of(photos, 4, workers=0)
    assert [len(batch[0]) for batch in first] == [2, 1]
    for options in ({"workers": 1}, {"workers": 0, "cache": "ram"}):
        for a, b in zip(first, loader_of(photos, 4, **options)):
            assert torch.equal(a[0], b[0]) and a[2:] == b[2:]
    assert not torch.equal(first[0][0], loader_of(photos, 5, workers=0)[0][0])


def test_targets_are_the_images(photos):
    for images, targets, paths, _ in loader_of(photos, 0, workers=0):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 64, 64)
        assert torch.equal(images, targets) and len(paths) == len(images)


def test_an_image_that_breaks_later_is_grey(photos, caplog):
    files, sizes_wh = scan_images(read_source(photos)["train"], progress=False)
    (photos / "a.png").write_bytes(b"broken")
    dataset = PretrainDataset(files, sizes_wh, 64, load_pretrain_hyp())
    assert (dataset[0][0] == GREY).all() and "a.png" in caplog.text


def test_the_embedded_data_set_is_a_source():
    """Its pictures are drawn on first use."""
    file = ROOT / "data" / "shapes.yaml"
    data, given = read_source(str(file)), load_yaml(file)
    assert len(data["train"]) == given["draw"]["train"]
    assert all(data[key] == given[key] for key in ("imgsz", "epochs", "batch"))
