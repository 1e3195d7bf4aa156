import itertools
import logging
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import SHARED, needs_shared, write_tiny_dataset
from utils import dataloaders
from utils.boxes import scale_boxes, xywhn2xyxy
from utils.dataloaders import LoadImagesAndLabels, create_dataloader
from utils.general import usable_cores

HYP = {
    "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "degrees": 5.0, "translate": 0.1, "scale": 0.5, "shear": 2.0,
    "perspective": 0.0, "flipud": 0.2, "fliplr": 0.5, "mosaic": 0.8, "mixup": 0.3, "copy_paste": 0.2, "mosaic9": 0.3,
}  # fmt: skip
PLAIN = dict.fromkeys(HYP, 0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """Folder of 10 training images of 64 x 64 px with two objects each."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    write_tiny_dataset(folder, train=10)
    return folder / "images" / "train"


@pytest.fixture
def shapes_set(tmp_path) -> Path:
    """Images of different sizes with one white object, whose box is known."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for i, (w, h) in enumerate([(120, 60), (60, 120), (100, 100), (120, 90), (90, 120), (37, 91), (64, 16)]):
        image = np.zeros((h, w, 3), np.uint8)
        x1, y1, x2, y2 = w // 4, h // 4, w // 2, h // 2
        image[y1:y2, x1:x2] = 255
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)
        row = np.array([(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h])
        (tmp_path / "labels" / f"{i}.txt").write_text("1 " + " ".join(f"{value:.8f}" for value in row))
    return tmp_path / "images"


def batches_equal(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) and x[2:] == y[2:] for x, y in zip(a, b)
    )


def run_epochs(path, epochs, **kwargs) -> list:
    loader, _ = create_dataloader(path, 64, 4, 32, hyp=HYP, augment=True, shuffle=True, seed=3, **kwargs)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


def test_batches_depend_on_seed_and_epoch_alone(tiny):
    reference = run_epochs(tiny, range(3), workers=0)
    for workers in (1, 2):
        found = run_epochs(tiny, range(3), workers=workers)
        assert all(batches_equal(a, b) for a, b in zip(reference, found))
    resumed = run_epochs(tiny, [2], workers=2)  # a new process that starts at epoch 2
    assert batches_equal(reference[2], resumed[0])
    assert not batches_equal(reference[0], reference[1])
    other_seed = create_dataloader(tiny, 64, 4, 32, hyp=HYP, augment=True, shuffle=True, seed=4, workers=0)[0]
    assert not batches_equal(reference[0], list(other_seed))


