import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.augmentations import (
    Warp,
    augment_hsv,
    box_candidates,
    copy_paste,
    fit_wh,
    flip,
    letterbox,
    mixup,
    part_of,
    random_perspective,
    random_warp,
    warp_image,
    warp_labels,
)
from utils.boxes import resample_segments, scale_boxes, xywhn2xyxy
from utils.data.images import GREY
from utils.data.mosaic import Tile, mosaic_tiles, paste, place_labels
from utils.data.polygons import Polygons, clip_polygons, visible_boxes

SHAPES = [
    # ((h, w), kwargs, (h, w) expected, ratio (w, h), pad (w, h), what the row proves)
    ((480, 640), {"auto": False}, (640, 640), (1, 1), (0, 80), "square target, padded above and below"),
    ((480, 640), {}, (480, 640), (1, 1), (0, 0), "auto pads to the stride only"),
    ((375, 500), {}, (480, 640), (1.28, 1.28), (0, 0), "small images grow"),
    ((375, 500), {"scaleup": False, "auto": False}, (640, 640), (1, 1), (70, 132.5), "or not; an odd total is halved"),
    ((427, 640), {}, (448, 640), (1, 1), (0, 10.5), "the odd pixel goes to the bottom"),
    ((100, 200), {"scaleFill": True}, (640, 640), (3.2, 6.4), (0, 0), "stretched"),
    ((1280, 640), {"new_shape": (320, 320), "stride": 64}, (320, 192), (0.25, 0.25), (16, 0), "another stride"),
    ((480, 640), {"new_shape": 320}, (256, 320), (0.5, 0.5), (0, 8), "one number is a square"),
    ((10, 2000), {"new_shape": 64}, (32, 64), (0.032, 0.032), (0, 15.5), "a line keeps at least one pixel"),
]


@pytest.mark.parametrize("hw,kwargs,out_hw,ratio,pad,proves", SHAPES, ids=[row[5] for row in SHAPES])
def test_letterbox(hw, kwargs, out_hw, ratio, pad, proves):
    image, found_ratio, found_pad = letterbox(np.full((*hw, 3), 200, np.uint8), **kwargs)
    assert image.shape == (*out_hw, 3)
    assert found_ratio == pytest.approx(ratio) and found_pad == pytest.approx(pad)
    rows, columns = (image[..., 0] != GREY).any(1), (image[..., 0] != GREY).any(0)
    assert rows.argmax() == round(pad[1] - 0.1) and rows[::-1].argmax() == round(pad[1] + 0.1)
    assert columns.argmax() == round(pad[0] - 0.1) and columns[::-1].argmax() == round(pad[0] + 0.1)


def test_letterbox_does_not_touch_an_image_that_fits():
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    np.testing.assert_array_equal(letterbox(image, (96, 96))[0], image)


sides = st.integers(16, 900)


@settings(max_examples=100, deadline=None)
@given(h=sides, w=sides, target=st.sampled_from([64, 320, 640]), auto=st.booleans(), scaleup=st.booleans())
def test_letterbox_keeps_the_aspect_and_boxes_round_trip(h, w, target, auto, scaleup):
    image, ratio, pad = letterbox(np.zeros((h, w), np.uint8), (target, target), auto=auto, scaleup=scaleup, color=255)
    assert ratio[0] == ratio[1] and max(image.shape[:2]) <= target
    if auto:
        assert (target - image.shape[0]) % 32 == 0 and (target - image.shape[1]) % 32 == 0
    inside_h, inside_w = (image == 0).any(1).sum(), (image == 0).any(0).sum()
    assert abs(inside_h - h * ratio[1]) <= 0.5 + 1e-6 or inside_h == 1
    assert abs(inside_w - w * ratio[0]) <= 0.5 + 1e-6 or inside_w == 1
    box = np.array([[0.1 * w, 0.2 * h, 0.7 * w, 0.9 * h]])
    left, top = round(pad[0] - 0.1), round(pad[1] - 0.1)
    moved = box * ratio[0] + (left, top, left, top)
    back = scale_boxes(image.shape, moved.copy(), (h, w), ratio_pad=(ratio[::-1], (left, top)))
    np.testing.assert_allclose(back, box, atol=1e-9)
    if scaleup:  # without ratio_pad, scale_boxes finds them itself, but for the rounding to whole pixels
        np.testing.assert_allclose(scale_boxes(image.shape, moved.copy(), (h, w)), box, atol=1 / ratio[0] + 1)


