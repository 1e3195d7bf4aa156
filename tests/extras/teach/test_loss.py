"""The loss from a teacher: which location a box goes to, what each term says, and the comparison of features."""

import itertools

import numpy as np
import pytest
import torch

from extras.teach.loss import (
    FeatureAdapters,
    SoftBoxes,
    correlation,
    correlation_loss,
    decode,
    detections_loss,
    divergence,
    nearest_cells,
)
from utils.boxes import bbox_iou

HYP = {"box": 0.05, "obj": 1.0, "cls": 0.5, "anchor_t": 4.0}
ANCHORS = torch.tensor([[[1.0, 1.0], [2.0, 3.0]], [[1.5, 1.0], [3.0, 3.0]]])  # in cells
GRIDS = ((8, 6), (4, 3))  # rows, columns


def raw_maps(nc=3, seed=0, spread=1.0):
    torch.manual_seed(seed)
    return [torch.randn(2, 2, *grid, 5 + nc) * spread for grid in GRIDS]


def all_locations(maps):
    """(level, image, anchor, row, column) of every location."""
    for level, raw in enumerate(maps):
        yield from ((level, *location) for location in itertools.product(*map(range, raw.shape[:4])))


def own_box(maps, location) -> torch.Tensor:
    """The box [4] xywh normalised of a location."""
    level, image, anchor, row, column = location
    cells = torch.tensor([column, row], dtype=torch.float32)
    ny, nx = maps[level].shape[2:4]
    box = decode(maps[level][image, anchor, row, column], ANCHORS[level, anchor], cells)
    return box / torch.tensor([nx, ny, nx, ny])


def soft(maps, locations, confidence=0.8) -> SoftBoxes:
    """What a teacher that is equal to the student says at these locations."""
    rows = torch.stack([maps[level][tuple(location)] for level, *location in locations]).sigmoid()
    return SoftBoxes(
        image=torch.tensor([location[1] for location in locations]),
        boxes=torch.stack([own_box(maps, location) for location in locations]),
        confidence=torch.full((len(locations),), confidence),
        objectness=rows[:, 4],
        classes=rows[:, 5:],
    )


def expressible(maps, locations) -> list:
    """Those of the locations whose box is like its anchor and stays within the picture's grid."""
    kept = []
    for location in locations:
        level, _, anchor, _, _ = location
        box = own_box(maps, location)
        ny, nx = maps[level].shape[2:4]
        ratio = box[2:] * torch.tensor([nx, ny]) / ANCHORS[level, anchor]
        if torch.maximum(ratio, 1 / ratio).max() < HYP["anchor_t"]:
            kept.append(location)
    return kept


def test_a_box_goes_to_the_location_whose_own_box_is_nearest():
    """Against a search over all locations."""
    maps = raw_maps()
    torch.manual_seed(1)
    boxes = torch.cat([torch.rand(40, 2), torch.rand(40, 2) * 0.5 + 0.02], 1)
    image = torch.arange(40) % 2
    found = nearest_cells(maps, ANCHORS, image, boxes, 4.0)
    for n, box in enumerate(boxes):
        best = -1.0
        for location in all_locations(maps):
            level, i, anchor, row, column = location
            ny, nx = maps[level].shape[2:4]
            target = box * torch.tensor([nx, ny, nx, ny])
            ratio = target[2:] / ANCHORS[level, anchor]
            offset = target[:2] - torch.tensor([column, row])
            reached = ((offset >= -0.5) & (offset < 1.5)).all()
            if i != image[n] or not reached or torch.maximum(ratio, 1 / ratio).max() >= 4:
                continue
            best = max(best, float(bbox_iou(own_box(maps, location), box)))
        level, anchor, row, column = found[:, n].tolist()
        if best < 0:
            assert level == -1
        else:
            assert float(bbox_iou(own_box(maps, (level, int(image[n]), anchor, row, column)), box)) == pytest.approx(
                best, abs=1e-5
            )


def test_a_teacher_that_is_equal_finds_its_own_locations_and_nothing_to_correct():
    maps = raw_maps()
    locations = expressible(maps, list(all_locations(maps))[::7])
    assert len(locations) > 10
    boxes = soft(maps, locations)
    found = nearest_cells(maps, ANCHORS, boxes.image, boxes.boxes, HYP["anchor_t"])
    assert found.T.tolist() == [[level, *rest] for level, _, *rest in locations]
    assert float(detections_loss(maps, ANCHORS, HYP, boxes, torch.arange(3))) == pytest.approx(0, abs=1e-6)


def test_the_loss_grows_with_the_difference():
    maps = raw_maps()
    boxes = soft(maps, expressible(maps, list(all_locations(maps))[::7]))
    losses = []
    for size in (0.0, 0.1, 0.5, 2.0):
        torch.manual_seed(3)
        other = [raw + size * torch.randn_like(raw) for raw in maps]
        losses.append(float(detections_loss(other, ANCHORS, HYP, boxes, torch.arange(3))))
    assert losses == sorted(losses) and losses[-1] > 10 * losses[1] > 0


