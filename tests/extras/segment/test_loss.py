"""The segmentation loss: numbers worked out by hand, and a plain reference that goes from location to location."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from extras.segment.loss import ComputeSegmentLoss
from utils.loss import ComputeLoss, match_anchors

HYP = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}


def make_model(nc=3, nm=4, anchors_px=(((16, 16), (40, 20)), ((60, 60), (30, 90)))):
    """What the loss reads of a model: hyp, and a head with its anchors and strides (8, 16 ...)."""
    stride = torch.tensor([8.0 * 2**i for i in range(len(anchors_px))])
    anchors = torch.tensor(anchors_px, dtype=torch.float32) / stride.view(-1, 1, 1)
    head = SimpleNamespace(nl=len(stride), na=anchors.shape[1], nc=nc, nm=nm, anchors=anchors, stride=stride)
    return SimpleNamespace(model=[head], hyp=dict(HYP))


def make_targets(boxes, masks, overlap=True, has_mask=None):
    """What the loss reads of extras.segment.targets.MaskTargets."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    has_mask = torch.tensor([True] * len(boxes) if has_mask is None else has_mask, dtype=torch.bool)
    return SimpleNamespace(boxes=boxes, masks=masks, overlap=overlap, has_mask=has_mask)


def case_by_hand(logit=2.0, images=1):
    """32 x 32 px, one anchor on one level, one coefficient: every pixel of every mask has the same logit.

    The target is the middle 16 x 16 px, of whose 4 x 4 prototype pixels the left half belongs to the object. Its centre
    is the middle of a cell, so that one location answers for it.
    """
    model = make_model(nc=1, nm=1, anchors_px=(((16, 16),),))
    maps = [torch.zeros(images, 1, 4, 4, 7)]
    maps[0][..., 6] = logit
    maps[0].requires_grad_()
    protos = torch.ones(images, 1, 8, 8, requires_grad=True)
    masks = torch.zeros(images, 8, 8, dtype=torch.uint8)
    masks[0, :, :5] = 1  # columns 3 and 4 of the box's 3 to 6
    targets = make_targets([[0, 0, 20 / 32, 20 / 32, 16 / 32, 16 / 32]], masks)
    return ComputeSegmentLoss(model), maps, protos, targets


# cross-entropy of a logit of 2: 0.126928 where the mask is 1, 2.126928 where it is 0
OF_ONE, OF_ZERO = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))


def test_by_hand():
    compute_loss, maps, protos, targets = case_by_hand()
    loss, items = compute_loss((maps, protos), targets)
    assert items[1].item() == pytest.approx(0.05 * (OF_ONE + OF_ZERO) / 2, rel=1e-5)  # the gain of the box loss
    detection, expected = ComputeLoss(SimpleNamespace(model=[compute_loss.head]), compute_loss.hyp)(maps, targets.boxes)
    assert items[[0, 2, 3]].tolist() == expected.tolist()
    assert loss.item() == pytest.approx(detection.item() + items[1].item())
    assert items.shape == (4,) and not items.requires_grad


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda t: None, (OF_ONE + OF_ZERO) / 2),
        (lambda t: t.masks.fill_(1), OF_ONE),  # the whole box
        (lambda t: t.masks.fill_(2), OF_ZERO),  # another object's pixels
        (lambda t: t.has_mask.fill_(False), 0),  # only a box
        (lambda t: setattr(t, "overlap", False), (OF_ONE + OF_ZERO) / 2),  # one mask for each target
        (
            lambda t: setattr(t, "masks", t.masks.repeat_interleave(4, 1).repeat_interleave(4, 2)),
            (OF_ONE + OF_ZERO) / 2,
        ),
        (lambda t: setattr(t, "masks", t.masks.to(torch.int16)), (OF_ONE + OF_ZERO) / 2),  # more than 255 objects
        # a box of a quarter of a prototype's pixel with that pixel's centre in it counts as a whole pixel
        (lambda t: t.boxes.copy_(torch.tensor([[0, 0, 18 / 32, 18 / 32, 2 / 32, 2 / 32]])), OF_ONE),
    ],
)
def test_mask_loss_by_hand(change, expected):
    compute_loss, maps, protos, targets = case_by_hand()
    compute_loss.hyp["anchor_t"] = 9.0
    change(targets)
    assert compute_loss.mask_loss(maps, protos, targets).item() == pytest.approx(expected, rel=1e-5)


def test_mean_over_the_images():
    """Of two images the second has no object: the mask loss is half, times B as much as before."""
    (one, *first), (two, *second) = case_by_hand(), case_by_hand(images=2)
    assert two.mask_loss(*second).item() == pytest.approx(one.mask_loss(*first).item() / 2)