def test_fit_wh():
    assert fit_wh(500, 375, 640) == (640, 480)
    assert fit_wh(641, 100, 640) == (640, 100)
    assert fit_wh(100, 3001, 640) == (22, 640)
    assert fit_wh(49, 49, 49 * 13) == (637, 637)  # no rounding beyond the size


def bright_boxes(image) -> np.ndarray:
    """xyxy of the one bright rectangle in an image."""
    ys, xs = np.nonzero(image[..., 0] > 180)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


STRONG = {"degrees": 25, "translate": 0.1, "scale": 0.3, "shear": 8, "perspective": 0.0006}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), strength=st.sampled_from([0, 1]), polygons=st.booleans())
def test_random_perspective_moves_boxes_with_the_pixels(seed, strength, polygons):
    image = np.full((200, 240, 3), GREY, np.uint8)
    box = np.array([80, 70, 150, 120])
    cv2.rectangle(image, box[:2].tolist(), (box[2:] - 1).tolist(), (250, 250, 250), -1)
    targets = np.float32([[3, *box]])
    segments = [np.float32([[80, 70], [150, 70], [150, 120], [80, 120]])] if polygons else []
    options = {key: value * strength for key, value in STRONG.items()}
    out, moved = random_perspective(image, targets, segments, **options, rng=np.random.default_rng(seed))
    assert out.shape == image.shape and out.dtype == np.uint8
    assert (moved[:, 1:] >= 0).all() and (moved[:, [1, 3]] <= 240).all() and (moved[:, [2, 4]] <= 200).all()
    if len(moved):
        assert moved[0, 0] == 3 and moved.dtype == np.float32
        found = bright_boxes(out)
        if polygons or not strength:
            assert np.abs(found - moved[0, 1:]).max() < 4
        else:  # the box around a turned box is wider than what is in it
            assert (found[:2] + 3 > moved[0, 1:3]).all() and (found[2:] - 3 < moved[0, 3:]).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 20), border=st.sampled_from([0, -32]))
def test_random_perspective_keeps_any_boxes_inside(seed, n, border):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-20, 150, (n, 2, 2)), axis=1).reshape(n, 4)
    targets = np.concatenate([rng.integers(0, 5, (n, 1)), corners], 1).astype(np.float32)
    image, moved = random_perspective(
        np.zeros((128, 128, 3), np.uint8), targets, **STRONG, border=(border, border), rng=rng
    )
    side = 128 + 2 * border
    assert image.shape == (side, side, 3)
    assert len(moved) <= n and (moved[:, 1:] >= 0).all() and (moved[:, 1:] <= side).all()
    assert (moved[:, 3] - moved[:, 1] > 2).all() and (moved[:, 4] - moved[:, 2] > 2).all()


def test_random_perspective_without_options_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    targets = np.float32([[1, 5, 6, 30, 40]])
    out, moved = random_perspective(image, targets, degrees=0, translate=0, scale=0, shear=0)
    np.testing.assert_array_equal(out, image)
    np.testing.assert_allclose(moved, targets, atol=1e-4)
    assert random_perspective(image)[1].shape == (0, 5)


