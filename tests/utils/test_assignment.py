"""Which locations answer for which targets: cells and shapes by hand, SimOTA and task alignment against plain loops."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from utils.assignment import (
    ALIGNED_TOP,
    RULES,
    SIMOTA_TOP,
    assign,
    candidate_locations,
    last_of_each,
    location_numbers,
    match_anchors,
    rank_in_group,
)
from utils.boxes import bbox_iou

ANCHORS_PX = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
PREDICTIVE = sorted(RULES)  # the rules that look at the predictions


def make_head(nc=3, levels=3):
    """What assignment reads of a Detect head; strides 8, 16, 32."""
    stride = torch.tensor([8.0 * 2**i for i in range(levels)])
    anchors = torch.tensor(ANCHORS_PX[:levels], dtype=torch.float32) / stride.view(-1, 1, 1)
    return SimpleNamespace(nl=levels, na=3, nc=nc, anchors=anchors, stride=stride)


def make_maps(nc=3, images=2, height=64, width=96, levels=3, seed=None):
    """Raw outputs for images of this many px: zeros, which predict the anchors, or random ones."""
    shapes = [(images, 3, height // s, width // s, 5 + nc) for s in (8, 16, 32)[:levels]]
    if seed is None:
        return [torch.zeros(shape) for shape in shapes]
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) for shape in shapes]


def random_targets(seed, n, nc=3, images=2, least=0.03):
    t = torch.rand(n, 6, generator=torch.Generator().manual_seed(seed))
    t[:, 0], t[:, 1] = (t[:, 0] * images).floor(), (t[:, 1] * nc).floor()
    t[:, 4:] = least + t[:, 4:] ** 2 * 0.7
    return t


def chosen_locations(matches) -> set:
    """{(target, level, anchor, row, column)}"""
    found = set()
    for level, m in enumerate(matches):
        rows = zip(m.targets.tolist(), *(index.tolist() for index in m.location[1:]))
        found |= {(target, level, *location) for target, *location in rows}
    return found


@pytest.mark.parametrize(
    "xy, locations, corner",
    [
        ((3.5, 3.5), {(3, 3)}, set()),  # the middle has no nearer half
        ((3.2, 3.5), {(3, 3), (3, 2)}, set()),  # left
        ((3.8, 3.5), {(3, 3), (3, 4)}, set()),  # right
        ((3.2, 3.9), {(3, 3), (3, 2), (4, 3)}, {(4, 2)}),  # left and below
        ((3.8, 3.1), {(3, 3), (3, 4), (2, 3)}, {(2, 4)}),  # right and above
        ((3.1, 3.1), {(3, 3), (3, 2), (2, 3)}, {(2, 2)}),
        ((3.9, 3.9), {(3, 3), (3, 4), (4, 3)}, {(4, 4)}),
        ((0.2, 0.2), {(0, 0)}, set()),  # nothing beyond the top left
        ((7.8, 7.8), {(7, 7)}, set()),  # nothing beyond the bottom right
        ((0.2, 7.3), {(7, 0), (6, 0)}, set()),
        ((8.0, 8.0), {(7, 7)}, set()),  # a centre on the image's edge belongs to the last cell
        ((3.0, 3.5), {(3, 3), (3, 2)}, set()),  # on a border of two cells: each location once
    ],
)
def test_cells_of_a_target(xy, locations, corner):
    targets, anchors = torch.tensor([[0, 1, xy[0] / 8, xy[1] / 8, 2 / 8, 2 / 8]]), torch.tensor([[2.0, 2.0]])
    matches = match_anchors(targets, anchors, (8, 8), 4.0)
    (candidates,) = candidate_locations(targets, [anchors], [(8, 8)], 4.0)
    for found, expected in ((matches, locations), (candidates, locations | corner)):
        _, _, row, column = found.location
        assert sorted(zip(row.tolist(), column.tolist())) == sorted(expected)
        centres = found.boxes[:, :2] + torch.stack([column, row], 1)
        torch.testing.assert_close(centres, torch.tensor([xy]).expand_as(centres))
        at_most_edge = 1 if 8.0 in xy else 1.5  # the reach of the decoded centre, whose sigmoid is 0 to 1
        assert found.boxes[:, :2].min() >= -0.5 and found.boxes[:, :2].max() <= at_most_edge


@pytest.mark.parametrize(
    "wh, matched",
    [((2, 2), True), ((7.9, 2), True), ((8, 2), False), ((2, 0.51), True), ((2, 0.5), False), ((0, 0), False)],
)
def test_shape_limit(wh, matched):
    """A side of 4 times the anchor's (or a quarter) is out, a little less is in; a box without area matches nothing."""
    targets = torch.tensor([[0, 0, 0.5625, 0.5625, wh[0] / 8, wh[1] / 8]])
    assert bool(len(match_anchors(targets, torch.tensor([[2.0, 2.0]]), (8, 8), 4.0))) == matched


