"""Segmentation metrics: mask AP against pycocotools, cases by hand, targets without a mask."""

import contextlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.segment.masks import encode_rle, polygons_to_rle
from extras.segment.metrics import MaskMetrics, SegmentMetrics, mask_overlap
from utils.metrics import DetectionMetrics
from utils.plots.curves import match_by_iou, match_predictions


def box_of(mask) -> list:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return [x, y, x + max(w, 1), y + max(h, 1)]


def random_image(rng, nc, targets=6, predictions=20):
    """(predictions [n, 6], masks, targets [m, 5], masks, has_mask): ellipses, most predictions a moved target."""
    size = tuple(int(side) for side in rng.integers(60, 200, 2))
    m, n = rng.integers(0, targets + 1), rng.integers(0, predictions + 1)
    true, found = np.zeros((m, *size), np.uint8), np.zeros((n, *size), np.uint8)
    for mask in true:
        centre, axes = rng.integers(0, size[::-1]).tolist(), rng.integers(3, 70, 2).tolist()
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    cls, found_cls = rng.integers(0, nc, m), rng.integers(0, nc, n)
    for i, mask in enumerate(found):
        if m and rng.random() < 0.8:
            source = rng.integers(0, m)
            mask[:] = np.roll(true[source], rng.integers(-5, 6, 2), (0, 1))
            found_cls[i] = cls[source]
        else:
            cv2.circle(mask, rng.integers(0, size[::-1]).tolist(), int(rng.integers(3, 40)), 1, -1)
    boxes, found_boxes = (np.array([box_of(mask) for mask in masks]).reshape(-1, 4) for masks in (true, found))
    rows = np.concatenate([found_boxes, rng.random((n, 1)).round(1), found_cls[:, None]], 1)  # equal confidences too
    return rows, found.astype(bool), np.concatenate([cls[:, None], boxes], 1), true.astype(bool), rng.random(m) < 0.8


def pycocotools_evaluation(images, nc):
    """The masks' COCO evaluation; a target without a mask is a crowd of the shape of its box."""
    from pycocotools import mask as pycoco
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for i, (predictions, masks, targets, target_masks, has_mask) in enumerate(images):
        for (cls, x1, y1, x2, y2), mask, known in zip(targets.tolist(), target_masks, has_mask):
            code = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
            if not known:
                (code,) = pycoco.frPyObjects([[x1, y1, x2, y1, x2, y2, x1, y2]], *mask.shape)
            entry = {"id": len(truth) + 1, "image_id": i, "category_id": int(cls), "iscrowd": int(not known)}
            truth.append({**entry, "segmentation": code, "area": float(pycoco.area(code))})
        for row, mask in zip(predictions.tolist(), masks):
            code = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
            found.append({"image_id": i, "category_id": int(row[5]), "segmentation": code, "score": row[4]})
    gt = COCO()
    sizes = [masks.shape[1:] for _, masks, *_ in images]
    gt.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
        "categories": [{"id": i} for i in range(nc)],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def compute(images, nc=3):
    metrics = SegmentMetrics(nc)
    for image in images:
        metrics.update(*image)
    return metrics.compute()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), nc=st.integers(1, 3), n_images=st.integers(1, 10), crowded=st.booleans())
def test_equals_pycocotools(seed, nc, n_images, crowded):
    """Equal confidences, empty images, targets without a mask, more than 100 predictions of a class."""
    rng = np.random.default_rng(seed)
    images = [random_image(rng, nc, predictions=150 if crowded else 20) for _ in range(n_images)]
    images.append((np.array([[1, 1, 5, 5, 0.5, 0]]), SQUARE[None], np.array([[0, 1, 1, 5, 5]]), SQUARE[None], [True]))
    expected, actual = pycocotools_evaluation(images, nc), compute(images, nc).masks
    areas = [actual.ap_small, actual.ap_medium, actual.ap_large]
    stats = np.nan_to_num([actual.map, actual.map50, *areas], nan=-1)
    np.testing.assert_allclose(stats, expected.stats[[0, 1, 3, 4, 5]], atol=1e-6)
    precision = expected.eval["precision"][:, :, :, 0, -1]  # [10, 101, nc]
    np.testing.assert_allclose(actual.ap, precision.mean((0, 1))[actual.classes], atol=1e-6)
    np.testing.assert_allclose(actual.ap50, precision[0].mean(0)[actual.classes], atol=1e-6)
    np.testing.assert_allclose(actual.maps[actual.classes], actual.ap)