@pytest.mark.parametrize("turned", [False, True])
def test_random_warp_stays_in_its_ranges(turned):
    rng = np.random.default_rng(0)
    zooms, centres = [], []
    for _ in range(300):
        warp = random_warp((100, 200), (50, 80), rng, translate=0.2, scale=0.4, degrees=1e-9 * turned)
        zooms.append(warp.zoom)
        centres.append((warp.matrix @ [100, 50, 1])[:2])
        rounded = (0.5 / 50 * warp.matrix[1, 1], 1.5) if not turned else (1e-6, 1e-6)  # parts, pixels
        np.testing.assert_allclose(np.diag(warp.matrix)[:2], warp.zoom, rtol=rounded[0] * 1.5)
    assert 0.6 <= min(zooms) < 0.65 and 1.35 < max(zooms) <= 1.4
    low, high = np.min(centres, 0), np.max(centres, 0)  # of the input's centre: within 0.5 +- 0.2 of the output
    assert (low >= (80 * 0.3 - rounded[1], 50 * 0.3 - rounded[1])).all() and (low < (80 * 0.32, 50 * 0.32)).all()
    assert (high <= (80 * 0.7 + rounded[1], 50 * 0.7 + rounded[1])).all() and (high > (80 * 0.68, 50 * 0.68)).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 0.5, 0.9]),
    in_hw=st.sampled_from([(128, 128), (90, 70)]),
    out_hw=st.sampled_from([(64, 64), (90, 70)]),
)
def test_a_crop_is_the_warp(seed, scale, in_hw, out_hw):
    """Cut out and resized, or moved by OpenCV: a level apart. (At the rim the warp mixes in what is outside.)"""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*in_hw, 3), np.uint8)
    warp = random_warp(in_hw, out_hw, rng, translate=0.2, scale=scale)
    x1, y1, x2, y2 = warp.part
    found, plain = warp_image(part_of(image, warp.part), warp), warp_image(image, warp._replace(is_crop=False))
    assert found.shape == plain.shape == (*out_hw, 3)
    assert np.abs(found.astype(int) - plain)[1:-1, 1:-1].max() <= 1
    if warp.is_crop:
        ends = np.array([[x1, y1, 1], [x2, y2, 1]]) @ warp.matrix.T
        np.testing.assert_allclose(ends[:, :2], [[0, 0], out_hw[::-1]], atol=1e-9)
        assert x2 - x1 <= in_hw[1] and y2 - y1 <= in_hw[0]
    boxes = np.float32([[2, 10.5, 20, 60, 61], [1, 30, 1, 50, 90]])
    rows = warp_labels(boxes, Polygons.none(2), warp)[0]
    turned = warp._replace(matrix=warp.matrix + [[0, 1e-12, 0], [0, 0, 0], [0, 0, 0]])  # takes the way of turned ones
    np.testing.assert_allclose(rows, warp_labels(boxes, Polygons.none(2), turned)[0], atol=1e-4)


VISIBLE = [
    # (polygon, box xyxy in a 100 x 80 image, what the row proves)
    ([[10, 10], [50, 20], [30, 60]], [10, 10, 50, 60], "inside: its bounding box"),
    ([[-50, 40], [50, 40], [50, 60], [-50, 60]], [0, 40, 50, 60], "cut at the left side"),
    ([[50, -50], [150, 50], [50, 50]], [50, 0, 100, 50], "cut by two sides between its points"),
    ([[-10, -10], [110, -10], [110, 90], [-10, 90]], [0, 0, 100, 80], "covers the whole image"),
    (
        [[-10, -10], [110, -10], [110, 30], [-10, 50]],
        [0, 0, 100, 80 * 0.6],
        "covers two corners: the top is the image's",
    ),
    ([[200, 10], [300, 10], [300, 60]], [0, 0, 0, 0], "outside"),
    ([[-20, 60], [20, 100], [-20, 100]], [0, 80, 0, 80], "touches a corner only"),
    ([[40, 40], [40, 40], [40, 40]], [40, 40, 40, 40], "a point"),
]


@pytest.mark.parametrize("polygon,box,proves", VISIBLE, ids=[row[2] for row in VISIBLE])
def test_visible_boxes(polygon, box, proves):
    other = np.float32([[1, 2], [3, 2], [3, 5]])  # polygons do not mix
    found = visible_boxes(Polygons.from_list([other, np.float32(polygon), other], 3), 100, 80)
    np.testing.assert_allclose(found[1], box, atol=2)
    np.testing.assert_allclose(found[[0, 2]], [[1, 2, 3, 5]] * 2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 8))
