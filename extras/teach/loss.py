"""The losses of a student: a detector's boxes as soft targets, and feature maps compared by their correlation.

Student and teacher may differ in anchors, strides and levels, so a teacher's box goes to the student's cell whose own
box is nearest to it, and there objectness and classes follow the teacher's values (soft targets: arXiv 1503.02531).
Maps are compared by Pearson's correlation of their channels, which knows no scale (PKD, arXiv 2207.02039).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from utils.boxes import bbox_iou

# The labels' loss weights objectness by its levels' weights, whose sum is 5, and lets about ten cells answer for an
# object where here it is one.
OBJECTNESS_WEIGHT = 5.0 * 10
LEAST_NORM = 1e-3  # for a channel's deviations: a constant one must not get a huge gradient


@dataclass
class SoftBoxes:
    """n boxes of a teacher, in any order.

    image [n] the image's number in the batch; boxes [n, 4] xywh normalised; confidence [n]; objectness [n];
    classes [n, m] the probabilities of the m classes that student and teacher share.
    """

    image: torch.Tensor
    boxes: torch.Tensor
    confidence: torch.Tensor
    objectness: torch.Tensor
    classes: torch.Tensor


def decode(rows: torch.Tensor, anchors: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Raw outputs [..., no], anchors [..., 2] and cells [..., 2] (column, row) -> boxes [..., 4] xywh in cells."""
    s = rows[..., :4].float().sigmoid()
    return torch.cat([s[..., :2] * 2 - 0.5 + cells, (s[..., 2:] * 2) ** 2 * anchors], -1)


