"""Which locations of the anchor head answer for which target: YOLOv5's rule of shapes, SimOTA, and task alignment.

A location is one anchor in one cell of one level. What it predicts has its centre at most half a cell outside the cell,
and sides of less than 4 times the anchor's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from utils.boxes import bbox_iou

NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # own cell, left, top, right, bottom: (dx, dy) in cells
DIAGONALS = ((-1, -1), (1, -1), (-1, 1), (1, 1))  # left top, right top, left bottom, right bottom
SIMOTA_TOP = 10  # a target's best so many IoUs sum up to its number of locations (arXiv 2103.14259, section 3.3)
SIMOTA_IOU_WEIGHT = 3.0  # weight of -log IoU beside the class's cross-entropy
ALIGNED_TOP = 13  # locations of a target at most (arXiv 2108.07755, section 4.1), as are the powers
ALIGNED_SCORE_POWER, ALIGNED_IOU_POWER = 1.0, 6.0
LEAST_IOU = 0.05  # in the alignment: a target that no prediction touches yet is learnt all the same


@dataclass
class Matches:
    """The m (cell, anchor) locations of one level that answer for a target."""

    location: tuple  # image, anchor, row, column: four [m] integer tensors that index a map [B, na, ny, nx, no]
    boxes: torch.Tensor  # [m, 4] target xywh in cells, centre relative to the location's cell
    anchors: torch.Tensor  # [m, 2] anchor width and height in cells
    classes: torch.Tensor  # [m] target class, integer
    targets: torch.Tensor  # [m] the target's row, integer
    scores: torch.Tensor | None = None  # [m] in 0..1, how well a location does (aligned); None: all count alike

    def __len__(self):
        return len(self.classes)

    def take(self, kept: torch.Tensor, scores: torch.Tensor | None = None) -> Matches:
        """Return those of a bool mask [m], with these scores [m]."""
        return replace(
            self,
            location=tuple(index[kept] for index in self.location),
            boxes=self.boxes[kept],
            anchors=self.anchors[kept],
            classes=self.classes[kept],
            targets=self.targets[kept],
            scores=None if scores is None else scores[kept],
        )


def scores_of(matches):
    """Return [m] the scores of the matches of all levels, 1 where all count alike."""
    return torch.cat([f.anchors.new_ones(len(f)) if f.scores is None else f.scores for f in matches])


def assign(maps, targets, head, hyp) -> list[Matches]:
    """Return the matches of every level, by the rule hyp["assigner"]: ratio (the default), simota or aligned.

    maps: for each level raw outputs [B, na, ny, nx, no]; targets [n, 6]: image, class, xywh normalised. A location may
    answer for several targets with `ratio`, for one alone with the others.
    """
    targets = targets.float()
    anchors = [level.float().to(raw.device) for level, raw in zip(head.anchors, maps)]
    grids_hw = [raw.shape[2:4] for raw in maps]
    limit, rule = hyp["anchor_t"], hyp.get("assigner", "ratio")
    if rule == "ratio":
        return [match_anchors(targets, level, grid, limit) for level, grid in zip(anchors, grids_hw)]
    candidates = candidate_locations(targets, anchors, grids_hw, limit)
    return RULES[rule](maps, candidates, len(targets), head.nc)


def match_anchors(targets, anchors, grid_hw, ratio_limit):
    """Assign targets to the anchors of like shape, in the cell of their centre and in the two nearest neighbours.

    targets [n, 6]: image, class, xywh normalised. anchors [na, 2]: width, height in cells. An anchor is of like shape
    if no side is ratio_limit times the target's or more, nor the other way round. A neighbour counts if the centre lies
    in the half of its cell that is nearer to it, and the neighbour is inside the grid.
    """
    return locations_around(targets, anchors, grid_hw, shape_ratios(targets, anchors, grid_hw) < ratio_limit)


def shape_ratios(targets, anchors, grid_hw):
    """Return [na, n] the larger of the two ratios of sides of each anchor and target, at least 1."""
    ratio = targets[:, 4:6] * targets.new_tensor([grid_hw[1], grid_hw[0]]) / anchors[:, None]  # [na, n, 2]
    return torch.maximum(ratio, 1 / ratio).amax(2)


def locations_around(targets, anchors, grid_hw, like_shape, diagonals=False):
    """Match targets [n, 6] with the anchors of a bool mask like_shape [na, n], in the cells around their centres.

    With `diagonals` also in the cell between the two nearest neighbours.
    """
    ny, nx = grid_hw
    size = targets.new_tensor([nx, ny])
    centres, sides = targets[:, 2:4] * size, targets[:, 4:6] * size
    cells = torch.minimum(centres.floor().clamp(min=0), size - 1)

    inside = centres - cells
    near_low = (inside < 0.5) & (cells >= 1)  # [n, 2] left, top
    near_high = (inside > 0.5) & (cells <= size - 2)  # [n, 2] right, bottom
    own = torch.ones_like(near_low[:, :1])
    near, steps = [own, near_low, near_high], NEIGHBOURS  # [n, 5] in the order of NEIGHBOURS
    if diagonals:
        beside = torch.stack([near_low[:, 0], near_high[:, 0]], 1)  # left, right
        near += [beside & near_low[:, 1:], beside & near_high[:, 1:]]
        steps += DIAGONALS

    direction, anchor, target = (torch.cat(near, 1).T[:, None] & like_shape[None]).nonzero(as_tuple=True)
    cell = cells[target] + targets.new_tensor(steps)[direction]
    column, row = cell.long().unbind(1)
    return Matches(
        location=(targets[target, 0].long(), anchor, row, column),
        boxes=torch.cat([centres[target] - cell, sides[target]], 1),
        anchors=anchors[anchor],
        classes=targets[target, 1].long(),
        targets=target,
    )


def candidate_locations(targets, anchors, grids_hw, ratio_limit) -> list[Matches]:
    """Return each level's locations that could predict a target exactly: up to four cells times the like anchors.

    A target that no anchor of any level is like gets the nearest one, so that none is left out. At most 4 * na * nl
    locations for each target, whatever the size of the maps.
    """
    ratios = [shape_ratios(targets, level, grid) for level, grid in zip(anchors, grids_hw)]
    nearest = torch.cat(ratios).amin(0)
    fits = [(ratio < ratio_limit) | (ratio == nearest) & ratio.isfinite() for ratio in ratios]
    return [locations_around(targets, *level, diagonals=True) for level in zip(anchors, grids_hw, fits)]


def decode_boxes(raw, anchors):
    """Raw outputs [m, 4] and anchors [m, 2] in cells -> xywh in cells, centre relative to the cell."""
    s = raw.sigmoid()
    return torch.cat([s[:, :2] * 2 - 0.5, (s[:, 2:] * 2) ** 2 * anchors], 1)


def rank_in_group(values, groups):
    """Rank [m] of each of the values [m] among those of the same group [m] (integers); 0 is the smallest.

    Of equal values the first has the lower rank.
    """
    order = values.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]  # by group, and inside of it by value
    ordered = groups[order]
    starts_group = torch.ones_like(ordered, dtype=torch.bool)
    starts_group[1:] = ordered[1:] != ordered[:-1]
    start = starts_group.nonzero()[:, 0][starts_group.long().cumsum(0) - 1]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - start
    return rank


def last_of_each(keys):
    """Return the index of the last occurrence of every value of keys [m]: a later match overwrites an earlier one."""
    ordered, order = keys.sort(stable=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return order[is_last]


def location_numbers(maps, matches):
    """Return [m], for the matches of all levels in order, the number of each location among all of the maps."""
    numbers, first = [], 0
    for raw, found in zip(maps, matches):
        _, na, ny, nx = raw.shape[:4]
        image, anchor, row, column = found.location
        numbers.append(first + ((image * na + anchor) * ny + row) * nx + column)
        first += raw.shape[:4].numel()
    return torch.cat(numbers)


def _predictions(maps, candidates):
    """Return (rows [m, no] float32, IoU [m] with the target) of the candidates of all levels."""
    rows = torch.cat([raw[found.location].float() for raw, found in zip(maps, candidates)])
    anchors, boxes = (torch.cat([getattr(found, name) for found in candidates]) for name in ("anchors", "boxes"))
    return rows, bbox_iou(decode_boxes(rows[:, :4], anchors), boxes).clamp(0, 1)


def _one_target_each(chosen, costs, locations):
    """Return `chosen` [m] without those whose location another chosen one has at a lower cost."""
    return chosen & (rank_in_group(costs.masked_fill(~chosen, torch.inf), locations) == 0)


@torch.no_grad()
def simota(maps, candidates, n: int, nc: int) -> list[Matches]:
    """SimOTA (arXiv 2107.08430, section 2.1) among the candidates of n targets, over all levels together.

    A target takes its k cheapest locations, k the sum of its best IoUs, at least 1; of several targets that take one
    location the cheapest gets it. The cost is the cross-entropy of the classes (none if there is one) - 3 log IoU.
    """
    rows, iou = _predictions(maps, candidates)
    target, classes = (torch.cat([getattr(found, name) for found in candidates]) for name in ("targets", "classes"))
    cost = -SIMOTA_IOU_WEIGHT * (iou + 1e-8).log()
    if nc > 1:
        logits = rows[:, 5 : 5 + nc]
        cost += F.softplus(logits).sum(1) - logits.gather(1, classes[:, None])[:, 0]
    best = iou * (rank_in_group(-iou, target) < SIMOTA_TOP)
    wanted = torch.zeros(n, device=iou.device).index_add_(0, target, best).long().clamp(min=1)
    chosen = rank_in_group(cost, target) < wanted[target]
    chosen = _one_target_each(chosen, cost, location_numbers(maps, candidates))
    sizes = [len(found) for found in candidates]
    return [found.take(kept) for found, kept in zip(candidates, chosen.split(sizes))]


@torch.no_grad()
def task_aligned(maps, candidates, n: int, nc: int) -> list[Matches]:
    """Task alignment (arXiv 2108.07755, section 3.2) among the candidates of n targets, over all levels together.

    A target takes the locations of the largest t = score * IoU ** 6, the score being objectness times class; of several
    targets that take one location that of the largest t gets it. The matches' scores are t, normalised so that a
    target's largest is its largest IoU.
    """
    rows, iou = _predictions(maps, candidates)
    target, classes = (torch.cat([getattr(found, name) for found in candidates]) for name in ("targets", "classes"))
    score = rows[:, 4].sigmoid()
    if nc > 1:
        score *= rows[:, 5 : 5 + nc].gather(1, classes[:, None])[:, 0].sigmoid()
    iou = iou.clamp(min=LEAST_IOU)
    t = score**ALIGNED_SCORE_POWER * iou**ALIGNED_IOU_POWER
    chosen = rank_in_group(-t, target) < ALIGNED_TOP
    chosen = _one_target_each(chosen, -t, location_numbers(maps, candidates))
    scores = t * _largest(iou, chosen, target, n) / _largest(t, chosen, target, n).clamp(min=1e-30)
    sizes = [len(found) for found in candidates]
    return [found.take(*kept) for found, *kept in zip(candidates, chosen.split(sizes), scores.split(sizes))]


def _largest(values, chosen, target, n):
    """Return [m] for each value the largest chosen one of its target, 0 without any. values [m] are at least 0."""
    largest = torch.zeros(n, device=values.device)
    values = values * chosen
    first = rank_in_group(-values, target) == 0
    largest[target[first]] = values[first]
    return largest[target]


RULES = {"simota": simota, "aligned": task_aligned}
