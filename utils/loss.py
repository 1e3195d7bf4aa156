"""The detection loss: the three terms and their weighted sum. Follows YOLOv5's published recipe."""

import torch
from torch.nn import functional as F

from utils.assignment import assign, decode_boxes, last_of_each, location_numbers, scores_of
from utils.assignment import match_anchors as match_anchors  # some import it from here
from utils.boxes import bbox_iou
from utils.extras import lazy

__getattr__ = lazy({}, __name__)

FOCAL_ALPHA = 0.25  # arXiv 1708.02002, section 5.1


class ReadLocations(torch.autograd.Function):
    """(raw[location] [m, no], raw[..., 4] [B, na, ny, nx]) of raw outputs [B, na, ny, nx, no], in one gradient.

    It is written once, in the memory order of `raw`. Autograd alone would make a map for each of the two, add them, and
    reorder the sum for the convolution: with 80 classes that takes four fifths of the time of the whole loss.
    """

    @staticmethod
    def forward(ctx, raw, *location):
        ctx.save_for_backward(*location)
        ctx.form = torch.empty_like(raw, device="meta")  # shape and strides alone; raw itself need not be kept
        return raw[location], raw[..., 4].clone(memory_format=torch.contiguous_format)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_rows, of_objectness):
        location = ctx.saved_tensors
        grad = torch.zeros_like(ctx.form, device=of_rows.device)
        grad[..., 4] = of_objectness
        grad.index_put_(location, of_rows, accumulate=True)
        return (grad, *(None for _ in location))


def binary_loss(logits, targets, positive_weight=1.0, focal_gamma=0.0, weights=None):
    """Mean binary cross-entropy of logits; with focal_gamma > 0 the focal loss (arXiv 1708.02002, equation 5).

    With `weights` (they broadcast) the sum of the weighted losses instead.
    """
    positive = None if positive_weight == 1 else logits.new_tensor(positive_weight)
    if focal_gamma <= 0:
        reduction = "mean" if weights is None else "sum"
        return F.binary_cross_entropy_with_logits(logits, targets, weights, pos_weight=positive, reduction=reduction)
    loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive, reduction="none")
    p = logits.sigmoid()
    p_true = targets * p + (1 - targets) * (1 - p)
    alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
    loss = alpha * (1 - p_true) ** focal_gamma * loss
    return loss.mean() if weights is None else (loss * weights).sum()