@pytest.mark.parametrize(
    "wh_px, expected",
    [
        ((20, 20), {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}),  # (level, anchor) of like shape on two levels
        ((2, 3), {(0, 0)}),  # tinier than a quarter of any anchor, and than a cell: the nearest one
        ((60, 2), {(0, 0)}),  # flatter than any: 6.5 times less high than 10 x 13, the others more
        ((0, 0), set()),
    ],
)
def test_a_target_that_no_anchor_is_like_gets_the_nearest(wh_px, expected):
    targets = torch.tensor([[0, 0, 0.5, 0.5, wh_px[0] / 96, wh_px[1] / 64]])
    head = make_head()
    found = candidate_locations(targets, list(head.anchors), [(8, 12), (4, 6), (2, 3)], 4.0)
    assert {(level, anchor) for _, level, anchor, *_ in chosen_locations(found)} == expected


def test_last_of_each():
    assert sorted(last_of_each(torch.tensor([5, 3, 5, 3, 9])).tolist()) == [2, 3, 4]
    assert last_of_each(torch.zeros(0, dtype=torch.long)).tolist() == []


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf]), st.integers(0, 4)), max_size=20))
def test_rank_in_group(pairs):
    values, groups = torch.tensor([v for v, _ in pairs]), torch.tensor([g for _, g in pairs], dtype=torch.long)
    expected = [sum(h == g and (w, j) < (v, i) for j, (w, h) in enumerate(pairs)) for i, (v, g) in enumerate(pairs)]
    assert rank_in_group(values, groups).tolist() == expected


def plain_candidates(maps, head, targets):
    """[(target, level, anchor, row, column, row of outputs, IoU)], cell by cell."""
    found = []
    for t, (image, _, x, y, w, h) in enumerate(targets.tolist()):
        shapes = {}
        for level, raw in enumerate(maps):
            ny, nx = raw.shape[2:4]
            for a, (aw, ah) in enumerate(head.anchors[level].tolist()):
                shapes[level, a] = max(w * nx / aw, aw / (w * nx), h * ny / ah, ah / (h * ny))
        for (level, a), ratio in shapes.items():
            if ratio >= 4 and ratio > min(shapes.values()):
                continue
            raw, anchor = maps[level], head.anchors[level][a]
            ny, nx = raw.shape[2:4]
            for row in range(ny):
                for column in range(nx):
                    dx, dy = x * nx - column, y * ny - row
                    if not (-0.5 < dx < 1.5 and -0.5 < dy < 1.5):
                        continue
                    out = raw[int(image), a, row, column]
                    s = out[:4].sigmoid()
                    box = torch.cat([s[:2] * 2 - 0.5, (2 * s[2:]) ** 2 * anchor])
                    iou = bbox_iou(box, torch.tensor([dx, dy, w * nx, h * ny])).item()
                    found.append((t, level, a, row, column, out, iou))
    return found