def test_loading_leaves_global_random_states_alone(tiny):
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    run_epochs(tiny, [0], workers=2)
    run_epochs(tiny, [0], workers=0)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_batch_layout(tiny):
    loader, dataset = create_dataloader(tiny, 96, 4, 32, workers=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 3 and len(dataset) == dataset.n == 10
    images, targets, paths, shapes = batches[0]
    assert images.shape == (4, 3, 96, 96) and images.dtype == torch.uint8 and images.is_contiguous()
    assert targets.shape == (8, 6) and targets.dtype == torch.float32
    assert targets[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert paths == tuple(dataset.im_files[:4])
    assert shapes[0] == ((64, 64), ((1.5, 1.5), (0, 0)))
    assert len(batches[-1][2]) == 2
    # RGB: the image's bright rectangle is (230, 240, 250) in BGR
    x, y = (targets[0, 2:4] * 96).int().tolist()
    assert images[0, 0, y, x] > images[0, 2, y, x] + 10


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize("imgsz", [64, 96])
def test_boxes_of_a_validation_batch_map_back_to_the_original(shapes_set, rect, imgsz):
    loader, dataset = create_dataloader(shapes_set, imgsz, 3, 32, rect=rect, pad=0.5 if rect else 0.0, workers=0)
    for images, targets, paths, shapes in loader:
        h, w = images.shape[2:]
        for i, path in enumerate(paths):
            original = cv2.imread(path)
            assert shapes[i][0] == original.shape[:2]
            boxes = xywhn2xyxy(targets[targets[:, 0] == i, 2:], w, h)
            found = scale_boxes((h, w), boxes, shapes[i][0], ratio_pad=shapes[i][1])
            ys, xs = np.nonzero(original[..., 0] > 128)
            np.testing.assert_allclose(found[0], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=0.05)
            x, y = (targets[targets[:, 0] == i, 2:4][0] * torch.tensor([w, h])).int()
            assert images[i, 0, y, x] > 250  # and lie on the object in the batch
    assert len(dataset.label_files) == 7


def test_rect_batches_have_the_least_shape_that_fits(shapes_set):
    dataset = LoadImagesAndLabels(shapes_set, 64, 3, rect=True, stride=32, pad=0.5)
    aspects = dataset.shapes[:, 1] / dataset.shapes[:, 0]
    assert (np.diff(aspects) >= 0).all()
    # h / w sorted: 0.25 0.5 0.75 | 1 1.33 2 | 2.46; ceil(side * 64 / 32 + 0.5) * 32
    assert dataset.batch_shapes.tolist() == [[64, 96], [96, 96], [96, 64]]
    for i in range(dataset.n):
        assert dataset[i][0].shape[1:] == tuple(dataset.batch_shapes[dataset.batch[i]])
        assert Path(dataset.im_files[i]).stem == Path(dataset.label_files[i]).stem


def test_interpolation_facts(tiny):
    image = cv2.imread(LoadImagesAndLabels(tiny, 64).im_files[0])
    for imgsz, augment, flag in (
        (32, False, cv2.INTER_AREA),
        (48, True, cv2.INTER_LINEAR),
        (96, False, cv2.INTER_LINEAR),
    ):
        dataset = LoadImagesAndLabels(tiny, imgsz, augment=augment)
        np.testing.assert_array_equal(dataset.load_image(0), cv2.resize(image, (imgsz, imgsz), interpolation=flag))


def test_large_images_are_decoded_smaller_for_training_only(tmp_path):
    (tmp_path / "images").mkdir()
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), (800, 600))
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), smooth)
    train, val = (LoadImagesAndLabels(tmp_path / "images", 96, augment=augment) for augment in (True, False))
    assert (train._reduction(0), val._reduction(0)) == (8, 1)
    assert train.load_image(0).shape == val.load_image(0).shape == (72, 96, 3)
    assert np.abs(train.load_image(0).astype(int) - val.load_image(0)).mean() < 3


@pytest.mark.parametrize("key,value", [("mosaic", 1.0), ("mosaic9", 1.0), ("mixup", 1.0), ("copy_paste", 1.0)])
def test_every_augmentation_gives_valid_batches(tmp_path, key, value):
    write_tiny_dataset(tmp_path / "d")
    for file in (tmp_path / "d/labels/train").glob("*.txt"):  # one polygon besides the boxes
        file.write_text(file.read_text() + "1 0.1 0.1 0.4 0.1 0.4 0.5\n")
    hyp = {**HYP, "mosaic": 1.0, key: value}
    dataset = LoadImagesAndLabels(tmp_path / "d/images/train", 64, augment=True, hyp=hyp)
    for index in range(len(dataset)):
        image, targets, _, shapes = dataset[(1, index)]
        assert image.shape == (3, 64, 64) and shapes is None
        assert ((targets[:, 2:] > 0) & (targets[:, 2:] <= 1)).all()
        assert set(targets[:, 1].tolist()) <= {0, 1}


def test_images_without_labels_can_be_augmented(tmp_path, caplog):
    write_tiny_dataset(tmp_path / "d")
    for file in (tmp_path / "d/labels/train").glob("*.txt"):
        file.unlink()
    with caplog.at_level(logging.WARNING, logger="yolov5_edgevit"):
        loader, _ = create_dataloader(
            tmp_path / "d/images/train", 64, 8, 32, hyp=HYP, augment=True, workers=0, prefix="train: "
        )
    assert f"train: no labels found in {tmp_path}/d/labels/train" in caplog.text
    assert next(iter(loader))[1].shape == (0, 6)


def test_no_augmentation_keeps_the_image(shapes_set):
    trained = LoadImagesAndLabels(shapes_set, 128, augment=True, hyp=PLAIN)
    plain = LoadImagesAndLabels(shapes_set, 128)
    for i in range(len(plain)):
        image, targets, _, shapes = trained[(5, i)]
        assert torch.equal(image[:, 64, 64], plain[i][0][:, 64, 64]) or trained.shapes[i].max() < 128  # linear resize
        torch.testing.assert_close(targets, plain[i][1])
        assert shapes is not None


