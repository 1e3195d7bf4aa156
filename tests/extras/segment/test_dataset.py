"""extras/segment/dataset.py: after every augmentation the masks lie on their objects, row by row."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.segment.dataset import LoadImagesAndMasks
from extras.segment.targets import polygons_to_masks
from tests.conftest import SHARED, needs_shared
from utils.boxes import xywhn2xyxy
from utils.data.polygons import Polygons
from utils.dataloaders import create_dataloader, is_enlarged

PLAIN = dict.fromkeys(
    ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
     "mixup", "copy_paste", "mosaic9"), 0.0,
)  # fmt: skip
WARP = {"degrees": 30.0, "translate": 0.1, "scale": 0.4, "shear": 8.0, "perspective": 0.0006}
ALL = {**PLAIN, **WARP, "hsv_v": 0.3, "flipud": 0.3, "fliplr": 0.5, "mosaic": 0.7, "mixup": 0.3, "copy_paste": 0.5}
SIZES_WH = [(160, 100), (100, 160), (128, 128), (150, 130), (90, 160), (160, 60)]
POLYGON, BOX = 0, 1  # classes: how the objects of `mixed_set` are labelled


def star(rng, w, h):
    """A polygon without crossings that covers much of a w x h image, [8, 2] in pixels."""
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False) + rng.uniform(0, 0.6, 8)
    radius = rng.uniform(0.15, 0.42, (8, 1)) * min(w, h)
    centre = rng.uniform(0.4, 0.6, 2) * (w, h)
    return np.float32(centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1))


def row(cls, points, w, h) -> str:
    return f"{cls} " + " ".join(f"{value:.6f}" for value in (points / (w, h)).ravel())


@pytest.fixture(scope="module")
def white_stars(tmp_path_factory):
    """Black images of several shapes, each with one white object that is labelled by its polygon."""
    folder = tmp_path_factory.mktemp("stars")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for i, (w, h) in enumerate(SIZES_WH):
        points = star(rng, w, h)
        mask = polygons_to_masks(Polygons.from_list([points], 1), (h, w))[0]
        cv2.imwrite(str(folder / f"images/{i}.png"), np.repeat(mask[..., None] * 255, 3, 2))
        (folder / f"labels/{i}.txt").write_text(row(0, points, w, h))
    return folder / "images"


@pytest.fixture(scope="module")
def mixed_set(tmp_path_factory):
    """Grey images with up to six objects of class POLYGON or BOX, each labelled so; one has none."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for i in range(8):
        cv2.imwrite(str(folder / f"images/{i}.png"), rng.integers(0, 255, (96, 128, 3), np.uint8))
        rows = []
        for x, y in rng.permutation([(x, y) for x in (4, 46, 88) for y in (4, 50)])[: i % 7]:
            if rng.random() < 0.5:
                points = np.array([[x, y], [x + 36, y + 8], [x + 20, y + 40], [x + 16, y + 20]])
                rows.append(row(POLYGON, points, 128, 96))
            else:
                rows.append(f"{BOX} {(x + 16) / 128:.6f} {(y + 20) / 96:.6f} 0.25 0.4")
        (folder / f"labels/{i}.txt").write_text("\n".join(rows))
    return folder / "images"


def iou(a, b) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


AUGMENTATIONS = [
    # (hyperparameters, options, what the row proves)
    ({}, {"augment": False}, "letterbox"),
    ({}, {"augment": False, "rect": True, "pad": 0.5}, "rect batches"),
    ({}, {"augment": False, "img_size": 224}, "enlarged images"),
    (WARP, {}, "perspective, rotation, zoom, shear, shift"),
    ({"flipud": 1.0}, {}, "up-down"),
    ({"fliplr": 1.0}, {}, "left-right"),
    ({"mosaic": 1.0}, {}, "mosaic of four"),
    ({"mosaic": 1.0, "mosaic9": 1.0}, {}, "mosaic of nine"),
    ({**WARP, "mosaic": 1.0, "flipud": 0.5, "fliplr": 0.5}, {}, "all of these"),
    ({"copy_paste": 1.0, "translate": 0.4}, {}, "the pasted object's pixels have its mask"),
]