def test_visible_boxes_agree_with_dense_outlines(seed, n):
    angles = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, n))
    radius = np.random.default_rng(seed).uniform(20, 90, (n, 1))
    centre = np.random.default_rng(seed + 1).uniform(-20, 120, 2)
    polygon = np.float32(centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1))
    outline = resample_segments([polygon], 20_000)[0]
    inside = outline[(outline >= 0).all(1) & (outline <= (100, 80)).all(1)]
    corners = [
        corner for corner in ((0, 0), (100, 0), (0, 80), (100, 80)) if cv2.pointPolygonTest(polygon, corner, False) > 0
    ]
    expected = np.array([*inside, *corners])
    box = visible_boxes(Polygons.from_list([polygon], 1), 100, 80)[0]
    if len(expected):
        np.testing.assert_allclose(box, [*expected.min(0), *expected.max(0)], atol=0.1)
    else:
        assert max(box[2] - box[0], box[3] - box[1]) < 0.1


CANDIDATES = [
    # (before, after, options, kept, what the row proves)
    ([0, 0, 10, 10], [0, 0, 10, 10], {}, True, "unchanged"),
    ([0, 0, 10, 10], [0, 0, 2, 10], {}, False, "2 pixels wide is too thin"),
    ([0, 0, 10, 10], [0, 0, 3, 3.2], {}, False, "less than a tenth of the area left"),
    ([0, 0, 10, 10], [0, 0, 3, 3.2], {"area_thr": 0.01}, True, "enough for a polygon"),
    ([0, 0, 400, 4], [0, 0, 400, 3], {}, False, "longer than 100 times its width"),
    ([0, 0, 0, 0], [0, 0, 5, 5], {}, True, "no division by zero"),
]


@pytest.mark.parametrize("before,after,options,kept,proves", CANDIDATES, ids=[row[4] for row in CANDIDATES])
def test_box_candidates(before, after, options, kept, proves):
    assert box_candidates(np.float32([before]), np.float32([after]), **options).tolist() == [kept]


def mosaic(images, labels, polygons, imgsz, rng, exact=False):
    """(the whole canvas, labels, polygons)."""
    tiles = mosaic_tiles([image.shape[1::-1] for image in images], imgsz, rng)
    return paste(images, tiles, (0, 0, 2 * imgsz, 2 * imgsz)), *place_labels(tiles, labels, polygons, exact)


