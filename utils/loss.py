"""The detection loss: anchor matching, the three terms, and their weighted sum. Follows YOLOv5's published recipe."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from utils.boxes import bbox_iou

FOCAL_ALPHA = 0.25  # arXiv 1708.02002, section 5.1
AUTOBALANCE_RATE = 0.0001  # share of the newest batch in the balance's moving average
NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # own cell, left, top, right, bottom: (dx, dy) in cells


@dataclass
class Matches:
    """The m (cell, anchor) places of one level that answer for a target. A place may occur more than once."""

    place: tuple  # image, anchor, row, column: four [m] integer tensors that index a map [B, na, ny, nx, no]
    boxes: torch.Tensor  # [m, 4] target xywh in cells, centre relative to the place's cell
    anchors: torch.Tensor  # [m, 2] anchor width and height in cells
    classes: torch.Tensor  # [m] target class, integer
    targets: torch.Tensor  # [m] the target's row, integer

    def __len__(self):
        return len(self.classes)


def match_anchors(targets, anchors, grid_hw, ratio_limit):
    """Assign targets to the anchors of like shape, in the cell of their centre and in the two nearest neighbours.

    targets [n, 6]: image, class, xywh normalised. anchors [na, 2]: width, height in cells. An anchor is of like shape
    if no side is ratio_limit times the target's or more, nor the other way round. A neighbour counts if the centre lies
    in the half of its cell that is nearer to it, and the neighbour is inside the grid.
    """
    ny, nx = grid_hw
    size = targets.new_tensor([nx, ny])
    centres, sides = targets[:, 2:4] * size, targets[:, 4:6] * size
    cells = torch.minimum(centres.floor().clamp(min=0), size - 1)

    ratio = sides[None] / anchors[:, None]  # [na, n, 2]
    like_shape = torch.maximum(ratio, 1 / ratio).amax(2) < ratio_limit
    inside = centres - cells
    near_low = (inside < 0.5) & (cells >= 1)  # [n, 2] left, top
    near_high = (inside > 0.5) & (cells <= size - 2)  # [n, 2] right, bottom
    own = torch.ones_like(near_low[:, :1])
    near = torch.cat([own, near_low, near_high], 1).T  # [5, n] in the order of NEIGHBOURS

    direction, anchor, target = (near[:, None] & like_shape[None]).nonzero(as_tuple=True)
    cell = cells[target] + targets.new_tensor(NEIGHBOURS)[direction]
    column, row = cell.long().unbind(1)
    return Matches(
        place=(targets[target, 0].long(), anchor, row, column),
        boxes=torch.cat([centres[target] - cell, sides[target]], 1),
        anchors=anchors[anchor],
        classes=targets[target, 1].long(),
        targets=target,
    )


def decode_boxes(raw, anchors):
    """Raw outputs [m, 4] and anchors [m, 2] in cells -> xywh in cells, centre relative to the cell."""
    s = raw.sigmoid()
    return torch.cat([s[:, :2] * 2 - 0.5, (s[:, 2:] * 2) ** 2 * anchors], 1)


def last_of_each(keys):
    """Indices of the last occurrence of every value of keys [m], so that a later match overwrites an earlier one."""
    ordered, order = keys.sort(stable=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return order[is_last]


def binary_loss(logits, targets, positive_weight=1.0, focal_gamma=0.0):
    """Mean binary cross-entropy of logits; with focal_gamma > 0 the focal loss (arXiv 1708.02002, equation 5)."""
    weight = None if positive_weight == 1 else logits.new_tensor(positive_weight)
    if focal_gamma <= 0:
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
    loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    p = logits.sigmoid()
    p_true = targets * p + (1 - targets) * (1 - p)
    alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
    return (alpha * (1 - p_true) ** focal_gamma * loss).mean()


class ComputeLoss:
    """Loss of a detection model: callable as (maps, targets) -> (loss, items).

    Reads model.hyp (box, obj, cls, obj_pw, cls_pw, anchor_t; fl_gamma and label_smoothing if there) and the model's
    Detect head at every call, so that changed anchors or gains count at once. With autobalance, `balance` (the weight
    of each level's objectness, finest first) follows the losses while gradients are enabled.
    """

    def __init__(self, model, autobalance=False):
        if getattr(model, "hyp", None) is None:
            raise ValueError("the loss needs model.hyp, a mapping of hyperparameters; the model has none")
        self.model = model
        self.head = model.model[-1]
        self.autobalance = autobalance
        levels = self.head.nl
        self.balance = [4.0, 1.0, 0.4] if levels == 3 else [4.0, 1.0, 0.25, 0.06, 0.02][:levels]
        if len(self.balance) != levels:
            raise ValueError(f"the loss takes 1 to {len(self.balance)} detection levels, the model has {levels}")

    def __call__(self, p, targets):
        """p: for each level raw outputs [B, na, ny, nx, no]; targets [n, 6]: image, class, xywh normalised.

        Returns the weighted sum of the terms times B (a scalar), and the weighted terms [3], detached: box, objectness,
        class.
        """
        hyp = self.model.hyp
        terms = self.terms(p, targets)
        weighted = torch.stack([terms[name] * hyp[name] for name in ("box", "obj", "cls")])
        return weighted.sum() * p[0].shape[0], weighted.detach()

    def terms(self, p, targets):
        """The unweighted losses {"box", "obj", "cls"}, each a float32 scalar, summed over the levels."""
        zero = p[0].new_zeros((), dtype=torch.float32)
        terms = {"box": zero, "obj": zero, "cls": zero}
        obj_losses = []
        for level, raw in enumerate(p):
            anchors = self.head.anchors[level].float().to(raw.device)
            matches = match_anchors(targets.float(), anchors, raw.shape[2:4], self.model.hyp["anchor_t"])
            quality = raw.new_zeros(0, dtype=torch.float32)
            if len(matches):
                rows = raw[matches.place].float()  # [m, no]
                iou = bbox_iou(decode_boxes(rows[:, :4], matches.anchors), matches.boxes, CIoU=True)
                terms["box"] = terms["box"] + (1 - iou).mean()
                terms["cls"] = terms["cls"] + self.class_loss(rows, matches.classes)
                quality = iou.detach().clamp(min=0)
            obj_losses.append(self.objectness_loss(raw, matches, quality))
        terms["obj"] = sum(loss * weight for loss, weight in zip(obj_losses, self.balance))
        if self.autobalance and torch.is_grad_enabled():
            self.rebalance(obj_losses)
        return terms

    def objectness_loss(self, raw, matches, quality):
        """Loss of every place's objectness against `quality` (CIoU) where matched, and 0 elsewhere."""
        hyp = self.model.hyp
        wanted = torch.zeros(raw.shape[:4], dtype=torch.float32, device=raw.device)
        _, na, ny, nx = wanted.shape
        image, anchor, row, column = matches.place
        flat = ((image * na + anchor) * ny + row) * nx + column
        winners = last_of_each(flat)
        wanted.view(-1)[flat[winners]] = quality[winners]
        return binary_loss(raw[..., 4].float(), wanted, hyp["obj_pw"], hyp.get("fl_gamma", 0.0))

    def class_loss(self, rows, classes):
        """Loss of the class logits of matched rows [m, no]; zero for a model of one class."""
        hyp, nc = self.model.hyp, self.head.nc
        if nc == 1:
            return rows.new_zeros(())
        smoothing = hyp.get("label_smoothing", 0.0)
        wanted = torch.full((len(rows), nc), 0.5 * smoothing, device=rows.device)
        wanted.scatter_(1, classes[:, None], 1 - 0.5 * smoothing)
        return binary_loss(rows[:, 5 : 5 + nc], wanted, hyp["cls_pw"], hyp.get("fl_gamma", 0.0))

    def rebalance(self, obj_losses):
        """Move `balance` towards the inverse of each level's objectness loss, with the level of stride 16 kept at 1."""
        rate = AUTOBALANCE_RATE
        inverse = [1 / max(loss.item(), 1e-9) for loss in obj_losses]
        moved = [old * (1 - rate) + rate * new for old, new in zip(self.balance, inverse)]
        reference = min(range(len(moved)), key=lambda i: abs(float(self.head.stride[i]) - 16))
        self.balance = [value / moved[reference] for value in moved]
