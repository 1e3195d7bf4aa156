"""Masks: against plain references pixel by pixel, pycocotools' run lengths, outlines that fill again, and memory."""

import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.segment import masks as M
from tests.conftest import ROOT
from utils.augmentations import letterbox

# of values between pixels; OpenCV before version 5 rounds places to 1/32 of a pixel
ROUNDING = 1e-5 if cv2.__version__ >= "5" else 0.05


def random_case(seed, n=6, nm=4, ph=8, pw=12, stride=4):
    """Smooth prototypes, coefficients, and boxes in pixels of the input, some of them beyond its edge."""
    rng = np.random.default_rng(seed)
    protos = np.stack([cv2.GaussianBlur(p, (0, 0), 1.5) * 8 for p in rng.normal(size=(nm, ph, pw)).astype(np.float32)])
    low = rng.uniform(-0.2, 0.8, (n, 2)) * [pw * stride, ph * stride]
    boxes = np.concatenate([low, low + rng.uniform(0, 0.8, (n, 2)) * [pw * stride, ph * stride]], 1)
    return protos, rng.normal(size=(n, nm)).astype(np.float32), boxes.astype(np.float32)


@pytest.mark.parametrize(
    "box, rows, columns",  # those of a 4 x 6 mask that are kept
    [
        ((0, 0, 6, 4), [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),  # all
        ((1, 2, 3, 4), [2, 3], [1, 2]),  # whole pixels
        ((1.4, 0.4, 2.6, 1.6), [0, 1], [1, 2]),  # a pixel whose centre is inside
        ((1.6, 0.6, 2.4, 1.4), [], []),  # between centres
        ((-9, -9, 0.5, 99), [], []),  # the right edge does not belong to the box
        ((0.5, 0.5, 1.5, 1.5), [0], [0]),  # the left and upper edges do
        ((3, 1, 2, 0), [], []),  # inside out
    ],
)
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_crop(box, rows, columns, dtype):
    cropped = M.crop_mask(np.ones((1, 4, 6), dtype), np.array([box]))
    expected = np.zeros((4, 6), dtype)
    expected[np.ix_(rows, columns)] = 1
    assert cropped.dtype == dtype and (cropped[0] == expected).all()


def test_process_mask_by_hand():
    """Two prototypes, left half and upper half; a mask is where their weighted sum is positive, inside the box."""
    protos = np.full((2, 4, 4), -1, np.float32)
    protos[0, :, :2] = 1
    protos[1, :2] = 1
    everything, upper = [0, 0, 16, 16], [0, 0, 16, 7]  # px of a 16 x 16 input
    coefficients = np.float32([[1, 0], [0, -1], [1, 1.5], [1, 0]])
    masks = M.process_mask(protos, coefficients, np.float32([everything, everything, everything, upper]), (16, 16))
    expected = ["1100" * 4, "0000" * 2 + "1111" * 2, "1111" * 2 + "0000" * 2, "1100" * 2 + "0000" * 2]
    assert ["".join(str(int(v)) for v in mask.ravel()) for mask in masks] == expected
    assert M.process_mask(protos, coefficients[:0], np.zeros((0, 4)), (16, 16)).shape == (0, 4, 4)


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("kind", ["array", "tensor", "half"])
def test_process_mask_is_the_plain_definition(upsample, kind):
    protos, coefficients, boxes = random_case(1, n=40)
    given = [protos, coefficients, boxes]
    if kind != "array":
        given = [torch.from_numpy(x) for x in given]
    if kind == "half":  # prototypes of a model in half precision
        given[:2] = [x.half() for x in given[:2]]
    actual = M.process_mask(*given, (32, 48), upsample)
    chances = torch.einsum("nc,chw->nhw", *(torch.as_tensor(x).float() for x in given[1::-1])).sigmoid()
    scale = 1 / 4
    if upsample:
        chances = torch.nn.functional.interpolate(chances[None], (32, 48), mode="bilinear")[0]
        scale = 1
    expected = M.crop_mask(chances.numpy(), boxes * scale) > 0.5
    assert isinstance(actual, np.ndarray) and actual.dtype == bool and actual.shape == expected.shape
    unsure = np.abs(chances.numpy() - 0.5) < 1e-5  # rounding may decide
    assert ((actual == expected) | unsure).all() and 0.01 < actual.mean() < 0.5


def native_pixel_by_pixel(protos, coefficients, boxes, shape0_hw, ratio_pad, stride):
    """process_mask_native() in Python numbers: bool [n, h0, w0], and how far each value is from the threshold."""
    (ratio_h, ratio_w), (pad_w, pad_h) = ratio_pad
    chances = 1 / (1 + np.exp(-np.einsum("nc,chw->nhw", coefficients, protos).astype(float)))
    masks, margin = np.zeros((len(boxes), *shape0_hw), bool), np.ones((len(boxes), *shape0_hw))
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for row in range(shape0_hw[0]):
            for column in range(shape0_hw[1]):
                if not (x1 <= column + 0.5 < x2 and y1 <= row + 0.5 < y2):
                    continue
                y = min(max(((row + 0.5) * ratio_h + pad_h) / stride - 0.5, 0), protos.shape[1] - 1)
                x = min(max(((column + 0.5) * ratio_w + pad_w) / stride - 0.5, 0), protos.shape[2] - 1)
                top, left = min(int(y), protos.shape[1] - 2), min(int(x), protos.shape[2] - 2)
                fy, fx = y - top, x - left
                (a, b), (c, d) = chances[i, top : top + 2, left : left + 2]
                value = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
                masks[i, row, column], margin[i, row, column] = value > 0.5, abs(value - 0.5)
    return masks, margin


@pytest.mark.parametrize(
    "shape0_hw, ratio_pad, stride",
    [
        ((32, 48), ((1, 1), (0, 0)), 4),  # the input itself
        ((20, 48), ((1, 1), (0, 6)), 4),  # grey bars above and below
        ((50, 43), ((0.62, 0.62), (10.5, 0.5)), 4),  # half a pixel of border
        ((9, 11), ((3.5, 3.5), (4.75, 0.25)), 4),  # smaller than the prototypes
        ((31, 37), ((1.03, 1.29), (0, 0)), 4),  # the sides differ in scale
        ((16, 24), ((1, 1), (0, 0)), 2),  # prototypes of a head whose finest stride is 4
    ],
)
def test_native_is_the_plain_definition(shape0_hw, ratio_pad, stride):
    protos, coefficients, boxes = random_case(2, n=8)
    boxes *= np.tile([shape0_hw[1] / 48, shape0_hw[0] / 32], 2).astype(np.float32)
    actual = M.process_mask_native(protos, coefficients, boxes, shape0_hw, ratio_pad, stride)
    expected, margin = native_pixel_by_pixel(protos, coefficients, boxes, shape0_hw, ratio_pad, stride)
    assert ((actual == expected) | (margin < ROUNDING)).all() and actual.any()


def test_native_without_ratio_pad_takes_the_tightest_letterbox():
    protos, coefficients, boxes = random_case(3)
    same = [M.process_mask_native(protos, coefficients, boxes, (16, 48), pad) for pad in (None, ((1, 1), (0, 8)))]
    assert (same[0] == same[1]).all() and same[0].any()


def test_native_of_an_unchanged_image_is_the_upsampled_mask():
    case = random_case(4, n=20)
    native = M.process_mask_native(*case, (32, 48), ((1, 1), (0, 0)))
    assert (native == M.process_mask(*case, (32, 48), upsample=True)).all()


@settings(max_examples=60, deadline=None)
@given(
    h0=st.integers(20, 90), w0=st.integers(20, 90), side=st.sampled_from([32, 64, 128]), share=st.sampled_from([1, 4])
)
def test_scaling_a_letterboxed_mask_back(h0, w0, side, share):
    """A disc that was letterboxed comes back to its place: nowhere more than a pixel of the smaller image off."""
    disc = np.zeros((h0, w0, 3), np.uint8)
    radius = min(h0, w0) // 3
    cv2.circle(disc, (w0 // 2, h0 // 2), radius, (1, 1, 1), -1)
    boxed, ratio_wh, pad_wh = letterbox(disc * 255, (side, side), color=(0, 0, 0), auto=False)
    small = cv2.resize(boxed[..., 0], (side // share, side // share), interpolation=cv2.INTER_AREA) / 255
    back = M.scale_masks((side, side), small[None], (h0, w0), (ratio_wh[::-1], pad_wh))[0]
    assert back.shape == (h0, w0) and back.dtype == bool
    border = 1.5 * max(1, share / min(ratio_wh))  # px of the original
    distance = np.hypot(*(np.mgrid[:h0, :w0] - np.array([h0 // 2, w0 // 2])[:, None, None]))
    assert back[distance < radius - border].all() and not back[distance > radius + border + 1].any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape0_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ratio_hw=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
    pad_wh=st.tuples(st.floats(-3, 9), st.floats(-3, 9)),
    share=st.sampled_from([1, 4]),
    kind=st.sampled_from(["mask", "chances", "little", "nothing"]),
)
def test_scaling_is_the_plain_definition(seed, shape0_hw, ratio_hw, pad_wh, share, kind):
    """Every pixel by the weights of the pixels around its place; also where a mask is a few pixels at the edge."""
    source = np.random.default_rng(seed).random((2, 12, 15)).astype(np.float32)
    if kind != "chances":
        source = source > {"mask": 0.5, "little": 0.97, "nothing": 1}[kind]
    actual = M.scale_masks((12 * share, 15 * share), source, shape0_hw, (ratio_hw, pad_wh))
    weights, covered = [], []
    for size, ratio, pad, limit in zip(shape0_hw, ratio_hw, pad_wh[::-1], (12, 15)):
        places = ((np.arange(size) + 0.5) * ratio + pad) / share - 0.5
        covered.append(np.abs(places - (limit - 1) / 2) < limit / 2)  # an original lies inside of its letterboxed form
        weights.append(np.maximum(1 - np.abs(places.clip(0, limit - 1)[:, None] - np.arange(limit)), 0))
    values = weights[0] @ source.astype(float) @ weights[1].T
    right = (actual == (values > 0.5)) | (np.abs(values - 0.5) < ROUNDING)
    assert right[:, covered[0]][..., covered[1]].all()


def test_scaling_to_the_same_size_changes_nothing():
    masks = np.random.default_rng(0).random((3, 20, 30)) > 0.5
    assert (M.scale_masks((20, 30), masks, (20, 30)) == masks).all()
    assert M.scale_masks((20, 30), masks[:0], (40, 60)).shape == (0, 40, 60)


@pytest.mark.parametrize("chunk_values", [1 << 22, 7])
def test_mask_iou(chunk_values, monkeypatch):
    monkeypatch.setattr(M, "CHUNK_VALUES", chunk_values)
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 50)) > 0.5, rng.random((4, 50)) > 0.7
    a[0] = b[0] = False
    expected = [[(x & y).sum() / (x | y).sum() if (x | y).any() else 0 for y in b] for x in a]
    np.testing.assert_allclose(M.mask_iou(a, b), expected, rtol=1e-6)
    assert M.mask_iou(a[:0], b).shape == (0, 4) and M.mask_iou(a, b[:0]).shape == (3, 0)


def drawing(text) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


SQUARE = {(0.5, 0), (1.5, 0), (2, 0.5), (2, 1.5), (1.5, 2), (0.5, 2), (0, 1.5), (0, 0.5)}


@pytest.mark.parametrize(
    "text, outline, area",  # the points, straight edges apart, and the area inside
    [
        ("... ...", set(), 0),  # nothing
        ("... .#.", {(1, 1.5), (1.5, 1), (2, 1.5), (1.5, 2)}, 0.5),  # a pixel: the middles of its sides
        ("## ##", SQUARE, 3.5),  # corners are cut
        ("#.. .#. ..#", {(0.5, 0), (3, 2.5), (2.5, 3), (0, 0.5)}, 2.5),  # a diagonal is one part, with straight sides
        ("##.# ##.. ....", SQUARE, 3.5),  # the largest part alone
    ],
)
def test_outlines_by_hand(text, outline, area):
    (polygon,) = M.masks_to_polygons(drawing(text)[None])
    assert polygon.dtype == np.float32 and polygon.shape == (len(polygon), 2)
    assert {tuple(point) for point in polygon.tolist()} == outline
    assert area == (cv2.contourArea(polygon) if len(polygon) else 0)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), h=st.integers(1, 24), w=st.integers(1, 24), smooth=st.floats(0.1, 3))
def test_an_outline_fills_to_the_same_mask(seed, h, w, smooth):
    """The centre of every pixel of the largest part lies inside, that of every other pixel outside or in a hole."""
    noise = np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), smooth) > 0
    (polygon,) = M.masks_to_polygons(mask[None])
    if not mask.any():
        assert len(polygon) == 0
        return
    centres = [(column + 0.5, row + 0.5) for row in range(h) for column in range(w)]
    inside = np.array([cv2.pointPolygonTest(polygon, c, False) > 0 for c in centres]).reshape(h, w)
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    part = parts == parts[inside & mask][0]
    assert (part <= inside).all(), "all of one part"
    holes = inside & ~part
    _, outside = cv2.connectedComponents(np.pad(~part, 1, constant_values=True).astype(np.uint8), connectivity=4)
    assert not (holes & (outside[1:-1, 1:-1] == outside[0, 0])).any(), "and besides it only what it encloses"


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), h=st.integers(1, 40), w=st.integers(1, 40), share=st.sampled_from([0, 0.02, 0.5, 1]))
def test_run_lengths_are_those_of_pycocotools(seed, h, w, share):
    from pycocotools import mask as pycoco

    masks = np.random.default_rng(seed).random((3, h, w)) < share
    masks[1, :, : w // 2] = False  # as masks in boxes are
    codes = M.encode_rle(masks)
    expected = pycoco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    assert codes == [{"size": [h, w], "counts": code["counts"].decode()} for code in expected]
    assert (pycoco.decode(codes).transpose(2, 0, 1) == masks).all()
    assert M.encode_rle(masks[:0]) == []


def test_run_lengths_of_polygons():
    from faster_coco_eval.core.mask import decode

    square, triangle = [[2, 1], [6, 1], [6, 5], [2, 5]], [[0, 0], [8, 0], [0, 8]]
    masks = [decode(code).astype(bool) for code in M.polygons_to_rle([square, triangle], (8, 9))]
    assert masks[0].sum() == 16 and masks[0][1:5, 2:6].all()
    assert abs(masks[1].sum() - 32) <= 4
    assert M.polygons_to_rle([], (8, 9)) == []
    with pytest.raises(ValueError, match="polygon 1: expected at least 3 points, found 2"):
        M.polygons_to_rle([square, square[:2]], (8, 9))


def peak_bytes(function) -> int:
    """Most bytes that were allocated at a time, the result apart."""
    tracemalloc.start()
    result = function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - getattr(result, "nbytes", 0)


def test_a_thousand_masks_need_little_more_than_they_are():
    """In float32 the masks would be 400 MB."""
    protos, coefficients, boxes = random_case(0, n=1000, nm=32, ph=80, pw=80)
    masks = M.process_mask(protos, coefficients, boxes, (320, 320), upsample=True)
    assert masks.nbytes == 1000 * 320 * 320
    limit = 3 * 4 * M.CHUNK_VALUES  # 50 MB
    assert peak_bytes(lambda: M.process_mask(protos, coefficients, boxes, (320, 320), upsample=True)) < limit
    assert peak_bytes(lambda: M.process_mask_native(protos, coefficients, boxes, (320, 320))) < limit
    assert peak_bytes(lambda: M.mask_iou(masks.reshape(1000, -1), masks[:50].reshape(50, -1))) < limit
    assert peak_bytes(lambda: M.encode_rle(masks[:300])) < limit
    assert peak_bytes(lambda: M.masks_to_polygons(masks[:300])) < limit


def test_free_of_torch():
    code = "import sys, extras.segment.masks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