@pytest.mark.parametrize("count", [4, 9])
@pytest.mark.parametrize("seed", range(8))
def test_mosaic_labels_lie_on_their_objects(count, seed):
    rng = np.random.default_rng(seed)
    imgsz, images, labels, polygons = 64, [], [], []
    for k in range(count):
        w, h = (64, int(rng.integers(20, 65))) if k % 2 else (int(rng.integers(20, 65)), 64)
        image = np.full((h, w, 3), k + 1, np.uint8)
        image[h // 4 : h // 2, w // 4 : w // 2] = 200 + k
        x1, y1, x2, y2 = w // 4 / w, h // 4 / h, w // 2 / w, h // 2 / h
        images.append(image)
        labels.append(np.float32([[k, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]]))
        polygons.append(Polygons.from_list([np.float32([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])], 1))
    canvas, rows, polys = mosaic(images, labels, polygons, imgsz, rng)
    assert canvas.shape == (128, 128, 3) and len(rows) == count and rows.dtype == np.float32
    assert (canvas != GREY).any() and set(np.unique(canvas)) <= {GREY, *range(1, 10), *range(200, 209)}
    for row, polygon in zip(rows, polys.to_list()):
        ys, xs = np.nonzero(canvas[..., 0] == 200 + row[0])
        np.testing.assert_allclose(polygon.min(0), row[1:3], atol=1e-3)
        np.testing.assert_allclose(polygon.max(0), row[3:5], atol=1e-3)
        if len(xs):
            np.testing.assert_allclose(row[1:], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1e-3)
        else:
            assert (row[3] - row[1]) * (row[4] - row[2]) < 1e-3  # cut away, and so is its box


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), count=st.sampled_from([4, 9]), exact=st.booleans(), scale=st.sampled_from([0.5, 0.9])
)
def test_what_is_not_seen_of_a_mosaic_is_not_needed(seed, count, exact, scale):
    """The part that the warp asks for is that of the canvas, and tiles outside of it have no labels that stay."""
    rng = np.random.default_rng(seed)
    sizes = [(64, int(rng.integers(20, 65))) for _ in range(count)]
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for w, h in sizes]
    labels = [np.float32([[k, 0.5, 0.5, 1, 1], [k, 0.2, 0.3, 0.4, 0.4]]) for k in range(count)]
    triangle = np.float32([[0.1, 0.1], [0.9, 0.2], [0.5, 0.8]])
    polygons = [Polygons.from_list([triangle[:0], triangle] if k % 2 else [], 2) for k in range(count)]
    tiles = mosaic_tiles(sizes, 64, rng)
    warp = random_warp((128, 128), (64, 64), rng, translate=0.1, scale=scale)
    canvas = paste(images, tiles, (0, 0, 128, 128))
    seen = [k for k in range(count) if tiles[k].is_in(warp.part)]
    only = [[each[k] for k in seen] for each in (images, tiles, labels, polygons)]
    np.testing.assert_array_equal(paste(*only[:2], warp.part), part_of(canvas, warp.part))
    expected, expected_polygons = warp_labels(*place_labels(tiles, labels, polygons, exact), warp)
    rows, found = warp_labels(*place_labels(*only[1:], exact), warp)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(found.points, expected_polygons.points)
    np.testing.assert_array_equal(found.counts, expected_polygons.counts)


def test_a_part_beyond_the_image_is_grey():
    image = np.full((10, 20, 3), 7, np.uint8)
    assert part_of(image, (0, 0, 20, 10)) is image
    part = part_of(image, (-5, 4, 15, 14))
    assert part.shape == (10, 20, 3) and (part[:6, 5:] == 7).all() and (part[6:] == part[:, :5].max()).all()
    assert (part[6:] == GREY).all() and (part[:, :5] == GREY).all()
    assert (part_of(image, (30, 30, 35, 40)) == GREY).all()
    assert not Tile(20, 10, 0, 0, 0, 0, 20, 10).is_in((20, 0, 30, 10))
    rows, polygons = place_labels([], [], [])
    assert rows.shape == (0, 5) and polygons.to_list() == []


def test_mosaic_of_four_meets_in_the_middle_half():
    rng, centres = np.random.default_rng(0), []
    tiles = [np.full((32, 32, 3), k, np.uint8) for k in range(4)]
    for _ in range(100):
        canvas = mosaic(tiles, [np.zeros((0, 5), np.float32)] * 4, [Polygons.none(0)] * 4, 32, rng)[0]
        ys, xs = np.nonzero(canvas[..., 0] == 3)
        centres.append((xs.min(), ys.min()))
    assert np.min(centres) >= 16 and np.max(centres) <= 48
    assert np.min(centres) < 20 and np.max(centres) > 44


def test_copy_paste_mirrors_objects_where_there_is_room():
    image = np.zeros((60, 100, 3), np.uint8)
    image[10:30, 10:30] = 200  # its mirror image is at x 70 to 90
    labels = np.float32([[4, 10, 10, 30, 30]])
    polygon = np.float32([[10, 10], [29, 10], [29, 29], [10, 29]])
    out, rows, segments = copy_paste(image, labels, [polygon], 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, [[4, 10, 10, 30, 30], [4, 70, 10, 90, 30]])
    np.testing.assert_array_equal(segments[1][:, 0], 100 - polygon[:, 0])
    assert (out[12:28, 72:88] == 200).all() and (out[:, :30] == image[:, :30]).all() and not image[:, 50:].any()
    # an object in the way (60 % covered), no polygon, no share: nothing happens
    blocked = np.concatenate([labels, np.float32([[1, 70, 10, 90, 42]])])
    for rows_in, segments_in, share in (
        (blocked, [polygon, np.zeros((0, 2))], 1.0),
        (labels, [np.zeros((0, 2))], 1.0),
        (labels, [polygon], 0.0),
    ):
        out, rows, _ = copy_paste(image, rows_in, segments_in, share, np.random.default_rng(0))
        assert out is image and rows is rows_in