def random_case(seed, n, images=2, overlap=True, ratio=4):
    """A model with two levels, outputs for 64 x 96 px, and targets that lie in any order of the images."""
    g = torch.Generator().manual_seed(seed)
    model = make_model()
    maps = [torch.randn(images, 2, 64 // s, 96 // s, 12, generator=g).requires_grad_() for s in (8, 16)]
    protos = torch.randn(images, 4, 16, 24, generator=g).requires_grad_()
    boxes = torch.rand(n, 6, generator=g)
    boxes[:, 0], boxes[:, 1] = (boxes[:, 0] * images).floor().sort().values, (boxes[:, 1] * 3).floor()
    boxes[:, 4:] = 0.05 + boxes[:, 4:] ** 2 * 0.7
    has_mask = (torch.rand(n, generator=g) < 0.8).tolist()
    size = 64 // ratio, 96 // ratio
    if overlap:
        masks = torch.randint(0, 4, (images, *size), generator=g, dtype=torch.int16)
    else:
        masks = torch.randint(0, 2, (n, *size), generator=g, dtype=torch.uint8)
    return model, maps, protos, make_targets(boxes, masks, overlap, has_mask)


def reference_mask_loss(model, maps, protos, targets):
    """The definition, location by location."""
    total = torch.zeros(())
    for raw, anchors in zip(maps, model.model[0].anchors):
        losses = {}
        matches = match_anchors(targets.boxes, anchors, raw.shape[2:4], model.hyp["anchor_t"])
        for location, cls, target in zip(zip(*matches.location), matches.classes.tolist(), matches.targets.tolist()):
            image = int(targets.boxes[target, 0])
            assert image == location[0] and cls == targets.boxes[target, 1]
            if not targets.has_mask[target]:
                continue
            if targets.overlap:
                number = 1 + [i for i, row in enumerate(targets.boxes) if row[0] == image].index(target)
                truth = targets.masks[image] == number
            else:
                truth = targets.masks[target] == 1
            x, y, w, h = (targets.boxes[target, 2:] * torch.tensor([24, 16, 24, 16])).tolist()
            step_y, step_x = truth.shape[0] // 16, truth.shape[1] // 24
            summed = torch.zeros(())
            for row in range(16):
                columns = [c for c in range(24) if abs(c + 0.5 - x) < w / 2 and abs(row + 0.5 - y) < h / 2]
                if columns:
                    logits = raw[location][-4:] @ protos[image, :, row, columns]
                    wanted = truth[row * step_y + step_y // 2, [c * step_x + step_x // 2 for c in columns]]
                    summed = summed + F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="sum")
            losses.setdefault(image, []).append(summed / max(w * h, 1))
        total = total + sum((torch.stack(values).mean() for values in losses.values()), torch.zeros(()))
    return total / len(protos)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 6), overlap=st.booleans(), ratio=st.sampled_from([1, 2, 4]))
def test_equals_the_plain_reference(seed, n, overlap, ratio):
    """Loss and gradients; masks at the prototypes' size and finer, targets without a mask, boxes beyond the edge."""
    model, maps, protos, targets = random_case(seed, n, overlap=overlap, ratio=ratio)
    loss = ComputeSegmentLoss(model).mask_loss(maps, protos, targets)
    expected = reference_mask_loss(model, maps, protos, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    if expected.requires_grad:
        outputs = [*maps, protos]
        ours, theirs = (torch.autograd.grad(value, outputs, allow_unused=True) for value in (loss, expected))
        for actual, wanted, output in zip(ours, theirs, outputs):
            torch.testing.assert_close(
                actual, torch.zeros_like(output) if wanted is None else wanted, atol=1e-6, rtol=1e-4
            )


def test_gradients_reach_prototypes_and_coefficients_alone():
    model, maps, protos, targets = random_case(1, 8)
    targets.has_mask[:] = True
    ComputeSegmentLoss(model).mask_loss(maps, protos, targets).backward()
    assert protos.grad.abs().sum() > 0
    for raw in maps:
        assert raw.grad[..., :-4].abs().max() == 0 and raw.grad[..., -4:].abs().max() > 0


@pytest.mark.parametrize("n, why", [(0, "no objects"), (8, "no masks")])
def test_without_masks(n, why):
    """The detection loss alone, exactly; the prototypes still take part, with gradients of zero."""
    model, maps, protos, targets = random_case(2, n)
    targets.has_mask[:] = False
    loss, items = ComputeSegmentLoss(model)((maps, protos), targets)
    expected, detection = ComputeLoss(model)(maps, targets.boxes)
    assert loss.item() == expected.item() and items[[0, 2, 3]].tolist() == detection.tolist() and items[1] == 0, why
    loss.backward()
    assert protos.grad.abs().max() == 0 and all(raw.grad.isfinite().all() for raw in maps)


def test_half_precision_outputs():
    model, maps, protos, targets = random_case(3, 6)
    compute_loss = ComputeSegmentLoss(model)
    full, half = (
        compute_loss(([m.to(t) for m in maps], protos.to(t)), targets) for t in (torch.float32, torch.float16)
    )
    assert half[0].dtype == torch.float32 and half[1].tolist() == pytest.approx(full[1].tolist(), rel=5e-3)


def test_only_the_pixels_in_boxes_are_kept_for_the_backward_pass():
    """Float maps of all locations, three of them, would take 12 bytes for every pixel of every location."""
    model, maps, protos, targets = random_case(4, 60)
    targets.boxes[:, 4:] *= 0.3
    targets.has_mask[:] = True
    compute_loss, kept = ComputeSegmentLoss(model), {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute_loss.mask_loss(maps, protos, targets)
    locations = len(compute_loss.positives(maps, targets)[0])
    assert locations > 50 and sum(kept.values()) < 4 * locations * protos[0, 0].numel()
