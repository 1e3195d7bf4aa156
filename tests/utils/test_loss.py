"""The detection loss: the golden numbers, a plain loop-over-targets reference, and what each option does."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from engine.hyperparameters import TABLE
from extras.segment.loss import ComputeSegmentLoss
from models.heads import Detect
from tests.conftest import SHARED, needs_shared
from utils.assignment import RULES, assign
from utils.boxes import bbox_iou, box_iou, xywh2xyxy
from utils.loss import ComputeLoss, ReadLocations, binary_loss
from utils.nms import non_max_suppression

HYP = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}
OPTIONS = [
    {},
    {"assigner": "simota"},
    {"assigner": "aligned"},
    {"assigner": "aligned", "fl_gamma": 1.5, "cls_pw": 2.0, "obj_pw": 0.7, "label_smoothing": 0.1},
]
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
        for dx, dy in ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1)):  # the order decides who writes a location last
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
    t[: n // 2, 2:4] = t[n - n // 2 :, 2:4]  # pairs with one centre compete for their locations
    t[:, 4:] = 0.05 + t[:, 4:] ** 2 * 0.9
    loss, items = ComputeLoss(model)(p, t)
    expected = reference_loss(model, p, t)
    torch.testing.assert_close(items, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, expected.sum() * 2, rtol=1e-5, atol=1e-6)
    ours, theirs = torch.autograd.grad(loss, p), torch.autograd.grad(expected.sum() * 2, p)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


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


def test_balance_of_the_levels():
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


def test_the_options_are_those_of_the_table_and_its_defaults_change_nothing():
    assert TABLE["assigner"].choices == ("ratio", *RULES)
    p, targets = golden_inputs()
    named = {"assigner": TABLE["assigner"].default}
    without, with_names = (ComputeLoss(make_model(**hyp))(p, targets) for hyp in ({}, named))
    assert torch.equal(without[0], with_names[0]) and torch.equal(without[1], with_names[1])
    assert {option.get("assigner", "ratio") for option in OPTIONS} == set(TABLE["assigner"].choices)


@pytest.mark.parametrize("channels_last", [False, True])
def test_read_locations_has_autograds_values_and_gradient(channels_last):
    """As the head gives its maps: a view of the convolution's output. A location may be read more than once."""
    g = torch.Generator().manual_seed(0)
    output = torch.randn(2, 21, 4, 5, generator=g)
    output = output.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    output.requires_grad_()
    raw = output.view(2, 3, 7, 4, 5).permute(0, 1, 3, 4, 2)
    location = tuple(torch.randint(0, size, (30,), generator=g) for size in raw.shape[:4])
    weights = torch.randn(30, 7, generator=g), torch.randn(2, 3, 4, 5, generator=g)
    results = []
    for rows, objectness in (ReadLocations.apply(raw, *location), (raw[location], raw[..., 4])):
        loss = (rows * weights[0]).sum() + (objectness * weights[1]).sum()
        results.append((rows, objectness, torch.autograd.grad(loss, output, retain_graph=True)[0]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("hyp", OPTIONS, ids=str)
def test_each_option_gives_finite_losses_and_gradients(hyp):
    """Random boxes, boxes at the border, and one tinier than a cell; the same twice; half precision."""
    p, targets = golden_inputs()
    targets[:3, 2:] = torch.tensor([[0.0, 0.0, 0.2, 0.3], [1.0, 1.0, 0.3, 0.2], [0.5, 0.5, 0.004, 0.004]])
    compute_loss = ComputeLoss(make_model(**hyp))
    loss, items = compute_loss(p, targets)
    loss.backward()
    assert loss.dtype == torch.float32 and loss > 0 and items.isfinite().all() and (items > 0).all()
    assert all(level.grad.isfinite().all() and level.grad.abs().max() > 0 for level in p)
    assert torch.equal(compute_loss(p, targets)[1], items)
    for dtype in (torch.float16, torch.bfloat16):
        low = [level.detach().to(dtype).requires_grad_() for level in p]
        loss_of_low = compute_loss(low, targets)[0]
        loss_of_low.backward()
        assert loss_of_low.dtype == torch.float32 and loss_of_low.item() == pytest.approx(loss.item(), rel=0.03)
        assert all(level.grad.dtype == dtype and level.grad.isfinite().all() for level in low)


@pytest.mark.parametrize("hyp", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "targets", [torch.zeros(0, 6), torch.tensor([[0, 0, 0.5, 0.5, 0.0, 0.0]])], ids=["none", "flat"]
)
def test_without_matches_only_objectness_is_left(hyp, targets):
    p, _ = golden_inputs()
    loss, items = ComputeLoss(make_model(**hyp))(p, targets)
    loss.backward()
    assert items[0] == 0 and items[2] == 0 and items[1] > 0 and items.isfinite().all()
    assert all(level.grad[..., :4].abs().max() == 0 and level.grad[..., 4].abs().max() > 0 for level in p)


@pytest.mark.parametrize("rule", RULES)
def test_300_objects_in_a_picture(rule):
    g = torch.Generator().manual_seed(0)
    p = [torch.randn(1, 3, n, n, 8, generator=g).requires_grad_() for n in (80, 40, 20)]
    targets = torch.rand(300, 6, generator=g) * torch.tensor([0, 3, 1, 1, 0.3, 0.3])
    targets[:, 1].floor_()
    loss, items = ComputeLoss(make_model(nc=3, assigner=rule))(p, targets)
    loss.backward()
    assert items.isfinite().all() and all(level.grad.isfinite().all() for level in p)


@pytest.mark.parametrize("quality, wanted", [(0.6, 0.6), (0.25, 0.25), (-0.3, 0.0)])
def test_objectness_target_is_the_quality_of_the_box(quality, wanted):
    """The gradient at a logit of 0 is 0.5 - target, over the level's locations and times its weight; 0.5 elsewhere."""
    model = make_model()
    targets = torch.tensor([[0, 0, 0.5625, 0.5625, 10 / 64, 13 / 64]])
    maps = [torch.zeros(1, 3, 64 // s, 64 // s).requires_grad_() for s in (8, 16, 32)]
    matches = assign([level[..., None] for level in maps], targets, model.model[0], model.hyp)
    m = sum(len(found) for found in matches)
    ComputeLoss(model).objectness_loss(maps, matches, torch.full((m,), quality)).backward()
    gradient = maps[0].grad * maps[0].numel() / 4
    assert gradient[matches[0].location].tolist() == pytest.approx([0.5 - wanted] * len(matches[0]))
    assert gradient[0, 0, 0, 0].item() == pytest.approx(0.5)  # a location without a target


def test_a_gain_weighs_about_the_same_with_each_assigner():
    """The weights of the matches sum up to the number of levels, with `aligned` in the proportions of the scores."""
    p, targets = golden_inputs()
    for rule in ("ratio", *RULES):
        compute_loss = ComputeLoss(make_model(assigner=rule))
        matches = assign(p, targets, compute_loss.head, compute_loss.hyp)
        weights = compute_loss.weights(matches)
        assert weights.sum().item() == pytest.approx(3, rel=1e-4), rule
    scores = torch.cat([found.scores for found in matches])
    torch.testing.assert_close(weights, scores * 3 / scores.sum())


@pytest.mark.parametrize("hyp", OPTIONS, ids=str)
def test_segmentation_takes_each_option(hyp):
    """The detection terms are the detection loss's, and the shares of an image's locations are the number of levels."""
    p, boxes = golden_inputs()
    model = make_model(nc=76, **hyp)
    model.model[0].nm = 4
    boxes[:, 1] %= 76
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    masks = torch.ones(2, 20, 20, dtype=torch.uint8)
    targets = SimpleNamespace(boxes=boxes, masks=masks, overlap=True, has_mask=torch.arange(60) % 5 > 0)
    protos = torch.randn(2, 4, 20, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    compute_loss = ComputeSegmentLoss(model)
    loss, items = compute_loss((p, protos), targets)
    loss.backward()
    assert items[[0, 2, 3]].tolist() == ComputeLoss(model)(p, boxes)[1].tolist()
    assert items[1] > 0 and all(x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in (*p, protos))
    image, target, coefficients, share = compute_loss.positives(p, targets)
    assert targets.has_mask[target].all() and coefficients.shape == (len(target), 4)
    for i in range(2):
        assert share[image == i].sum().item() == pytest.approx(3, rel=1e-4)


def overfit(hyp, steps=150):
    """Optimise the raw maps of two 64 px pictures with a few random rectangles; (losses, boxes found, targets)."""
    g = torch.Generator().manual_seed(3)
    anchors = [[8, 8, 12, 12, 16, 16], [20, 20, 26, 26, 32, 32], [40, 40, 48, 48, 60, 60]]
    head = Detect(2, anchors, (21, 21, 21))
    head.set_stride(torch.tensor([8.0, 16.0, 32.0]))
    for conv in head.m:  # the features are the raw maps
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    start = torch.tensor([0, 0, 0, 0, -4.0, 0, 0]).repeat(3).view(1, 21, 1, 1)
    features = [(start + 0.1 * torch.randn(2, 21, 64 // s, 64 // s, generator=g)).requires_grad_() for s in (8, 16, 32)]
    targets = torch.rand(6, 6, generator=g)
    targets[:, 0] = torch.tensor([0, 0, 0, 1, 1, 1])
    targets[:, 1] = torch.tensor([0, 1, 0, 1, 0, 1])
    targets[:, 2:4] = torch.tensor([[0.25, 0.25], [0.72, 0.3], [0.4, 0.75]]).repeat(2, 1) + targets[:, 2:4] * 0.03
    targets[:, 4:] = 0.1 + targets[:, 4:] * 0.3
    compute_loss = ComputeLoss(SimpleNamespace(model=[head], hyp={**HYP, **hyp}))
    optimizer, losses = torch.optim.Adam(features, lr=0.1), []
    for _ in range(steps):
        loss, _ = compute_loss(head(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        found = non_max_suppression(head.eval()(features)[0], conf_thres=0.25, iou_thres=0.5, agnostic=True)
    return losses, found, targets


@pytest.mark.parametrize("hyp", OPTIONS, ids=str)
def test_each_option_learns_two_pictures_by_heart(hyp):
    losses, found, targets = overfit(hyp)
    assert losses[-1] < losses[0] / 2
    for image, boxes in enumerate(found):
        wanted = targets[targets[:, 0] == image]
        iou = box_iou(boxes[:, :4], xywh2xyxy(wanted[:, 2:] * 64))
        right = iou * (boxes[:, 5:6] == wanted[:, 1])
        assert len(boxes) == len(wanted) and right.amax(0).min() > 0.8, right