def test_mixup_ratio_is_beta_32_32():
    dark, light = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    rng, ratios = np.random.default_rng(0), []
    for _ in range(300):
        image, labels = mixup(dark, np.zeros((1, 5)), light, np.ones((2, 5)), rng)
        ratios.append(image[0, 0, 0] / 255)
        assert labels.tolist() == [[0] * 5, [1] * 5, [1] * 5]
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.02)
    assert np.std(ratios) == pytest.approx(np.sqrt(1 / (4 * 65)), rel=0.15)  # of Beta(a, a): 1 / (4 (2a + 1))


def test_hsv_changes_in_place_and_only_what_has_a_gain():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    before = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(int)
    same = image.copy()
    augment_hsv(same, 0, 0, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)
    darker = image.copy()
    for seed in range(20):
        darker = image.copy()
        augment_hsv(darker, 0, 0, 0.5, np.random.default_rng(seed))
        after = cv2.cvtColor(darker, cv2.COLOR_BGR2HSV).astype(int)
        factor = 1 + np.random.default_rng(seed).uniform(-1, 1, 3)[2] * 0.5
        expected = (before[..., 2] * factor).clip(0, 255)
        assert np.abs(after[..., 2] - expected).max() <= 1.01
    plain = image.copy()
    augment_hsv(plain, 0.2, 0.7, 0.4, np.random.default_rng(3))
    factors = 1 + np.random.default_rng(3).uniform(-1, 1, 3) * (0.2, 0.7, 0.4)
    levels = np.rint(np.arange(256)[:, None] * factors)
    levels[:, 0] %= 180
    table = levels.clip(0, 255).astype(np.uint8)[None]
    expected = cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)
    np.testing.assert_array_equal(plain, expected)
    hue = np.full((4, 4, 3), (0, 0, 250), np.uint8)  # red, at the seam of the hue circle
    augment_hsv(hue, 1.0, 0, 0, np.random.default_rng(1))
    assert hue.max() == 250


@pytest.mark.parametrize("axis,expected", [(0, [2, 5, 20, 30, 30]), (1, [2, 30, 10, 55, 20])])
def test_flip(axis, expected):
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    labels = np.float32([[2, 5, 10, 30, 20]])
    flipped, rows = flip(image, labels, axis)
    np.testing.assert_array_equal(flipped, np.flip(image, axis))
    np.testing.assert_array_equal(rows, [expected])
    np.testing.assert_array_equal(labels, [[2, 5, 10, 30, 20]])


def test_polygons_take_and_list():
    parts = [np.ones((3, 2)), np.zeros((0, 2)), np.full((4, 2), 5.0)]
    polygons = Polygons.from_list(parts, 3)
    assert [len(p) for p in polygons.to_list()] == [3, 0, 4]
    kept = polygons.take(np.array([False, True, True]))
    assert [len(p) for p in kept.to_list()] == [0, 4] and (kept.points == 5).all()
    assert Polygons.from_list([], 2).to_list()[1].shape == (0, 2) and Polygons.none(0).to_list() == []


def test_polygons_know_their_next_points():
    """Within each polygon, rows without one in between."""
    polygons = Polygons(np.zeros((7, 2)), np.array([0, 3, 0, 0, 4, 0]))
    assert polygons.next_points().tolist() == [1, 2, 0, 4, 5, 6, 3]
    assert Polygons.none(3).next_points().tolist() == []


@pytest.mark.parametrize("axis,expected", [(0, [[1, 38], [5, 33]]), (1, [[59, 2], [55, 7]])])
def test_polygons_are_mirrored_as_flip_mirrors_the_image(axis, expected):
    polygons = Polygons.from_list([np.float32([[1, 2], [5, 7]])], 1)
    np.testing.assert_array_equal(polygons.mirrored(axis, (40, 60)[axis]).points, expected)
    np.testing.assert_array_equal(polygons.points, [[1, 2], [5, 7]])