def plain_rule(rule, maps, head, targets):
    """{(target, level, anchor, row, column): score} by SimOTA or task alignment, target by target."""
    takers = {}  # location: [(cost, target, candidate's value and IoU)]
    for t, (image, cls, *_) in enumerate(targets.tolist()):
        costs = []
        for owner, *location, out, iou in plain_candidates(maps, head, targets[: t + 1]):
            if owner != t:
                continue
            if rule == "simota":
                wanted = F.one_hot(torch.tensor(int(cls)), head.nc).float()
                cost = F.binary_cross_entropy_with_logits(out[5:], wanted, reduction="sum").item()
                costs.append(((cost if head.nc > 1 else 0) - 3 * math.log(iou + 1e-8), (int(image), *location), 1, iou))
            else:
                iou = max(iou, 0.05)
                p = out[4].sigmoid() * (out[5 + int(cls)].sigmoid() if head.nc > 1 else 1)
                costs.append((-p.item() * iou**6, (int(image), *location), p.item() * iou**6, iou))
        ious = sorted((iou for *_, iou in costs), reverse=True)
        k = max(int(sum(ious[:SIMOTA_TOP]) + 1e-6), 1) if rule == "simota" else ALIGNED_TOP
        for cost, location, value, iou in sorted(costs, key=lambda entry: entry[0])[:k]:
            takers.setdefault(location, []).append((cost, t, value, iou))
    kept = {}
    for location, entries in takers.items():
        _, t, value, iou = min(entries)
        kept.setdefault(t, []).append((location, value, iou))
    scores = {}
    for t, entries in kept.items():
        largest, best_iou = max(value for _, value, _ in entries), max(iou for *_, iou in entries)
        for (_, *location), value, _ in entries:
            scores[(t, *location)] = 1.0 if rule == "simota" else value / largest * best_iou
    return scores


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 7), nc=st.sampled_from([1, 3]), rule=st.sampled_from(PREDICTIVE))
def test_equals_the_plain_loops(seed, n, nc, rule):
    head, maps, targets = make_head(nc), make_maps(nc, seed=seed), random_targets(seed, n, nc)
    targets[: n // 2, 2:] = targets[n - n // 2 :, 2:]  # pairs of one box compete for their locations
    matches = assign(maps, targets, head, {"anchor_t": 4.0, "assigner": rule})
    expected = plain_rule(rule, maps, head, targets)
    assert chosen_locations(matches) == set(expected)
    if rule == "aligned":
        for level, m in enumerate(matches):
            keys = zip(m.targets.tolist(), [level] * len(m), *(index.tolist() for index in m.location[1:]))
            torch.testing.assert_close(m.scores, torch.tensor([expected[key] for key in keys]), rtol=1e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 40), rule=st.sampled_from(PREDICTIVE))
def test_properties(seed, n, rule):
    """Each location has one target, of its image and class; scores are in 0..1; the same input gives the same."""
    head, maps, targets = make_head(), make_maps(seed=seed), random_targets(seed, n)
    hyp = {"anchor_t": 4.0, "assigner": rule}
    matches = assign(maps, targets, head, hyp)
    numbers = location_numbers(maps, matches)
    assert len(numbers) == len(set(numbers.tolist()))
    for m in matches:
        assert torch.equal(m.location[0], targets[m.targets, 0].long())
        assert torch.equal(m.classes, targets[m.targets, 1].long())
        assert m.scores is None or (len(m.scores) == len(m) and ((m.scores >= 0) & (m.scores <= 1)).all())
    of_each = torch.bincount(torch.cat([m.targets for m in matches]), minlength=n)
    assert (of_each <= max(SIMOTA_TOP, ALIGNED_TOP)).all()
    assert chosen_locations(assign(maps, targets, head, hyp)) == chosen_locations(matches)


@pytest.mark.parametrize("rule", PREDICTIVE)
def test_two_targets_want_one_location(rule):
    """One anchor on one level, centres in the middle of one cell: the location is the one's that it predicts better."""
    head = SimpleNamespace(nl=1, na=1, nc=2, anchors=torch.tensor([[[2.0, 2.0]]]), stride=torch.tensor([8.0]))
    maps = [torch.zeros(1, 1, 4, 4, 7)]  # predicts a box of 2 x 2 cells in the middle of every cell
    near, far = [0, 0, 0.375, 0.375, 0.5, 0.5], [0, 1, 0.375, 0.375, 0.9, 0.9]
    for targets, winner in (([near, far], 0), ([far, near], 1)):
        (m,) = assign(maps, torch.tensor(targets), head, {"anchor_t": 4.0, "assigner": rule})
        assert m.targets.tolist() == [winner] and [index.item() for index in m.location] == [0, 0, 1, 1]