@pytest.mark.parametrize("hyp,options,proves", AUGMENTATIONS, ids=[row[2] for row in AUGMENTATIONS])
def test_masks_lie_on_their_objects(white_stars, hyp, options, proves):
    """The white pixels of the augmented image are those of the masks of its polygons, for every image and 4 epochs."""
    options = {"img_size": 160, "augment": True, **options}
    dataset = LoadImagesAndMasks(white_stars, hyp={**PLAIN, **hyp}, mask_ratio=1, **options)
    compared = 0
    for epoch in range(4 if options["augment"] else 1):
        for index in range(len(dataset)):
            images, targets, _, _ = dataset.collate_fn([dataset[(epoch, index)]])
            white = images[0, 0] > 127  # half way from black; what is outside of an image is 114
            masks = targets.image_masks(0)
            if len(masks) == 0 or masks.any(0).sum() < 200:
                continue
            assert iou(white, masks.any(0)) >= 0.9
            boxes = xywhn2xyxy(targets.boxes[:, 2:], *images.shape[:1:-1])
            for mask, box in zip(masks, boxes):  # what a box holds of a mask is all of it
                y, x = mask.nonzero(as_tuple=True)
                assert (x + 1.5 > box[0]).all() and (x - 0.5 < box[2]).all()
                assert (y + 1.5 > box[1]).all() and (y - 0.5 < box[3]).all()
            compared += 1
    assert compared >= len(dataset) - 1
    if "copy_paste" in hyp:
        assert any(len(dataset[(epoch, index)][1]) > 1 for epoch in range(4) for index in range(len(dataset)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), index=st.integers(0, len(SIZES_WH) - 1))
def test_masks_lie_on_their_objects_for_any_seed(white_stars, seed, index):
    hyp = {**PLAIN, **WARP, "mosaic": 0.5, "mosaic9": 0.5, "flipud": 0.5, "fliplr": 0.5}
    dataset = LoadImagesAndMasks(white_stars, 128, augment=True, hyp=hyp, mask_ratio=1, seed=seed, prefix="")
    images, targets, _, _ = dataset.collate_fn([dataset[index]])
    masks = targets.image_masks(0)
    if len(masks) and masks.any(0).sum() > 200:
        assert iou(images[0, 0] > 127, masks.any(0)) >= 0.9


def test_mixup_keeps_the_masks_of_both(white_stars):
    hyp = {**PLAIN, "mosaic": 1.0, "mixup": 1.0, "scale": 0.3}
    dataset = LoadImagesAndMasks(white_stars, 160, augment=True, hyp=hyp, mask_ratio=1)
    images, targets, _, _ = dataset.collate_fn([dataset[i] for i in range(6)])
    for i in range(6):
        bright = images[i, 0] > 150  # white and anything, white and black excepted
        union = targets.image_masks(i).any(0)
        assert (bright & ~union).sum() < 0.02 * bright.sum() and len(targets.image_masks(i)) >= 2


@pytest.mark.parametrize("overlap", [True, False])
def test_quad(white_stars, overlap):
    dataset = LoadImagesAndMasks(white_stars, 160, augment=True, hyp=PLAIN, mask_ratio=1, overlap=overlap)
    for first in range(6):
        group = [dataset[(first + k) % 6] for k in range(4)]
        enlarged = is_enlarged([item[2] for item in group])  # by the paths, which differ from run to run
        images, targets, paths, _ = dataset.collate_fn4([*group, dataset[first]])
        assert images.shape == (2, 3, 320, 320) and len(paths) == 2
        assert targets.masks.shape == ((2 if overlap else len(targets)), 320, 320)
        assert targets.has_mask.tolist() == [True] * len(targets)
        for i in range(2):
            assert iou(images[i, 0] > 127, targets.image_masks(i).any(0)) >= 0.9
        assert len(targets) in ({2} if enlarged else {3, 5})