@torch.no_grad()
def nearest_cells(maps, anchors, image, boxes, ratio_limit: float) -> torch.Tensor:
    """Find where a student's own box has the highest IoU with each of the given boxes.

    maps: raw outputs [B, na, ny, nx, no] of each level; anchors [levels, na, 2] in cells; image [n]; boxes [n, 4] xywh
    normalised. The candidates can answer for a box: its centre is within their reach, and no side of the anchor is
    ratio_limit times the box's or more, nor the other way round.
    Returns level, anchor, row and column [4, n] int64; -1 for a box without a candidate.
    """
    best, found = boxes.new_full((len(boxes),), -1.0), image.new_full((4, len(boxes)), -1)
    corners = image.new_tensor([(0, 0), (1, 0), (0, 1), (1, 1)])
    for level, raw in enumerate(maps):
        na, ny, nx = raw.shape[1:4]
        target = boxes * boxes.new_tensor([nx, ny, nx, ny])
        # A cell's own box has its centre -0.5 to 1.5 cells from the cell's corner: two columns and two rows reach it.
        cells = (target[:, None, :2] + 0.5).floor().long() - 1 + corners  # [n, 4, 2]
        inside = ((cells >= 0) & (cells < cells.new_tensor([nx, ny]))).all(-1)
        column, row = cells.clamp(min=0).minimum(cells.new_tensor([nx - 1, ny - 1])).unbind(-1)
        ratio = target[:, None, 2:] / anchors[level]
        like_shape = torch.maximum(ratio, 1 / ratio).amax(-1) < ratio_limit  # [n, na]
        anchor = torch.arange(na, device=raw.device)
        rows = raw[..., :4][image[:, None, None], anchor[:, None], row[:, None], column[:, None]]  # [n, na, 4, 4]
        own = decode(rows, anchors[level][:, None], torch.stack([column, row], -1)[:, None])
        iou = bbox_iou(own, target[:, None, None])
        iou = iou.masked_fill(~(like_shape[:, :, None] & inside[:, None]), -1.0).flatten(1)
        highest, k = iou.max(1)
        here = [torch.full_like(k, level), k // 4, *(x.gather(1, k[:, None] % 4)[:, 0] for x in (row, column))]
        better = highest > best
        best, found = torch.where(better, highest, best), torch.where(better, torch.stack(here), found)
    return found


def detections_loss(maps, anchors, hyp: dict, soft: SoftBoxes, classes: torch.Tensor) -> torch.Tensor:
    """Return the loss of a student's raw outputs [B, na, ny, nx, no] against a teacher's boxes: a float32 scalar.

    anchors [levels, na, 2] in cells; hyp: box, obj, cls and anchor_t as the labels' loss takes them; classes [m]: the
    student's number of each shared class. Boxes count by their confidence. Each term is a divergence: 0 where the
    student says the same as the teacher. None of them touches a cell that no box of the teacher goes to.
    """
    levels, nc = len(maps), maps[0].shape[-1] - 5
    nearest = nearest_cells(maps, anchors, soft.image, soft.boxes, hyp["anchor_t"])
    rows, ious, order = [], [], []
    for level, raw in enumerate(maps):
        chosen = (nearest[0] == level).nonzero()[:, 0]
        _, anchor, row, column = nearest[:, chosen]
        rows.append(raw[soft.image[chosen], anchor, row, column].float())
        own = decode(rows[-1], anchors[level][anchor], torch.stack([column, row], -1))
        size = soft.boxes.new_tensor([raw.shape[3], raw.shape[2]]).repeat(2)
        ious.append(bbox_iou(own, soft.boxes[chosen] * size, CIoU=True))
        order.append(chosen)
    rows, order = torch.cat(rows), torch.cat(order)
    if not len(order):
        return maps[0].new_zeros((), dtype=torch.float32)
    part = soft.confidence[order] / soft.confidence[order].sum()
    # The gains are made for sums over the levels.
    box = ((1 - torch.cat(ious)) * part).sum() * levels
    cls = (divergence(rows[:, 5 + classes], soft.classes[order]).sum(1) * part).sum() * levels / nc
    cells = sum(raw[..., 0].numel() for raw in maps)
    obj = divergence(rows[:, 4], soft.objectness[order]).sum() * OBJECTNESS_WEIGHT / cells
    return hyp["box"] * box + hyp["obj"] * obj + (hyp["cls"] * cls if nc > 1 else 0)


def divergence(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of Bernoulli variables, element by element: `wanted` (0..1) to logits."""
    entropy = torch.special.entr(wanted) + torch.special.entr(1 - wanted)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") - entropy


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation [C] of the channels of maps [B, C, h, w], over images and cells.

    It is 0 for a constant channel.
    """
    a, b = (x.float().transpose(0, 1).flatten(1) for x in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1).clamp(min=LEAST_NORM) * b.norm(dim=1).clamp(min=LEAST_NORM))


def correlation_loss(own_maps: Sequence[torch.Tensor], teacher_maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return 1 - correlation, the mean over channels and pairs of maps [B, C, h, w]: a scalar from 0 to 2, float32.

    A pair's loss is half the mean squared error of maps normalised per channel. A teacher's map of another size
    (--multi-scale) is brought to the student's.
    """
    losses = []
    for own, other in zip(own_maps, teacher_maps):
        if other.shape[2:] != own.shape[2:]:
            other = F.interpolate(other, size=own.shape[2:], mode="bilinear", align_corners=False)
        losses.append(1 - correlation(own, other).mean())
    return torch.stack(losses).mean()


class FeatureAdapters(nn.ModuleList):
    """A 1x1 convolution for each pair of levels, from the student's channels to the teacher's."""

    def __init__(self, channels: list[tuple[int, int]], seed: int):
        """channels: (student's, teacher's) of each pair of levels. Where they are equal, it starts as the identity."""
        super().__init__(nn.Conv2d(*pair, 1, bias=False) for pair in channels)
        generator = torch.Generator().manual_seed(seed)  # the same start in every rank
        for conv in self:
            if conv.in_channels == conv.out_channels:
                nn.init.dirac_(conv.weight)
            else:
                nn.init.kaiming_uniform_(conv.weight, a=5**0.5, generator=generator)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [conv(own.float()) for conv, own in zip(self, maps)]