CLIPPED = [
    # (polygon, what of it is in the rectangle (10, 20) to (50, 60), what the row proves)
    ([[12, 22], [40, 30], [20, 50]], [[12, 22], [40, 30], [20, 50]], "inside: as it is"),
    ([[0, 30], [20, 30], [20, 40], [0, 40]], [[10, 30], [20, 30], [20, 40], [10, 40]], "cut at the left side"),
    ([[30, 50], [50, 70], [10, 70]], [[30, 50], [40, 60], [20, 60]], "edges are cut where they cross, not bent"),
    ([[0, 0], [90, 0], [90, 90], [0, 90]], [[10, 20], [50, 20], [50, 60], [10, 60]], "covers the rectangle"),
    ([[0, 0], [9, 0], [9, 90]], [], "outside"),
    ([[0, 40], [30, 80], [0, 80]], [[10, 60 - 20 / 3], [15, 60], [10, 60]], "cut by two sides, the corner inside"),
    ([[60, 0], [90, 90], [60, 90]], [], "beyond the right side"),
]


@pytest.mark.parametrize("polygon,expected,proves", CLIPPED, ids=[row[2] for row in CLIPPED])
def test_clip_polygons(polygon, expected, proves):
    other = np.float32([[11, 21], [13, 22], [13, 25]])  # polygons do not mix, and a row without one stays so
    polygons = Polygons.from_list([other, np.zeros((0, 2)), np.float32(polygon), other], 4)
    first, none, found, last = clip_polygons(polygons, (10, 20), (50, 60)).to_list()
    np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(last, other)
    assert len(none) == 0 and len(found) == len(expected)
    for point in expected:  # any of them may be the first
        assert np.abs(found - point).max(1).min() < 1e-4