EVERYTHING = [
    # (hyperparameters, what the row proves)
    (PLAIN, "nothing"),
    ({**PLAIN, **WARP, "translate": 0.9}, "most rows disappear"),
    ({**PLAIN, "mosaic": 1.0, "scale": 0.9}, "many rows, some outside of their part of the mosaic"),
    ({**PLAIN, "mosaic": 1.0, "mosaic9": 1.0, "mixup": 1.0}, "more of them"),
    ({**PLAIN, "copy_paste": 1.0}, "pasted rows are polygons"),
    (ALL, "all together"),
]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("hyp,proves", EVERYTHING, ids=[row[1] for row in EVERYTHING])
def test_each_row_is_a_polygon_or_a_box_by_itself(mixed_set, hyp, proves, overlap):
    """The class of an object says how it was labelled; a mask lies in its own row's box."""
    dataset = LoadImagesAndMasks(mixed_set, 128, augment=True, hyp=hyp, overlap=overlap)
    seen = set()
    for epoch in range(3):
        images, targets, _, _ = dataset.collate_fn([dataset[(epoch, index)] for index in range(len(dataset))])
        assert torch.equal(targets.has_mask, targets.boxes[:, 1] == POLYGON)
        seen |= set(targets.has_mask.tolist())
        for i in range(len(images)):
            rows = targets.boxes[targets.boxes[:, 0] == i]
            for mask, (*_, x, y, w, h), is_polygon in zip(
                targets.image_masks(i), rows, targets.has_mask[targets.boxes[:, 0] == i]
            ):
                ys, xs = mask.nonzero(as_tuple=True)
                assert is_polygon or not len(xs)
                assert overlap or len(xs) or not is_polygon  # a visible polygon has at least a pixel
                assert ((xs + 0.5 - x * 32).abs() <= w * 16 + 1).all()
                assert ((ys + 0.5 - y * 32).abs() <= h * 16 + 1).all()
    assert seen == {True, False}


def test_images_without_objects(mixed_set):
    dataset = LoadImagesAndMasks(mixed_set, 128)
    assert len(dataset.labels[0]) == 0
    images, targets, _, _ = dataset.collate_fn([dataset[0], dataset[3], dataset[7]])
    assert targets.boxes[:, 0].tolist() == [1] * 3 and not targets.masks[[0, 2]].any()
    assert [len(polygons.counts) for polygons in targets.polygons] == [0, 3, 0]
    alone = dataset.collate_fn([dataset[0]])[1]
    assert len(alone) == 0 and alone.masks.shape == (1, 32, 32) and alone.has_mask.shape == (0,)


@pytest.mark.parametrize("rect", [False, True])
def test_polygons_of_the_original_image(mixed_set, rect):
    loader, dataset = create_dataloader(mixed_set, 192, 3, 32, rect=rect, workers=0, masks=True)
    for images, targets, paths, _ in loader:
        assert len(targets.polygons) == len(images)
        for i, (path, polygons) in enumerate(zip(paths, targets.polygons)):
            expected = dataset.segments[dataset.im_files.index(path)]
            found = polygons.to_list()
            assert len(found) == (targets.boxes[:, 0] == i).sum()
            for outline, true in zip(found, expected):
                np.testing.assert_allclose(outline, true * np.float32([128, 96]), atol=1e-3)
    assert dataset.collate_fn4([dataset[i] for i in range(4)])[1].polygons is None


def run(path, workers, epoch=1, **options):
    loader, _ = create_dataloader(path, 96, 3, 32, hyp=ALL, augment=True, shuffle=True, workers=workers, **options)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(a, b) -> bool:
    return all(
        torch.equal(x[0], y[0]) and torch.equal(x[1].boxes, y[1].boxes) and torch.equal(x[1].masks, y[1].masks)
        and torch.equal(x[1].has_mask, y[1].has_mask) and x[2] == y[2] for x, y in zip(a, b)
    )  # fmt: skip


def test_batches_depend_on_seed_and_epoch_alone(mixed_set):
    first = run(mixed_set, 0, masks=True, seed=3)
    assert same(first, run(mixed_set, 2, masks=True, seed=3))
    assert same(first, run(mixed_set, 0, masks=True, seed=3, cache="ram"))
    assert not same(first, run(mixed_set, 0, masks=True, seed=4))
    assert not same(first, run(mixed_set, 0, epoch=2, masks=True, seed=3))


@pytest.mark.parametrize("options", [{}, {"rect": True}, {"quad": True}, {"single_cls": True}])
def test_pictures_and_boxes_are_those_of_detection(white_stars, options):
    """But for mosaics, where the exact cut of a polygon may give another box."""
    hyp = {**ALL, "mosaic": 0.0}
    kwargs = {"hyp": hyp, "augment": True, "shuffle": True, "workers": 0, **options}
    loaders = [create_dataloader(white_stars, 96, 4, 32, masks=masks, **kwargs)[0] for masks in (False, True)]
    for detection, segmentation in zip(*loaders):
        assert torch.equal(detection[0], segmentation[0]) and torch.equal(detection[1], segmentation[1].boxes)
        assert detection[2:] == segmentation[2:]


