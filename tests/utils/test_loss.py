"""The detection loss: the golden numbers, and a plain loop-over-targets reference."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.conftest import SHARED, needs_shared
from utils.boxes import bbox_iou
from utils.loss import ComputeLoss, binary_loss, last_of_each, match_anchors

HYP = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}
ANCHORS_PX = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]


def make_model(nc=80, levels=3, **hyp):
    """What the loss reads of a model: hyp, and a head with its anchors and strides."""
    stride = torch.tensor([8.0, 16.0, 32.0, 64.0][:levels])
    anchors = torch.tensor((ANCHORS_PX + ANCHORS_PX[-1:])[:levels]).view(levels, 3, 2) / stride.view(-1, 1, 1)
    head = SimpleNamespace(nl=levels, na=3, nc=nc, anchors=anchors, stride=stride)
    return SimpleNamespace(model=[head], hyp={**HYP, **hyp})


def golden_inputs():
    """As described in golden/README.md."""
    g = torch.Generator().manual_seed(7)
    p = [(torch.randn(2, 3, n, n, 85, generator=g) * 0.7).requires_grad_() for n in (40, 20, 10)]
    t = torch.rand(60, 6, generator=g)
    t[:, 0] = (t[:, 0] * 2).floor()
    t[:, 1] = (t[:, 1] * 80).floor()
    t[:, 4:] = 0.02 + t[:, 4:] ** 2 * 0.6
    return p, t


@needs_shared
def test_golden():
    (golden,) = json.loads((SHARED / "golden" / "yolov5_loss.json").read_text()).values()
    p, targets = golden_inputs()
    compute_loss = ComputeLoss(make_model())
    loss, items = compute_loss(p, targets)
    loss.backward()
    assert loss.item() == pytest.approx(golden["loss"], abs=1e-4)
    assert items.tolist() == pytest.approx(golden["items"], abs=1e-4)
    assert [level.grad.norm().item() for level in p] == pytest.approx(golden["grad"], abs=1e-5)
    assert compute_loss(p, targets[:0])[0].item() == pytest.approx(golden["empty"], abs=1e-4)


def reference_loss(model, p, targets):
    """The same loss, target by target. Returns the weighted terms."""
    head, hyp = model.model[0], model.hyp
    box = obj = cls = torch.zeros(())
    balance = [4.0, 1.0, 0.4] if head.nl == 3 else [4.0, 1.0, 0.25, 0.06, 0.02]
    eps = hyp.get("label_smoothing", 0.0)
    for raw, anchors, weight in zip(p, head.anchors, balance):
        ny, nx = raw.shape[2:4]
        wanted, ious, rows, classes = torch.zeros(raw.shape[:4]), [], [], []
        for dx, dy in ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1)):  # the order decides who writes a place last
            for a, anchor in enumerate(anchors):
                for image, c, x, y, w, h in targets.tolist():
                    x, y, w, h = x * nx, y * ny, w * nx, h * ny
                    ratios = [w / anchor[0], anchor[0] / w, h / anchor[1], anchor[1] / h]
                    column, row = min(int(x), nx - 1), min(int(y), ny - 1)
                    fx, fy = x - column, y - row
                    nearer = {(0, 0): True, (-1, 0): fx < 0.5, (1, 0): fx > 0.5, (0, -1): fy < 0.5, (0, 1): fy > 0.5}
                    column, row = column + dx, row + dy
                    if max(ratios) >= hyp["anchor_t"] or not nearer[dx, dy] or not (0 <= column < nx and 0 <= row < ny):
                        continue
                    out = raw[int(image), a, row, column]
                    s = out[:4].sigmoid()
                    predicted = torch.cat([s[:2] * 2 - 0.5, (2 * s[2:]) ** 2 * anchor])
                    iou = bbox_iou(predicted, torch.tensor([x - column, y - row, w, h]), CIoU=True)
                    wanted[int(image), a, row, column] = iou.detach().clamp(0)
                    ious.append(iou)
                    rows.append(out[5:])
                    classes.append(int(c))
        if ious:
            box = box + (1 - torch.stack(ious)).mean()
            if head.nc > 1:
                smooth = F.one_hot(torch.tensor(classes), head.nc) * (1 - eps) + eps / 2
                positive = torch.tensor(hyp["cls_pw"])
                cls = cls + F.binary_cross_entropy_with_logits(torch.stack(rows), smooth, pos_weight=positive)
        positive = torch.tensor(hyp["obj_pw"])
        obj = obj + weight * F.binary_cross_entropy_with_logits(raw[..., 4], wanted, pos_weight=positive)
    return torch.stack([box * hyp["box"], obj * hyp["obj"], cls * hyp["cls"]])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 12),
    nc=st.sampled_from([1, 2, 5]),
    levels=st.sampled_from([1, 2, 3, 4]),
    hyp=st.sampled_from([{}, {"label_smoothing": 0.1}, {"cls_pw": 0.6, "obj_pw": 1.7}, {"anchor_t": 2.5}]),
)
def test_equals_the_plain_reference(seed, n, nc, levels, hyp):
    """Non-square maps, several targets in a cell, borders; loss and gradients."""
    g = torch.Generator().manual_seed(seed)
    model = make_model(nc, levels, **hyp)
    p = [torch.randn(2, 3, 16 >> i, 24 >> i, 5 + nc, generator=g).requires_grad_() for i in range(levels)]
    t = torch.rand(n, 6, generator=g)
    t[:, 0], t[:, 1] = (t[:, 0] * 2).floor(), (t[:, 1] * nc).floor()
    t[: n // 2, 2:4] = t[n - n // 2 :, 2:4]  # pairs with one centre compete for their places
    t[:, 4:] = 0.05 + t[:, 4:] ** 2 * 0.9
    loss, items = ComputeLoss(model)(p, t)
    expected = reference_loss(model, p, t)
    torch.testing.assert_close(items, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, expected.sum() * 2, rtol=1e-5, atol=1e-6)
    ours, theirs = torch.autograd.grad(loss, p), torch.autograd.grad(expected.sum() * 2, p)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "xy, places",
    [
        ((3.5, 3.5), {(3, 3)}),  # the middle has no nearer half
        ((3.2, 3.5), {(3, 3), (3, 2)}),  # left
        ((3.8, 3.5), {(3, 3), (3, 4)}),  # right
        ((3.2, 3.9), {(3, 3), (3, 2), (4, 3)}),  # left and below
        ((0.2, 0.2), {(0, 0)}),  # nothing beyond the top left
        ((7.8, 7.8), {(7, 7)}),  # nothing beyond the bottom right
        ((8.0, 8.0), {(7, 7)}),  # a centre on the image's edge belongs to the last cell
        ((3.0, 3.5), {(3, 3), (3, 2)}),  # on a border of two cells: each place once
    ],
)
def test_cells_of_a_target(xy, places):
    targets = torch.tensor([[0, 1, xy[0] / 8, xy[1] / 8, 2 / 8, 2 / 8]])
    matches = match_anchors(targets, torch.tensor([[2.0, 2.0]]), (8, 8), 4.0)
    _, _, row, column = matches.place
    assert sorted(zip(row.tolist(), column.tolist())) == sorted(places)
    centres = matches.boxes[:, :2] + torch.stack([column, row], 1)
    torch.testing.assert_close(centres, torch.tensor([xy]).expand_as(centres))


@pytest.mark.parametrize(
    "wh, matched",
    [((2, 2), True), ((7.9, 2), True), ((8, 2), False), ((2, 0.51), True), ((2, 0.5), False), ((0, 0), False)],
)
def test_shape_limit(wh, matched):
    """A side of 4 times the anchor's (or a quarter) is out, a little less is in; a box without area matches nothing."""
    targets = torch.tensor([[0, 0, 0.5625, 0.5625, wh[0] / 8, wh[1] / 8]])
    assert bool(len(match_anchors(targets, torch.tensor([[2.0, 2.0]]), (8, 8), 4.0))) == matched


