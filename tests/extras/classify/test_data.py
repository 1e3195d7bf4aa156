"""extras/classify/data.py: folders and data files as users have them, what is said of a mistake, equal batches."""

import logging
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from extras.classify.data import (
    ClassificationDataset,
    check_classification_dataset,
    create_classification_dataloader,
    scan_folders,
)
from extras.classify.transforms import center_crop
from tests.conftest import SHARED, needs_shared
from utils.data.images import read_image
from utils.general import ROOT

HYP = {"flipud": 0.3, "crop_scale": 0.3, "randaugment": 1, "mixup": 0.3, "cutmix": 0.3}


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        h, w = (int(side) for side in rng.integers(40, 90, 2))
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (w, h)))


def write_folder(folder: Path, **splits) -> Path:
    """write_folder(f, train={"cat": 3}): three images in f/train/cat."""
    for k, (split, classes) in enumerate(splits.items()):
        for i, (name, count) in enumerate(classes.items()):
            write_images(folder / split / name, count, seed=10 * k + i)
    return folder


@pytest.fixture
def pets(tmp_path) -> Path:
    return write_folder(tmp_path / "pets", train={"dog": 5, "cat": 4, "eel": 2}, val={"cat": 2, "dog": 2, "eel": 1})


def batches_equal(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) and x[2:] == y[2:] for x, y in zip(a, b)
    )


def run_epochs(path, epochs, seed=3, **kwargs) -> list:
    loader, _ = create_classification_dataloader(path, 32, 4, True, hyp=HYP, shuffle=True, seed=seed, **kwargs)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


def test_a_folder_of_splits(pets):
    data = check_classification_dataset(pets)
    assert data["names"] == {0: "cat", 1: "dog", 2: "eel"} and data["nc"] == 3  # in alphabetical order
    assert data["folders"] == ["cat", "dog", "eel"] and data["test"] is None and data["yaml_file"] is None
    assert (data["path"], data["train"], data["val"]) == (pets, str(pets / "train"), str(pets / "val"))
    assert check_classification_dataset(data) == data  # what was checked can be checked again


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_names_of_the_validation_folder(tmp_path, name):
    write_folder(tmp_path / "d", train={"a": 1, "b": 1}, **{name: {"a": 1, "b": 1}})
    assert check_classification_dataset(tmp_path / "d")["val"] == str(tmp_path / "d" / name)


def test_a_test_split_alone(tmp_path):
    write_folder(tmp_path / "d", test={"a": 1, "b": 1})
    data = check_classification_dataset(tmp_path / "d", required=("test",))
    assert data["names"] == {0: "a", 1: "b"} and data["train"] is None


@pytest.mark.parametrize(
    "entries, names, folders",
    [
        ({}, ["cat", "dog", "eel"], ["cat", "dog", "eel"]),  # no names: those of the folders
        ({"nc": 3}, ["cat", "dog", "eel"], ["cat", "dog", "eel"]),
        ({"names": ["eel", "cat", "dog"]}, ["eel", "cat", "dog"], ["eel", "cat", "dog"]),  # in an order of its own
        ({"names": {0: "dog", 1: "cat", 2: "eel"}}, ["dog", "cat", "eel"], ["dog", "cat", "eel"]),
        (
            {"names": ["Wels", "Aal", "Aal"], "folders": ["dog", "cat", "eel"]},
            ["Wels", "Aal", "Aal"],
            ["dog", "cat", "eel"],
        ),
    ],
)
def test_names_and_folders_of_a_data_file(pets, entries, names, folders):
    file = pets / "pets.yaml"
    file.write_text(yaml.safe_dump({"train": "train", "val": "val", "imgsz": 96, **entries}))
    data = check_classification_dataset(file)
    assert (list(data["names"].values()), data["folders"], data["nc"]) == (names, folders, 3)
    assert data["yaml_file"] == str(file) and data["imgsz"] == 96
    _, dataset = create_classification_dataloader(
        data["train"], 32, names=data["names"], folders=data["folders"], workers=0
    )
    for file, cls in zip(dataset.im_files, dataset.classes):
        assert folders[cls] == Path(file).parent.name