def test_pixels_that_were_pasted_come_from_the_object(tmp_path):
    """A chequered object on a black ground, hsv off: every pasted pixel is that of the object, mirrored."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    rng = np.random.default_rng(0)
    points = np.array([[10, 10], [50, 20], [40, 60], [12, 50]])
    mask = polygons_to_masks(Polygons.from_list([np.float32(points)], 1), (96, 128))[0].astype(bool)
    image = np.where(mask[..., None], rng.integers(130, 255, (96, 128, 3)), 0).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "images/a.png"), image)
    (tmp_path / "labels/a.txt").write_text(row(0, points, 128, 96))
    dataset = LoadImagesAndMasks(tmp_path / "images", 128, augment=True, hyp={**PLAIN, "copy_paste": 1}, mask_ratio=1)
    images, targets, _, _ = dataset.collate_fn([dataset[0]])
    first, pasted = targets.image_masks(0)
    assert iou(pasted, first.flip(1)) > 0.98
    inside = cv2.erode(pasted.numpy().astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)  # without the rim
    found, mirror_image = images[0].numpy()[:, inside], images[0].flip(2).numpy()[:, inside]
    assert inside.sum() > 1000 and (found >= 130).all()  # the object, not the black ground
    np.testing.assert_array_equal(found, mirror_image)


def test_a_row_outside_of_its_part_of_the_mosaic_disappears(white_stars):
    """Rows and masks stay aligned, and no polygon is left that has lost its points."""
    hyp = {**PLAIN, "mosaic": 1.0}
    dataset = LoadImagesAndMasks(white_stars, 160, augment=True, hyp=hyp, mask_ratio=1, overlap=False)
    counts = []
    for epoch in range(10):
        _, targets, _, _ = dataset.collate_fn([dataset[(epoch, 0)]])
        assert targets.has_mask.all() and targets.masks.flatten(1).any(1).all()
        counts.append(len(targets))
    assert len(set(counts)) > 1


def test_a_broken_image_has_no_masks(white_stars, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for file in (white_stars.parent / kind).iterdir():
            if file.suffix in (".png", ".txt"):
                (tmp_path / kind / file.name).write_bytes(file.read_bytes())
    dataset = LoadImagesAndMasks(tmp_path / "images", 128)
    (tmp_path / "images/2.png").write_bytes(b"broken after the scan")
    _, targets, _, _ = dataset.collate_fn([dataset[i] for i in range(4)])
    assert targets.boxes[:, 0].tolist() == [0, 1, 3] and not targets.masks[2].any()
    assert [len(polygons.counts) for polygons in targets.polygons] == [1, 1, 0, 1]


@pytest.mark.parametrize("ratio", [0, None, -4, 4.0, "4"])
def test_wrong_ratios_are_named(white_stars, ratio):
    with pytest.raises(ValueError, match="mask ratio: expected an integer of at least 1, found"):
        create_dataloader(white_stars, 64, 4, 32, masks=True, mask_ratio=ratio)
    assert len(create_dataloader(white_stars, 64, 4, 32, mask_ratio=ratio, workers=0)[1]) == 6  # detection needs none


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_size_of_the_masks(white_stars, ratio):
    loader, _ = create_dataloader(white_stars, 96, 4, 32, masks=True, mask_ratio=ratio, workers=0)
    assert next(iter(loader))[1].masks.shape == (4, 96 // ratio, 96 // ratio)


def test_the_loader_can_be_sent_to_a_fresh_interpreter(mixed_set):
    loader, dataset = create_dataloader(mixed_set, 96, 3, 32, masks=True, workers=0)
    copy, collate = pickle.loads(pickle.dumps((dataset, loader.collate_fn)))
    assert torch.equal(collate([copy[5]])[1].masks, loader.collate_fn([dataset[5]])[1].masks)


@needs_shared
def test_real_photographs_through_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = SHARED / "datasets/coco256-seg/images/train2017"
    loader, _ = create_dataloader(path, 160, 16, 32, hyp=ALL, augment=True, shuffle=True, workers=2, nc=80, masks=True)
    images, targets, _, _ = next(iter(loader))
    assert targets.masks.shape == (16, 40, 40) and targets.has_mask.all() and len(targets) > 16
    assert sum(targets.image_masks(i).flatten(1).any(1).sum() for i in range(16)) > 0.8 * len(targets)