def test_mosaic_can_be_closed(tiny):
    dataset = LoadImagesAndLabels(tiny, 64, augment=True, hyp={**PLAIN, "mosaic": 1.0})
    dataset.mosaic_until = 3
    assert [dataset[(epoch, 0)][3] is None for epoch in range(5)] == [True, True, True, False, False]
    dataset.mosaic = False
    assert dataset[(0, 0)][3] is not None
    assert not LoadImagesAndLabels(tiny, 64, augment=True, rect=True, hyp=HYP).mosaic


def test_single_cls_and_class_check(tiny):
    _, dataset = create_dataloader(tiny, 64, 4, 32, single_cls=True, nc=1, workers=0)
    assert len(dataset) == 10 and set(np.concatenate(dataset.labels, 0)[:, 0]) == {0}
    assert set(create_dataloader(tiny, 64, 4, 32, nc=2, workers=0)[1].labels[0][:, 0]) == {0, 1}
    with pytest.raises(
        ValueError, match=r"none of the 10 images can be used; the first: .*000.txt:2: class 1 is beyond"
    ):
        create_dataloader(tiny, 64, 4, 32, nc=1, workers=0)
    with pytest.raises(ValueError, match="class 1 is beyond"):
        create_dataloader(tiny, 64, 4, 32, names={0: "box"}, workers=0)


def test_no_images_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or list file"):
        create_dataloader(tmp_path / "nowhere", 64, 4, 32)
    with pytest.raises(FileNotFoundError, match="no images found"):
        create_dataloader(tmp_path, 64, 4, 32)


def test_broken_images_are_left_out_and_training_goes_on(tmp_path, caplog):
    write_tiny_dataset(tmp_path / "d")
    folder = tmp_path / "d/images/train"
    (folder / "003.jpg").write_bytes((folder / "003.jpg").read_bytes()[:300])
    with caplog.at_level(logging.INFO, logger="yolov5_edgevit"):
        loader, dataset = create_dataloader(folder, 64, 4, 32, hyp=HYP, augment=True, workers=0)
    assert len(dataset) == 7 and "7 images, 0 backgrounds, 1 corrupt" in caplog.text and "003.jpg" in caplog.text
    assert sum(len(batch[2]) for batch in loader) == 7
    assert (folder / "003.jpg").stat().st_size == 300  # nothing of the user's is repaired


@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_image_that_breaks_later_becomes_grey(tmp_path, caplog, cache):
    write_tiny_dataset(tmp_path / "d")
    folder = tmp_path / "d/images/train"
    dataset = LoadImagesAndLabels(folder, 64)
    (folder / "003.jpg").write_bytes(b"broken after the scan")
    dataset.cache = dataset._filled_cache(cache) if cache else None
    for _ in range(2):
        image, targets, _, _ = dataset[3]
        assert (image == 114).all() and targets.shape == (0, 6)
    assert caplog.text.count("003.jpg: not an image") == 1 and "a grey image without labels" in caplog.text
    assert len(dataset[2][1]) == 2


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("augment", [True, False])
def test_cached_images_are_the_same(tmp_path, cache, augment):
    write_tiny_dataset(tmp_path / "d", size=80)
    kwargs = {"augment": augment, "hyp": HYP, "shuffle": augment, "workers": 0}
    folder = tmp_path / "d/images/train"
    loaders = [create_dataloader(folder, 32, 4, 32, cache=kind, **kwargs)[0] for kind in (None, cache)]
    assert loaders[1].dataset.cache is not None
    assert batches_equal(*(list(loader) for loader in loaders))
    assert batches_equal(*(list(loader) for loader in loaders))  # using the cache did not change it
    files = sorted(file.name for file in folder.iterdir() if file.suffix == ".npy")
    reduction = ".2" if augment else ""
    assert files == ([f"{i:03d}.jpg{reduction}.npy" for i in range(8)] if cache == "disk" else [])


def test_plain_augmentation_does_not_write_into_the_ram_cache(tiny):
    hyp = {**PLAIN, "hsv_v": 0.9}
    dataset = LoadImagesAndLabels(tiny, 64, augment=True, hyp=hyp, cache_images="ram")
    before = dataset.cache.pixels.copy()
    for i in range(10):
        dataset[(0, i)]
    np.testing.assert_array_equal(dataset.cache.pixels, before)


def test_list_of_folders_and_list_files(tmp_path):
    write_tiny_dataset(tmp_path / "d")
    train, val = tmp_path / "d/images/train", tmp_path / "d/images/val"
    (tmp_path / "d" / "list.txt").write_text("./images/train/001.jpg\n./images/val/002.jpg\n")
    assert len(LoadImagesAndLabels([train, val], 64)) == 12
    dataset = LoadImagesAndLabels(tmp_path / "d" / "list.txt", 64)
    assert [Path(file).parts[-2:] for file in dataset.im_files] == [("train", "001.jpg"), ("val", "002.jpg")]
    assert [len(rows) for rows in dataset.labels] == [2, 2]