def rectangle(x1, y1, x2, y2, size=(20, 20)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


SQUARE = rectangle(1, 1, 5, 5)
BOX, OTHER_BOX = [2, 2, 12, 12], [13, 13, 19, 19]
WHOLE, MOST, OTHER = rectangle(*BOX), rectangle(2, 2, 12, 10), rectangle(*OTHER_BOX)  # MOST: IoU 0.8 with WHOLE
NOTHING = np.zeros((20, 20), bool)
HALF = 51 / 101  # AP where half of the targets are found: recalls 0 to 0.5


@pytest.mark.parametrize(
    "found, true, boxes, masks",  # (box, mask, confidence), (box, mask, has_mask); P, R, mAP50, mAP50-95 of each part
    [
        ([(BOX, WHOLE, 0.9)], [(BOX, WHOLE, True)], (1, 1, 1, 1), (1, 1, 1, 1)),
        # the box is right, the mask misses a fifth: thresholds 0.5 to 0.8, seven of ten
        ([(BOX, MOST, 0.9)], [(BOX, WHOLE, True)], (1, 1, 1, 1), (1, 1, 1, 0.7)),
        # the box is right, the mask is elsewhere
        ([(BOX, OTHER, 0.9)], [(BOX, WHOLE, True)], (1, 1, 1, 1), (0, 0, 0, 0)),
        # the mask is right, the box is elsewhere
        ([(OTHER_BOX, WHOLE, 0.9)], [(BOX, WHOLE, True)], (0, 0, 0, 0), (1, 1, 1, 1)),
        # a target without a mask is not missed, as it is by the boxes
        ([(BOX, WHOLE, 0.9)], [(BOX, WHOLE, True), (OTHER_BOX, NOTHING, False)], (1, 0.5, HALF, HALF), (1, 1, 1, 1)),
        # and what is predicted there is not wrong
        (
            [(BOX, WHOLE, 0.8), (OTHER_BOX, OTHER, 0.9)],
            [(BOX, WHOLE, True), (OTHER_BOX, NOTHING, False)],
            (1, 1, 1, 1),
            (1, 1, 1, 1),
        ),
        # but elsewhere it is: the one right prediction comes second
        ([(BOX, WHOLE, 0.8), (OTHER_BOX, OTHER, 0.9)], [(BOX, WHOLE, True)], (0.5, 1, 0.5, 0.5), (0.5, 1, 0.5, 0.5)),
        # no target has a mask: nothing to measure
        ([(BOX, WHOLE, 0.9)], [(BOX, NOTHING, False)], (1, 1, 1, 1), (0, 0, 0, 0)),
        ([], [(BOX, NOTHING, False)], (0, 0, 0, 0), (0, 0, 0, 0)),
        ([], [(BOX, WHOLE, True)], (0, 0, 0, 0), (0, 0, 0, 0)),  # no predictions
        ([(BOX, WHOLE, 0.9)], [], (0, 0, 0, 0), (0, 0, 0, 0)),  # no targets
        ([], [], (0, 0, 0, 0), (0, 0, 0, 0)),  # neither
    ],
)
@pytest.mark.parametrize("form", ["arrays", "run lengths"])
def test_by_hand(found, true, boxes, masks, form):
    predictions = np.array([[*box, confidence, 0] for box, _, confidence in found]).reshape(-1, 6)
    targets = np.array([[0, *box] for box, _, _ in true]).reshape(-1, 5)
    pixels = [np.array([mask for _, mask, _ in rows]).reshape(-1, 20, 20) for rows in (found, true)]
    has_mask = [known for _, _, known in true]
    if form == "run lengths":
        codes = [encode_rle(part) for part in pixels]
        pixels = codes[0], [code if known else None for code, known in zip(codes[1], has_mask)]
    result = compute([(predictions, pixels[0], targets, pixels[1], has_mask)])
    assert result.means == pytest.approx([*boxes, *masks], abs=1e-9)
    assert result.fitness == pytest.approx(sum(0.1 * part[2] + 0.9 * part[3] for part in (boxes, masks)))
    assert result.maps == pytest.approx(result.boxes.maps + result.masks.maps) and len(result.maps) == 3
    assert result.boxes.targets == len(true) and result.masks.targets == sum(has_mask)
    assert result.boxes.images == result.masks.images == 1


def test_the_box_part_is_that_of_detection():
    rng = np.random.default_rng(0)
    images = [random_image(rng, 3) for _ in range(12)]
    detection = DetectionMetrics(3)
    for predictions, _, targets, _, _ in images:
        detection.update(predictions, targets)
    expected, actual = detection.compute(), compute(images).boxes
    assert (actual.map, actual.v5, actual.confidence) == (expected.map, expected.v5, expected.confidence)
    assert (actual.curves.f1 == expected.curves.f1).all()


def test_masks_of_the_shape_of_boxes_score_as_boxes():
    """Precision, recall, curves and AP: masks go the way of boxes. Sides are whole pixels, so the IoU is equal."""
    rng = np.random.default_rng(1)
    images = []
    for _ in range(15):
        low = rng.integers(0, 40, (20, 2))
        boxes = np.concatenate([low, low + rng.integers(5, 60, (20, 2))], 1)
        boxes[8:] = (boxes[rng.integers(0, 8, 12)] + rng.integers(-3, 4, (12, 4))).clip(0, 100)
        masks = np.array([rectangle(*box, size=(100, 100)) for box in boxes.tolist()])
        cls = rng.integers(0, 2, (20, 1))
        predictions = np.concatenate([boxes[8:], rng.random((12, 1)), cls[8:]], 1)
        images.append((predictions, masks[8:], np.concatenate([cls[:8], boxes[:8]], 1), masks[:8]))
    result = compute(images)
    for name in ("precision", "recall", "f1", "confidence", "map50", "map", "ap_small"):
        assert getattr(result.masks, name) == pytest.approx(getattr(result.boxes, name), abs=1e-6), name
    np.testing.assert_allclose(result.masks.curves.precision_at_recall, result.boxes.curves.precision_at_recall)
    assert result.masks.v5 == pytest.approx(result.boxes.v5, abs=2e-3)  # a few are exactly at a threshold
    assert result.masks.map > 0.1


def test_matching_of_masks_is_that_of_boxes():
    rng = np.random.default_rng(2)
    for _ in range(20):
        low = rng.integers(0, 30, (14, 2))
        boxes = np.concatenate([low, low + rng.integers(5, 30, (14, 2))], 1)
        codes = encode_rle(np.array([rectangle(*box, size=(60, 60)) for box in boxes.tolist()]))
        predictions = np.concatenate([boxes[6:], np.sort(rng.random((8, 1)), 0)[::-1], np.zeros((8, 1))], 1)
        targets = np.concatenate([np.zeros((6, 1)), boxes[:6]], 1)
        iou = mask_overlap(codes[6:], codes[:6], np.zeros(6, bool))
        assert (match_by_iou(iou) == match_predictions(predictions, targets)).all()
    assert match_by_iou(np.zeros((3, 0))).tolist() == [[False] * 10] * 3 and match_by_iou(np.zeros((0, 2))).size == 0


def test_order_of_predictions_and_reset():
    rng = np.random.default_rng(3)
    images = [random_image(rng, 2) for _ in range(8)]
    for predictions, *_ in images:
        predictions[:, 4] = rng.permutation(len(predictions)) / 50  # distinct
    orders = [rng.permutation(len(predictions)) for predictions, *_ in images]
    shuffled = [(p[order], masks[order], *rest) for (p, masks, *rest), order in zip(images, orders)]
    assert compute(images).means == compute(shuffled).means
    metrics = SegmentMetrics(3)
    metrics.update(*images[0])
    metrics.reset()
    assert len(metrics) == 0
    for image in images:
        metrics.update(*image)
    assert len(metrics) == 8 and metrics.compute().means == compute(images).means


@pytest.mark.parametrize(
    "masks, target_masks, message",
    [
        (SQUARE[None][:0], SQUARE[None], "expected a mask for each of 1 predictions, found 0"),
        (SQUARE[None], [], "expected a mask for each of 1 targets, found 0"),
    ],
)
def test_another_number_of_masks(masks, target_masks, message):
    with pytest.raises(ValueError, match=message):
        MaskMetrics(1).update(np.array([[1, 1, 5, 5, 0.5, 0]]), masks, np.array([[0, 1, 1, 5, 5]]), target_masks)


def test_only_run_lengths_are_kept():
    """100 masks of 1000 x 1000 pixels: 100 MB as bitmaps."""
    metrics = MaskMetrics(1)
    code = polygons_to_rle([[[100, 100], [700, 150], [600, 900]]], (1000, 1000))
    predictions = np.tile([100, 100, 700, 900, 0.5, 0], (100, 1))
    metrics.update(predictions, code * 100, np.array([[0, 100, 100, 700, 900]]), code)
    (image,) = metrics._images
    assert sum(len(counts) for counts in [*image.found, *image.true]) < 1_000_000
    assert not any(isinstance(value, np.ndarray) and value.size > 600 for value in vars(image).values())
    assert metrics.compute().map50 == 1