@pytest.mark.parametrize(
    "change, entries, error, message",
    [
        (lambda d: (d / "val/dog").rename(d / "val/dogs"), {}, ValueError, "val/dogs is no class .*did you mean dog"),
        (lambda d: write_images(d / "val/fox", 1), {}, ValueError, r"val/fox is no class of the .*\(cat, dog, eel\)"),
        (None, {"names": ["cat", "dog"]}, ValueError, "train/eel is no class of the data set"),
        (None, {"names": ["cat", "dog", "eel", "fox"]}, ValueError, "train has no folder for 1 of 4 classes: fox"),
        (None, {"nc": 5}, ValueError, "'nc' is 5, but there are 3 class folders: cat, dog, eel"),
        (None, {"names": ["a", "b", "c"], "folders": ["cat"]}, ValueError, "'folders' has 1 entries, expected 3"),
        (None, {"names": ["a", "b", "c"], "folders": {"a": 1}}, ValueError, "'folders' must be a list of folder names"),
        (None, {"val": "nowhere"}, FileNotFoundError, "nowhere"),
        (None, {"train": "train/cat"}, ValueError, "train/cat: expected a folder of images for each class, found no"),
        (None, {"train": "train/cat/0.png"}, ValueError, "0.png: expected a folder with a folder of images"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_class_and_folder(pets, change, entries, error, message):
    if change:
        change(pets)
    source = pets
    if entries:
        source = pets / "pets.yaml"
        source.write_text(yaml.safe_dump({"train": "train", "val": "val", **entries}))
    with pytest.raises(error, match=message):
        check_classification_dataset(source)


def test_a_class_that_validation_lacks_is_a_warning(pets, caplog):
    (pets / "val" / "eel" / "0.png").unlink()
    (pets / "val" / "eel").rmdir()
    (pets / "val" / ".cache").mkdir()  # hidden: no class
    assert check_classification_dataset(pets)["nc"] == 3
    assert "val has no folder for 1 classes: eel" in caplog.text


def test_names_that_are_neither_folder_nor_file():
    with pytest.raises(FileNotFoundError, match="data 'imagenete160': no such folder, and no data file.*imagenette160"):
        check_classification_dataset("imagenete160")
    with pytest.raises(FileNotFoundError, match="nothing.yaml"):
        check_classification_dataset("nothing.yaml")


@pytest.mark.parametrize(
    "name",
    "ImageNet ImageNet10 ImageNet100 ImageNet1000 imagenette imagenette160 imagenette320 mnist mnist160 "
    "cifar10 cifar100 fashion-mnist".split(),
)
def test_the_data_files_of_the_project(name):
    """They are found by their bare names, and say where the data are missing; nothing is fetched unless asked for."""
    with pytest.raises(FileNotFoundError, match="these data are missing"):
        check_classification_dataset(name, download=False)
    config = yaml.safe_load((ROOT / "data" / f"{name}.yaml").read_text())
    assert config["train"] == "train" and config["val"] in ("val", "test")
    assert len(config.get("folders", config.get("names", ()))) in (0, 10)


def test_broken_files_and_empty_folders_are_counted_and_told(pets, caplog):
    (pets / "train" / "cat" / "broken.jpg").write_bytes(b"no image")
    image = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    (pets / "train" / "cat" / "cut.jpg").write_bytes(image[: len(image) // 2])
    (pets / "train" / "notes.txt").write_text("beside the folders")
    (pets / "train" / "fox").mkdir()
    with caplog.at_level(logging.INFO):
        scan = scan_folders(pets / "train", ["cat", "dog", "eel", "fox"])
    assert (len(scan.im_files), scan.corrupt, scan.empty) == (11, 2, 1)
    assert "11 images of 3 classes, 2 corrupt, 1 classes without images" in caplog.text
    assert f"{pets}/train/cat/broken.jpg: not an image" in caplog.text and f"{pets}/train/cat/cut.jpg" in caplog.text
    assert f"{pets}/train/fox: no images of this class" in caplog.text
    with pytest.raises(ValueError, match="none of the 0 images in its class folders can be used"):
        scan_folders(pets / "train", ["fox"])


def test_an_image_that_breaks_later_is_grey_and_told_once(pets, caplog):
    dataset = ClassificationDataset(pets / "val", 32)
    Path(dataset.im_files[0]).write_bytes(b"gone")
    for _ in range(2):
        image, cls, path, _ = dataset[0]
        assert cls == 0 and set(image.unique().tolist()) == {114}
    assert caplog.text.count("a grey image takes its place") == 1


def test_batch_layout(pets):
    loader, dataset = create_classification_dataloader(pets / "val", 32, 3, workers=0)
    batches = list(loader)
    assert len(dataset) == 5 and [len(batch[2]) for batch in batches] == [3, 2]
    images, targets, paths, shapes = batches[0]
    assert images.shape == (3, 3, 32, 32) and images.dtype == torch.uint8 and images.is_contiguous()
    assert targets.tolist() == [0, 0, 1] and targets.dtype == torch.int64
    assert paths == tuple(dataset.im_files[:3]) and shapes[0] == cv2.imread(paths[0]).shape[:2]
    expected = center_crop(read_image(paths[0]), 32)  # what the predictor does
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy()[..., ::-1], expected)


def test_batches_depend_on_seed_and_epoch_alone(pets):
    path = pets / "train"
    reference = run_epochs(path, range(3), workers=0)
    for workers in (1, 2):
        found = run_epochs(path, range(3), workers=workers)
        assert all(batches_equal(a, b) for a, b in zip(reference, found))
    assert batches_equal(reference[2], run_epochs(path, [2], workers=2)[0])  # a new process that starts at epoch 2
    assert not batches_equal(reference[0], reference[1])
    assert not batches_equal(reference[0], run_epochs(path, [0], seed=4, workers=0)[0])
    kinds = {batch[1].dtype for epoch in run_epochs(path, range(6), workers=0) for batch in epoch}
    assert kinds == {torch.int64, torch.float32}  # plain and mixed batches


def test_loading_leaves_global_random_states_alone(pets):
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    run_epochs(pets / "train", [0], workers=1)
    run_epochs(pets / "train", [0], workers=0)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_loader_survives_a_fresh_interpreter(pets):
    """Windows and macOS pass the data set to new interpreters by pickling it."""
    path = pets / "train"
    loader, _ = create_classification_dataloader(path, 32, 4, True, hyp=HYP, shuffle=True, seed=3, workers=1)
    if loader.num_workers == 0:
        pytest.skip("needs a worker process")
    loader.multiprocessing_context = multiprocessing.get_context("spawn")
    assert batches_equal(list(loader), run_epochs(path, [0], workers=0)[0])


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("augment", [False, True])
def test_cached_images_are_the_same(tmp_path, cache, augment):
    """Also where large images are decoded smaller, as training does."""
    write_folder(tmp_path / "d", train={"a": 4, "b": 3})
    large = cv2.resize(cv2.imread(str(tmp_path / "d/train/a/0.png")), (300, 420))
    cv2.imwrite(str(tmp_path / "d/train/a/0.jpg"), large)
    options = {"hyp": HYP, "shuffle": augment, "workers": 0}
    loaders = [
        create_classification_dataloader(tmp_path / "d/train", 32, 4, augment, kind, **options)[0]
        for kind in (None, cache)
    ]
    assert loaders[1].dataset.cache is not None
    for _ in range(2):  # using the cache did not change it
        assert batches_equal(*(list(loader) for loader in loaders))
    if augment:
        assert loaders[0].dataset.load_image(0).shape == (90, 64, 3)  # its shorter side is twice the image size
    files = sorted(file.name for file in (tmp_path / "d/train/a").glob("*.npy"))
    expected = ["0.jpg.4.npy" if augment else "0.jpg.npy", *(f"{i}.png.npy" for i in range(4))]
    assert files == (expected if cache == "disk" else [])


def test_several_folders_of_one_split(tmp_path):
    write_folder(tmp_path / "d", one={"a": 2, "b": 1}, two={"a": 1, "c": 3})
    dataset = ClassificationDataset([tmp_path / "d/one", tmp_path / "d/two"], 32)
    assert dataset.names == {0: "a", 1: "b", 2: "c"} and np.bincount(dataset.classes).tolist() == [3, 1, 3]


@needs_shared
def test_real_cells():
    data = check_classification_dataset(SHARED / "datasets" / "bccd-cells")
    loader, dataset = create_classification_dataloader(data["val"], 64, 32, names=data["names"], workers=2)
    assert data["names"] == {0: "Platelets", 1: "RBC", 2: "WBC"} and np.bincount(dataset.classes).tolist() == [
        83,
        100,
        87,
    ]
    images, targets, _, _ = next(iter(loader))
    assert images.float().std() > 10 and targets.tolist() == [0] * 32