def read_only_tree(folder: Path, writable: bool) -> None:
    for directory, _, _ in os.walk(folder):
        os.chmod(directory, 0o755 if writable else 0o555)


@pytest.mark.parametrize("cache", [None, "disk"])
def test_a_read_only_data_folder_stays_untouched(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tiny_dataset(tmp_path / "d")
    before = sorted(str(file) for file in (tmp_path / "d").rglob("*"))
    read_only_tree(tmp_path / "d", writable=False)
    try:
        for _ in range(2):
            dataset = LoadImagesAndLabels(tmp_path / "d/images/train", 64, cache_images=cache)
            assert len(dataset[0][1]) == 2
    finally:
        read_only_tree(tmp_path / "d", writable=True)
    assert sorted(str(file) for file in (tmp_path / "d").rglob("*")) == before
    cached = [file.suffix for file in (tmp_path / "cache").rglob("*.np*")]
    assert sorted(cached) == [".npy"] * (8 if cache else 0) + [".npz"]


def test_quad_makes_one_image_of_twice_the_size_from_four(shapes_set):
    dataset = LoadImagesAndLabels(shapes_set, 64)
    kinds = []
    for group in list(itertools.permutations(range(7), 4))[:24] + [(0, 1, 2), (3,)]:
        images, targets, paths, shapes = dataset.collate_fn4([dataset[i] for i in group])
        assert images.shape == (1, 3, 128, 128) and images.dtype == torch.uint8
        assert paths == (dataset.im_files[group[0]],)
        kinds.append("square" if shapes[0] is None else "large")
        assert len(targets) == (len(group) if shapes[0] is None else 1)
        for x, y, w, h in (targets[:, 2:] * 128).tolist():  # every box lies on its white object
            assert images[0, 0, int(y), int(x)] > 250
            assert images[0, 0, int(y), int(x + w / 2 + 3)] < 120 and images[0, 0, int(y + h / 2 + 3), int(x)] < 120
    assert set(kinds) == {"square", "large"}  # a coin for each group


def test_quad_batches_have_a_quarter_of_the_images(tiny):
    loader, _ = create_dataloader(tiny, 64, 8, 32, quad=True, workers=0)
    batches = list(loader)
    assert [len(batch[2]) for batch in batches] == [2, 1] and batches[0][0].shape == (2, 3, 128, 128)
    assert batches[0][1][:, 0].unique().tolist() == [0, 1]


def test_image_weights_turn_rect_off(tiny):
    assert not LoadImagesAndLabels(tiny, 64, rect=True, image_weights=True).rect


def test_workers_are_never_more_than_useful(tiny, monkeypatch):
    cores = usable_cores()
    for asked, batch, expected in ((8, 1, min(8, cores)), (8, 16, 1), (0, 4, 0)):
        assert create_dataloader(tiny, 64, batch, 32, workers=asked)[0].num_workers == expected


def test_loader_survives_a_fresh_interpreter(tiny):
    """Windows and macOS pass the data set to new interpreters by pickling it."""
    loader, _ = create_dataloader(tiny, 64, 4, 32, hyp=HYP, augment=True, workers=1, shuffle=True, seed=3)
    if loader.num_workers == 0:
        pytest.skip("needs a worker process")
    loader.multiprocessing_context = multiprocessing.get_context("spawn")
    assert batches_equal(list(loader), run_epochs(tiny, [0], workers=0)[0])


def test_names_of_yolov5_are_here():
    assert "jpg" in dataloaders.IMG_FORMATS
    assert "mp4" in dataloaders.VID_FORMATS and dataloaders.LoadImages is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dataloaders.no_such_name


@needs_shared
def test_real_photographs_through_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = SHARED / "datasets/coco256-seg/images/train2017"
    loader, dataset = create_dataloader(
        path, 128, 16, 32, hyp={**HYP, "copy_paste": 1.0}, augment=True, shuffle=True, workers=2, nc=80
    )
    images, targets, _, _ = next(iter(loader))
    assert images.float().std() > 20 and len(targets) > 16 and len(dataset) == 128
    assert ((targets[:, 2:] > 0) & (targets[:, 2:] <= 1)).all()