def test_image_without_objects():
    """No box and class loss, exactly; objectness alone has a gradient."""
    p, targets = golden_inputs()
    loss, items = ComputeLoss(make_model())(p, targets[:0])
    loss.backward()
    assert items[0] == 0 and items[2] == 0 and items[1] > 0
    for level in p:
        assert level.grad[..., 4].abs().min() > 0
        assert level.grad[..., :4].abs().max() == 0 and level.grad[..., 5:].abs().max() == 0


def test_one_class_has_no_class_loss():
    p, targets = golden_inputs()
    p = [level.detach()[..., :6] for level in p]
    targets[:, 1] = 0
    assert ComputeLoss(make_model(nc=1))(p, targets)[1][2] == 0


def test_last_of_each():
    assert sorted(last_of_each(torch.tensor([5, 3, 5, 3, 9])).tolist()) == [2, 3, 4]
    assert last_of_each(torch.zeros(0, dtype=torch.long)).tolist() == []


@pytest.mark.parametrize("gamma, target", [(0.0, 1.0), (1.5, 1.0), (1.5, 0.0)])
def test_focal_loss(gamma, target):
    """-alpha (1 - p)^gamma log p of the true class, alpha 0.25 for positives, 0.75 for negatives; gamma 0 is BCE."""
    p = 1 / (1 + math.exp(-0.8))
    p_true, alpha = (p, 0.25) if target else (1 - p, 0.75)
    expected = -math.log(p_true) * (alpha * (1 - p_true) ** gamma if gamma else 1)
    actual = binary_loss(torch.tensor([0.8]), torch.tensor([target]), focal_gamma=gamma)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_focal_gamma_reaches_objectness_and_class():
    p, targets = golden_inputs()
    plain, focal = (ComputeLoss(make_model(fl_gamma=g))(p, targets)[1] for g in (0.0, 1.5))
    assert focal[0] == plain[0] and focal[1] < plain[1] / 2 and focal[2] < plain[2] / 2