class ComputeLoss:
    """Loss of a detection model: callable as (maps, targets) -> (loss, items).

    Args:
        model: a model that ends in a Detect head, whose anchors are read at every call.
        hyp: box, obj, cls, obj_pw, cls_pw, anchor_t, and if there fl_gamma, label_smoothing, assigner; by default
            model.hyp, as in YOLOv5. Read at every call, so that changed gains count at once.
    """

    def __init__(self, model, hyp: dict | None = None):
        self.hyp = getattr(model, "hyp", None) if hyp is None else hyp
        if self.hyp is None:
            raise ValueError("the loss needs model.hyp, a mapping of hyperparameters; the model has none")
        self.head = model.model[-1]
        levels = self.head.nl
        self.balance = [4.0, 1.0, 0.4] if levels == 3 else [4.0, 1.0, 0.25, 0.06, 0.02][:levels]
        if len(self.balance) != levels:
            raise ValueError(f"the loss takes 1 to {len(self.balance)} detection levels, the model has {levels}")

    def __call__(self, p, targets, known=None):
        """p: for each level raw outputs [B, na, ny, nx, no]; targets [n, 6]: image, class, xywh normalised.

        known: bool [B, nc], the classes of which all objects of an image are labelled; None: all of them.
        Returns the weighted sum of the terms times B (a scalar), and the weighted terms [3], detached: box, objectness,
        class.
        """
        hyp = self.hyp
        terms = self.terms(p, assign(p, targets, self.head, hyp), known)
        weighted = torch.stack([terms[name] * hyp[name] for name in ("box", "obj", "cls")])
        return weighted.sum() * p[0].shape[0], weighted.detach()

    def terms(self, p, matches, known=None):
        """Return the unweighted losses {"box", "obj", "cls"}, each a float32 scalar. `matches`: of each level.

        With `known` (as for the whole loss) a class that an image does not answer for is neither right nor wrong: it is
        left out of the class loss, and so is a location without a target where it is the most probable class.

        Box and class: with the assigner `ratio` the mean of each level's matches, summed over the levels; with the
        others the mean of all matches, weighted with their scores, times the number of levels. So a gain weighs about
        as much with all of them.
        """
        read = [ReadLocations.apply(raw, *found.location) for raw, found in zip(p, matches)]
        rows = torch.cat([of_level for of_level, _ in read]).float()  # [m, no]
        weights = self.weights(matches)
        boxes, anchors = (torch.cat([getattr(found, name) for found in matches]) for name in ("boxes", "anchors"))
        ciou = bbox_iou(decode_boxes(rows[:, :4], anchors), boxes, CIoU=True)
        quality = ciou.detach() if matches[0].scores is None else scores_of(matches)
        counted = of_image = None
        if known is not None:
            counted = [answered_locations(raw[..., 5 : 5 + self.head.nc], known) for raw in p]
            of_image = known[torch.cat([found.location[0] for found in matches])]
        return {
            "box": (weights * (1 - ciou)).sum(),
            "obj": self.objectness_loss([objectness.float() for _, objectness in read], matches, quality, counted),
            "cls": self.class_loss(rows, torch.cat([found.classes for found in matches]), weights, of_image),
        }

    def weights(self, matches):
        """Return [m] the part of each match in the box and class losses; the sum is the number of levels with some."""
        device = matches[0].boxes.device
        if self.hyp.get("assigner", "ratio") == "ratio":
            return torch.cat([torch.full((len(found),), 1 / max(len(found), 1), device=device) for found in matches])
        scores = scores_of(matches)
        return scores * (self.head.nl / scores.sum().clamp(min=1))

    def objectness_loss(self, maps, matches, quality, counted=None):
        """Return the loss of the objectness of every location, maps [B, na, ny, nx] of each level, a scalar.

        The target is the quality [m] at the matches and 0 elsewhere. The mean over a level's locations, weighted with
        `balance`. counted: bool, as `maps`, where a location without a match counts; None: everywhere.
        """
        hyp = self.hyp
        numbers = location_numbers(maps, matches)
        winners = last_of_each(numbers)
        wanted = torch.zeros(sum(level.numel() for level in maps), device=quality.device)
        wanted[numbers[winners]] = quality[winners].clamp(min=0)
        sizes = [level.numel() for level in maps]
        shares = [None] * len(maps)
        if counted is not None:
            weights = torch.cat([level.flatten() for level in counted]).float()
            weights[numbers] = 1
            shares = [part / size for part, size in zip(weights.split(sizes), sizes)]
        losses = [
            binary_loss(level.flatten(), target, hyp["obj_pw"], hyp.get("fl_gamma", 0.0), share)
            for level, target, share in zip(maps, wanted.split(sizes), shares)
        ]
        return sum(loss * weight for loss, weight in zip(losses, self.balance))

    def class_loss(self, rows, classes, weights, known=None):
        """Weighted sum of the losses of the class logits of matched rows [m, no]; zero for a model of one class.

        known: bool [m, nc], the classes that count; None: all.
        """
        hyp, nc = self.hyp, self.head.nc
        if nc == 1:
            return rows.new_zeros(())
        smoothing = hyp.get("label_smoothing", 0.0)
        wanted = torch.full((len(rows), nc), 0.5 * smoothing, device=rows.device)
        wanted.scatter_(1, classes[:, None], 1 - 0.5 * smoothing)
        logits = rows[:, 5 : 5 + nc]
        shares = weights[:, None] / nc if known is None else weights[:, None] / nc * known
        return binary_loss(logits, wanted, hyp["cls_pw"], hyp.get("fl_gamma", 0.0), shares)


def answered_locations(class_logits, known):
    """Return bool [B, na, ny, nx], whether the most probable class of a location is one that its image answers for.

    class_logits [B, na, ny, nx, nc], known bool [B, nc].
    """
    batch = torch.arange(len(known), device=known.device).view(-1, 1, 1, 1)
    return known[batch, class_logits.detach().argmax(-1)]