def filled(polygon, shape_hw) -> np.ndarray:
    """The pixels whose centre a polygon holds, bool [h, w]; without the extra pixel that cv2.fillPoly adds."""
    y, x = (np.arange(size) + 0.5 for size in shape_hw)
    inside = np.zeros(shape_hw, bool)
    for (ax, ay), (bx, by) in zip(polygon.astype(float), np.roll(polygon, -1, 0).astype(float)):
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= ((ay > y) != (by > y))[:, None] & (x < ((bx - ax) * (y - ay) / (by - ay) + ax)[:, None])
    return inside


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 9))
def test_clipped_polygons_hold_the_same_points(seed, n):
    """Any polygon, crossings included: clipping it, or cutting what it fills, is the same."""
    polygon = np.random.default_rng(seed).uniform(-30, 110, (n, 2)).astype(np.float32)
    found = clip_polygons(Polygons.from_list([polygon], 1), (10, 20), (50, 60)).points
    expected = np.zeros((80, 80), bool)
    expected[20:60, 10:50] = filled(polygon, (80, 80))[20:60, 10:50]
    assert (filled(found, (80, 80)) != expected).sum() <= 2  # centres on an edge, up to rounding
    assert len(found) == 0 or ((found >= (10, 20)) & (found <= (50, 60))).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.sampled_from([1, 4, 9]),
    axis=st.sampled_from([None, 0, 1]),
    ranges=st.sampled_from([STRONG, {"translate": 0.1, "scale": 0.3}]),
)
def test_polygons_move_with_the_pixels(seed, count, axis, ranges):
    """Through mosaic, perspective and flip: the pixels of the polygons that are left are those of the objects."""
    rng, imgsz, images, labels, polygons = np.random.default_rng(seed), 96, [], [], []
    for k in range(count):
        w, h = rng.permutation([imgsz, int(rng.integers(60, imgsz + 1))]).tolist()
        angles = np.arange(7) * 2 * np.pi / 7 + rng.uniform(0, 0.5, 7)  # no splinters, which are nothing but rim
        polygon = (0.5 + rng.uniform(0.25, 0.45, (7, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)) * (w, h)
        images.append(np.repeat(filled(polygon, (h, w))[..., None] * np.uint8(255), 3, 2))
        polygons.append(Polygons.from_list([(polygon / (w, h)).astype(np.float32)], 1))
        x1, y1, x2, y2 = *polygon.min(0) / (w, h), *polygon.max(0) / (w, h)
        labels.append(np.float32([[k, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]]))
    if count == 1:
        image, rows, (h, w) = images[0], labels[0], images[0].shape[:2]
        rows, border = np.concatenate([rows[:, :1], xywhn2xyxy(rows[:, 1:], w, h)], 1), 0
        polys = polygons[0].moved(polygons[0].points * np.float32([w, h]))
    else:
        (image, rows, polys), border = mosaic(images, labels, polygons, imgsz, rng, exact=True), -imgsz // 2
    out_hw = image.shape[0] + 2 * border, image.shape[1] + 2 * border
    warp = random_warp(image.shape, out_hw, rng, **ranges)
    image = warp_image(part_of(image, warp.part), warp)
    rows, polys = warp_labels(rows, polys, warp)
    if axis is not None:
        image, rows = flip(image, rows, axis)
        polys = polys.mirrored(axis, image.shape[axis])
    assert len(rows) == len(polys.counts) and (polys.counts >= 3).all()
    pixels = np.zeros(out_hw, bool)
    for polygon, row in zip(polys.to_list(), rows):
        pixels |= filled(polygon, out_hw)
        box = visible_boxes(Polygons.from_list([polygon], 1), *out_hw[::-1])[0]
        np.testing.assert_allclose(row[1:], box, atol=1e-3)
    white = image[..., 0] > 127
    if pixels.sum() > 200:
        assert (white & pixels).sum() / (white | pixels).sum() >= 0.9


def test_mosaic_with_exact_cuts_drops_what_is_outside():
    """Of rows that are cut away, polygons go and boxes stay for `warp` to judge; rows and polygons stay aligned."""
    image = np.full((64, 64, 3), 9, np.uint8)
    corner = np.float32([[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]])
    labels = np.float32([[0, 0.05, 0.05, 0.1, 0.1], [1, 0.05, 0.05, 0.1, 0.1], [2, 0.5, 0.5, 1, 1]])
    whole = np.float32([[0, 0], [1, 0], [1, 1], [0, 1]])
    polygons = Polygons.from_list([corner, corner[:0], whole], 3)
    lost = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        _, rows, polys = mosaic([image] * 4, [labels] * 4, [polygons] * 4, 64, rng, exact=True)
        assert ((polys.counts == 0) == (rows[:, 0] == 1)).all()
        assert (rows[:, 0] == 1).sum() == (rows[:, 0] == 2).sum() == 4
        lost += 4 - (rows[:, 0] == 0).sum()
    assert lost > 10


def test_warp_keeps_polygons_with_their_rows():
    targets = np.float32([[0, 10, 10, 40, 40], [1, 0, 0, 1, 1], [2, 20, 20, 60, 60]])  # the second is too small
    triangle = np.float32([[20, 20], [60, 20], [20, 60]])
    polygons = Polygons.from_list([np.zeros((0, 2)), np.zeros((0, 2)), triangle], 3)
    shift = np.array([[1.0, 0, 5], [0, 1, 7], [0, 0, 1]])
    rows, kept = warp_labels(targets, polygons, Warp(shift, 1.0, (80, 80), (0, 0, 80, 80)))
    np.testing.assert_allclose(rows, [[0, 15, 17, 45, 47], [2, 25, 27, 65, 67]], atol=1e-4)
    np.testing.assert_allclose(kept.to_list()[1], triangle + (5, 7), atol=1e-4)
    assert kept.counts.tolist() == [0, 3]


def test_nothing_depends_on_global_random_state():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        rng = np.random.default_rng(5)
        out, rows = random_perspective(image, np.float32([[0, 10, 10, 50, 50]]), **STRONG, rng=rng)
        augment_hsv(out, 0.1, 0.5, 0.5, rng)
        results.append((out, rows))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