def test_simota_takes_as_many_locations_as_the_ious_sum_up_to():
    """Four cells of IoU 1 give k = 4; if only two of them predict the box, k = 2, and it is these two."""
    head = SimpleNamespace(nl=1, na=1, nc=1, anchors=torch.tensor([[[2.0, 2.0]]]), stride=torch.tensor([8.0]))
    maps = [torch.zeros(1, 1, 8, 8, 6)]
    target = torch.tensor([[0, 0, 3.25 / 8, 3.25 / 8, 2 / 8, 2 / 8]])
    for row, dy in ((3, 0.25), (2, 1.25)):
        for column, dx in ((3, 0.25), (2, 1.25)):
            maps[0][0, 0, row, column, :2] = torch.logit((torch.tensor([dx, dy]) + 0.5) / 2)  # predict the centre
    hyp = {"anchor_t": 4.0, "assigner": "simota"}
    (all_of_them,) = assign(maps, target, head, hyp)
    maps[0][0, 0, 2, :, 2:4] = -9  # boxes of almost no size
    (two,) = assign(maps, target, head, hyp)
    assert chosen_locations([all_of_them]) == {(0, 0, 0, row, column) for row in (2, 3) for column in (2, 3)}
    assert chosen_locations([two]) == {(0, 0, 0, 3, column) for column in (2, 3)}


@pytest.mark.parametrize("rule", ["simota", "aligned"])
def test_classes_and_scores_decide_between_equal_boxes(rule):
    """One level, three equal anchors: of equal boxes the one with the right class is the first choice."""
    head = SimpleNamespace(nl=1, na=3, nc=2, anchors=torch.full((1, 3, 2), 2.0), stride=torch.tensor([8.0]))
    maps = [torch.zeros(1, 3, 4, 4, 7)]
    maps[0][:, :, 1, 1, 2:4] = -0.6  # IoU about 0.5 for each, so that SimOTA takes one
    maps[0][:, 1, 1, 1, 6] = 2.0
    (m,) = assign(maps, torch.tensor([[0, 1, 0.375, 0.375, 0.5, 0.5]]), head, {"anchor_t": 4.0, "assigner": rule})
    if rule == "simota":
        assert m.location[1].tolist() == [1]
    else:
        assert m.scores.argmax() == m.location[1].tolist().index(1) and len(m) == 3
        iou = (2 / (1 + math.exp(0.6))) ** 4
        ratio = (1 + math.exp(-2)) / 2  # of the scores 0.5 * 0.5 and 0.5 * sigmoid(2)
        assert sorted(m.scores.tolist()) == pytest.approx([iou * ratio, iou * ratio, iou], rel=1e-4)


@pytest.mark.parametrize("rule", PREDICTIVE)
def test_every_lonely_target_has_a_location(rule):
    """Also tinier than a cell, at the border, flat, or where the prediction does not touch it."""
    boxes = [[0.5, 0.5, 0.01, 0.01], [0.0, 0.0, 0.2, 0.2], [1.0, 1.0, 0.3, 0.3], [0.5, 0.99, 0.9, 0.02]]
    targets = torch.tensor([[image, 0, *box] for image, box in enumerate(boxes)])
    maps = make_maps(images=len(boxes), seed=1)
    for raw in maps:
        raw[..., 2:4] = -9  # boxes of almost no size: IoU 0
    matches = assign(maps, targets, make_head(), {"anchor_t": 4.0, "assigner": rule})
    assert set(torch.cat([m.targets for m in matches]).tolist()) == set(range(len(boxes)))
    assert all(m.scores is None or m.scores.max() > 0 for m in matches if len(m))


def test_candidates_are_few_also_for_300_targets():
    """Locations for each target are bounded: memory does not grow with the 25,200 locations of a 640 px picture."""
    head = make_head()
    targets = random_targets(0, 300, images=1)
    found = candidate_locations(targets, list(head.anchors), [(80, 80), (40, 40), (20, 20)], 4.0)
    assert sum(len(m) for m in found) <= 300 * 4 * 9
    assert set(torch.cat([m.targets for m in found]).tolist()) == set(range(300))