@pytest.mark.parametrize(
    ("gains", "channels"),
    [
        ({"obj": 0.0, "cls": 0.0}, slice(0, 4)),  # the box term moves the box
        ({"box": 0.0, "cls": 0.0}, slice(4, 5)),
        ({"box": 0.0, "obj": 0.0}, slice(6, 8)),  # classes 1 and 2 are shared, class 0 is not touched
    ],
)
def test_each_term_reaches_its_outputs_at_the_chosen_locations_alone(gains, channels):
    maps = [raw.requires_grad_() for raw in raw_maps()]
    boxes = soft(raw_maps(seed=5), [(0, 0, 0, 3, 3), (1, 1, 1, 2, 1)])
    boxes.classes = boxes.classes[:, 1:]
    detections_loss(maps, ANCHORS, {**HYP, **gains}, boxes, torch.tensor([1, 2])).backward()
    touched = torch.cat([raw.grad.flatten(0, 3) for raw in maps]) != 0
    assert 1 <= touched.any(1).sum() <= 2
    assert touched.any(0).nonzero()[:, 0].tolist() == list(range(8))[channels]


def test_boxes_count_by_their_confidence():
    maps, other = raw_maps(), raw_maps(seed=2)
    locations = [(0, 0, 0, 3, 3), (0, 1, 1, 5, 2)]
    both, first, second = soft(other, locations), soft(other, locations[:1]), soft(other, locations[1:])
    both.confidence = torch.tensor([0.9, 0.3])
    hyp = {**HYP, "obj": 0.0}
    loss, one, two = (float(detections_loss(maps, ANCHORS, hyp, b, torch.arange(3))) for b in (both, first, second))
    assert loss == pytest.approx(0.75 * one + 0.25 * two, rel=1e-5)


@pytest.mark.parametrize("boxes", [torch.zeros(0, 4), torch.tensor([[0.5, 0.5, 0.001, 0.9]])])  # none; like no anchor
def test_nothing_to_learn_is_no_loss(boxes):
    n = len(boxes)
    nothing = SoftBoxes(torch.zeros(n, dtype=torch.long), boxes, torch.ones(n), torch.ones(n), torch.ones(n, 3))
    loss = detections_loss(raw_maps(), ANCHORS, HYP, nothing, torch.arange(3))
    assert loss.shape == () and loss == 0


def test_a_model_of_one_class_has_no_class_term():
    maps = raw_maps(nc=1)
    boxes = soft(maps, [(0, 0, 0, 3, 3)])
    boxes.classes = 1 - boxes.classes
    assert float(detections_loss(maps, ANCHORS, HYP, boxes, torch.tensor([0]))) == pytest.approx(0, abs=1e-6)


def test_divergence():
    p = torch.tensor([0.0, 0.2, 0.5, 1.0])
    logits = torch.tensor([-30.0, 1.0, 0.0, 30.0])
    q = 1 / (1 + np.exp(-1.0))
    expected = 0.2 * np.log(0.2 / q) + 0.8 * np.log(0.8 / (1 - q))
    assert divergence(logits, p).tolist() == pytest.approx([0, expected, 0, 0], abs=1e-6)
    assert (divergence(torch.randn(1000), torch.rand(1000)) >= -1e-6).all()


def test_correlation_is_pearsons():
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    expected = [
        np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a.transpose(0, 1).numpy(), b.transpose(0, 1).numpy())
    ]
    assert torch.allclose(correlation(a, b), torch.tensor(expected, dtype=torch.float32), atol=1e-5)
    assert torch.allclose(correlation(a, 7 * a - 3), torch.ones(4), atol=1e-5)  # scale and shift do not count
    constant = torch.ones(2, 4, 3, 5, requires_grad=True)
    correlation(constant, b).sum().backward()
    assert torch.equal(correlation(constant, b), torch.zeros(4)) and constant.grad.isfinite().all()


@torch.no_grad()
def test_adapters():
    a, b = FeatureAdapters([(4, 4), (4, 6)], seed=1), FeatureAdapters([(4, 4), (4, 6)], seed=1)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))  # as all ranks must start
    assert not torch.equal(a[1].weight, FeatureAdapters([(4, 4), (4, 6)], seed=2)[1].weight)
    maps = torch.randn(2, 4, 3, 5)
    same = FeatureAdapters([(4, 4)], seed=1)
    assert float(correlation_loss(same([maps]), [maps])) == pytest.approx(0, abs=1e-5)
    assert float(correlation_loss(same([maps]), [-maps])) == pytest.approx(2, abs=1e-5)
    larger = torch.randn(2, 6, 9, 7)  # as with --multi-scale
    assert correlation_loss(a([maps, maps]), [maps, larger]).isfinite()


GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 3, 4, 5, 6, generator=GENERATOR)  # maps of 3 images with 4 channels


def channels(maps) -> np.ndarray:
    """[4, 3 * 5 * 6]"""
    return np.concatenate(list(maps.flatten(2).numpy()), axis=1)


def test_correlation_loss_is_one_minus_pearsons_r():
    expected = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(channels(A), channels(B))])
    assert correlation_loss([A], [B]).item() == pytest.approx(expected, abs=1e-6)


def test_correlation_loss_is_half_the_error_of_normalised_maps():
    a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (channels(A), channels(B)))
    assert correlation_loss([A], [B]).item() == pytest.approx(((a - b) ** 2).mean() / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        (A, A, 0.0),
        (A, A * 7 - 3, 0.0),  # neither scale nor offset counts
        (A, -A, 2.0),
        (A, torch.ones_like(A), 1.0),  # a channel that is the same everywhere
        (torch.zeros_like(A), A, 1.0),
    ],
)
def test_correlation_loss(own, wanted, expected):
    assert correlation_loss([own], [wanted]).item() == pytest.approx(expected, abs=1e-5)


def test_gradients_are_finite_where_a_channel_is_constant():
    own = torch.zeros_like(A, requires_grad=True)
    correlation_loss([own], [torch.ones_like(A)]).backward()
    assert torch.isfinite(own.grad).all()