def test_autobalance_moves_to_the_inverse_losses_and_not_in_evaluation():
    p, targets = golden_inputs()
    compute_loss = ComputeLoss(make_model(), autobalance=True)
    with torch.no_grad():
        compute_loss(p, targets)
    assert compute_loss.balance == [4.0, 1.0, 0.4]
    compute_loss(p, targets)
    assert compute_loss.balance[1] == 1 and compute_loss.balance != [4.0, 1.0, 0.4]

    compute_loss.balance = [1.0, 1.0, 1.0]
    compute_loss.rebalance([torch.tensor(0.5), torch.tensor(0.25), torch.tensor(1.0)])
    raw = [0.9999 + 0.0001 / loss for loss in (0.5, 0.25, 1.0)]
    assert compute_loss.balance == pytest.approx([value / raw[1] for value in raw], rel=1e-9)
    assert ComputeLoss(make_model(levels=2)).balance == [4.0, 1.0]
    assert ComputeLoss(make_model(levels=4)).balance == [4.0, 1.0, 0.25, 0.06]


def test_same_inputs_give_the_same_bits_and_half_precision_works():
    p, targets = golden_inputs()
    compute_loss = ComputeLoss(make_model())
    first, second = compute_loss(p, targets), compute_loss(p, targets)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    half = compute_loss([level.half() for level in p], targets)[0]
    assert half.dtype == torch.float32 and half.item() == pytest.approx(first[0].item(), rel=1e-3)


def test_a_model_without_hyperparameters_is_refused():
    with pytest.raises(ValueError, match="model.hyp"):
        ComputeLoss(SimpleNamespace(model=[None]))
