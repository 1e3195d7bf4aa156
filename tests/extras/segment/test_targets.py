"""extras/segment/targets.py: masks are what the polygons cover, and each row has its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.segment.targets import MaskTargets, polygons_to_index_map, polygons_to_masks
from utils.data.polygons import Polygons


def box(x1, y1, x2, y2):
    return np.float32([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


NONE = np.zeros((0, 2), np.float32)


def polygons(*outlines) -> Polygons:
    return Polygons.from_list(list(outlines), len(outlines))


DRAWN = [
    # (polygon, ratio, pixels x1, y1, x2, y2 of the mask that are 1; None for no pixel, what the row proves)
    (box(4, 8, 12, 20), 1, (4, 8, 12, 20), "on whole pixels: exactly these, none around them"),
    (box(4, 8, 12, 20), 4, (1, 2, 3, 5), "at a quarter of the size as well"),
    (box(4.4, 8, 12.4, 20), 1, (4, 8, 12, 20), "a pixel counts from half of it"),
    (box(4.6, 8, 12.6, 20), 1, (5, 8, 13, 20), "and not below"),
    (box(4, 10.5, 12, 22.5), 4, (1, 3, 3, 6), "of the small mask's pixels as well"),
    (box(-50, -50, 10, 10), 1, (0, 0, 10, 10), "cut by the image"),
    (box(30, 20, 900, 900), 1, (30, 20, 40, 32), "on the other side too"),
    (box(-9, -9, 99, 99), 4, (0, 0, 10, 8), "larger than the image"),
    (box(50, 0, 60, 10), 1, None, "outside"),
    (box(40, 0, 50, 10), 4, None, "touches the image's edge"),
    (box(5, 9, 6, 10), 4, (1, 2, 2, 3), "one pixel of the image keeps a pixel of the mask"),
    (box(21.2, 13.4, 21.4, 13.5), 1, (21, 13, 22, 14), "and so does less"),
    (np.float32([[np.nan, np.inf], [4, -np.inf], [1e30, 1]]), 1, ..., "points that perspective threw away: no crash"),
]


@pytest.mark.parametrize("polygon,ratio,pixels,proves", DRAWN, ids=[row[3] for row in DRAWN])
def test_polygons_to_masks(polygon, ratio, pixels, proves):
    masks = polygons_to_masks(polygons(NONE, polygon), (32, 40), ratio)
    assert masks.shape == (2, 32 // ratio, 40 // ratio) and masks.dtype == np.uint8 and not masks[0].any()
    if pixels is ...:
        return
    expected = np.zeros(masks.shape[1:], np.uint8)
    if pixels:
        x1, y1, x2, y2 = pixels
        expected[y1:y2, x1:x2] = 1
    np.testing.assert_array_equal(masks[1], expected)


def star(seed, centre, size, points=9):
    """A polygon without crossings, [points, 2]."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radius = rng.uniform(0.5, 1, (points, 1)) * size
    return np.float32(centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1))


def contains(polygon, x, y) -> np.ndarray:
    """bool: whether the points x, y (of one shape) are inside, by the number of edges to the right of each."""
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(polygon.astype(np.float64), np.roll(polygon, -1, 0).astype(np.float64)):
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def mask_and_shares(seed, size, ratio):
    """A star's mask, the share of each pixel that the star covers by 8 x 8 points in it, the rim's length in pixels."""
    polygon = star(seed, np.random.default_rng(seed + 1).uniform(0, 64, 2), size)
    fine = (np.arange(64 // ratio * 8) + 0.5) / 8 * ratio
    share = contains(polygon, *np.meshgrid(fine, fine)).reshape(64 // ratio, 8, 64 // ratio, 8).mean((1, 3))
    rim = np.hypot(*(polygon - np.roll(polygon, 1, 0)).T).sum() / ratio
    return polygons_to_masks(polygons(polygon), (64, 64), ratio)[0], share, rim


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(3, 40), ratio=st.sampled_from([1, 2, 4]))
def test_masks_cover_what_the_polygon_covers(seed, size, ratio):
    """In any position, also cut by the image; stars that cover the greater part of no pixel aside."""
    mask, share, _ = mask_and_shares(seed, size, ratio)
    assert share.max() < 0.6 or (mask[share > 0.85].all() and not mask[share < 0.15].any())


@pytest.mark.parametrize("ratio", [1, 4])
def test_masks_do_not_grow_along_the_rim(ratio):
    """On average by less than 0.03 pixels; drawn at their own size, or hollowed by the rim, it would be 0.5."""
    found = [mask_and_shares(seed, 20, ratio) for seed in range(100)]
    assert abs(np.mean([(mask.sum() - share.sum()) / rim for mask, share, rim in found])) < 0.03


def test_smaller_objects_lie_on_top_of_larger_ones():
    large, small, middle = box(0, 0, 32, 32), box(8, 8, 12, 12), box(4, 4, 20, 20)
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        outlines = [[large, small, middle][k] for k in order]
        found = polygons_to_index_map(polygons(*outlines), (32, 32))
        number = {k: row + 1 for row, k in enumerate(order)}
        assert (found[9, 9], found[6, 6], found[30, 30]) == (number[1], number[2], number[0])
        assert sorted(np.bincount(found.ravel())[1:].tolist()) == [16, 256 - 16, 1024 - 256]


def test_small_is_what_is_visible():
    """A large object of which the image shows little lies on top."""
    found = polygons_to_index_map(polygons(box(-500, 0, 4, 4), box(0, 0, 20, 20)), (32, 32))
    assert found[2, 2] == 1 and found[10, 10] == 2


def batch(overlap=True, rows=(("p", "b", "p"), (), ("b",))):
    """MaskTargets of three images 32 x 40 px, "p" a polygon and "b" a box; at a quarter of the size."""
    outlines = {"p": lambda k: box(8 * k, 4, 8 * k + 8, 12), "b": lambda k: NONE}
    images = [polygons(*(outlines[kind](k) for k, kind in enumerate(kinds))) for kinds in rows]
    boxes = torch.zeros(sum(map(len, rows)), 6)
    boxes[:, 0] = torch.tensor([float(i) for i, kinds in enumerate(rows) for _ in kinds])
    return MaskTargets.from_polygons(boxes, images, (32, 40), 4, overlap)


@pytest.mark.parametrize("overlap", [True, False])
def test_rows_boxes_and_images_without_objects(overlap):
    targets = batch(overlap)
    assert len(targets) == 4 and targets.has_mask.tolist() == [True, False, True, False]
    assert targets.masks.shape == ((3, 8, 10) if overlap else (4, 8, 10)) and targets.masks.dtype == torch.uint8
    first, second, third = (targets.image_masks(i) for i in range(3))
    assert first.shape == (3, 8, 10) and first.dtype == torch.bool
    assert second.shape == (0, 8, 10) and not third.any()
    for k in (0, 2):
        ys, xs = first[k].nonzero(as_tuple=True)
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == (2 * k, 1, 2 * k + 1, 2)
    assert not first[1].any()  # the box's number 2 appears nowhere
    if overlap:
        assert targets.masks.unique().tolist() == [0, 1, 3]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_batch_without_any_object(overlap):
    targets = batch(overlap, rows=((), ()))
    assert len(targets) == 0 and targets.has_mask.shape == (0,) and not targets.masks.any()
    assert targets.masks.shape == ((2, 8, 10) if overlap else (0, 8, 10))
    assert targets.image_masks(1).shape == (0, 8, 10)


@pytest.mark.parametrize("rows,dtype", [(255, torch.uint8), (256, torch.int16)])
def test_maps_have_room_for_every_row(rows, dtype):
    outlines = polygons(*(box(4 * (k % 20), 4 * (k // 20), 4 * (k % 20) + 4, 4 * (k // 20) + 4) for k in range(rows)))
    targets = MaskTargets.from_polygons(torch.zeros(rows, 6), [outlines], (80, 80), 4)
    assert targets.masks.dtype == dtype and targets.masks.unique().tolist() == list(range(rows + 1))
    assert targets.image_masks(0).sum((1, 2)).tolist() == [1] * rows


def test_moving_keeps_everything():
    targets = batch()
    moved = targets.to("cpu", non_blocking=True)
    assert torch.equal(moved.masks, targets.masks) and moved.overlap and moved.polygons is None
    meta = targets.to("meta")
    assert {t.device.type for t in (meta.boxes, meta.masks, meta.has_mask)} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to pin memory for")
def test_pinned_memory():
    pinned = batch().pin_memory()
    assert pinned.boxes.is_pinned() and pinned.masks.is_pinned() and pinned.has_mask.is_pinned()


@pytest.mark.parametrize("ratio", [0, None, -1, 2.0, True, 33])
def test_wrong_ratios_are_named(ratio):
    with pytest.raises(ValueError, match=f"mask ratio: expected an integer from 1 to 32.* found {ratio}"):
        polygons_to_masks(polygons(NONE), (32, 40), ratio)


def test_ratio_that_does_not_divide_the_size():
    """Masks then cover the whole image all the same."""
    mask = polygons_to_masks(polygons(box(0, 0, 16, 20)), (32, 40), 3)[0]
    assert mask.shape == (10, 13) and mask[:6, :5].all() and not mask[7:].any() and not mask[:, 6:].any()
