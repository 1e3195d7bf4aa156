"""The segmentation loss: the detection loss, and one for the masks after YOLACT (arXiv 1904.02689, section 3)."""

import torch
from torch.nn import functional as F

from extras.segment.masks import box_pixels
from utils.assignment import assign, scores_of
from utils.boxes import xywh2xyxy
from utils.loss import ComputeLoss, ReadLocations


class ComputeSegmentLoss(ComputeLoss):
    """Loss of a segmentation model: callable as ((maps, prototypes), targets) -> (loss, items).

    `targets` are extras.segment.targets.MaskTargets: boxes [n, 6] (image, class, xywh normalised); masks, index maps
    [B, h, w] in which k > 0 is the k-th target of its image, or without `overlap` one mask [n, h, w] for each target;
    has_mask [n], False for a target that is only a box.
    """

    def __call__(self, outputs, targets, known=None):
        """outputs: maps [B, na, ny, nx, 5 + nc + nm] and prototypes [B, nm, h, w]; known as in detection.

        Returns the weighted sum of the terms times B (a scalar), and the weighted terms [4], detached: box, mask,
        objectness, class. The mask loss has the gain of the box loss.
        """
        maps, protos = outputs
        hyp = self.hyp
        matches = assign(maps, targets.boxes, self.head, hyp)
        terms = self.terms(maps, matches, known)
        terms["seg"] = self.mask_loss(maps, protos, targets, matches)
        gains = {"box": hyp["box"], "seg": hyp["box"], "obj": hyp["obj"], "cls": hyp["cls"]}
        weighted = torch.stack([terms[name] * gain for name, gain in gains.items()])
        return weighted.sum() * protos.shape[0], weighted.detach()

    def mask_loss(self, maps, protos, targets, matches=None):
        """Return the unweighted loss of the masks, a float32 scalar. `matches` of each level: found here if None.

        A positive location's loss is the binary cross-entropy of its mask's pixels inside the target's box, divided by
        the box's area. Of these the mean over the positives of each level and image, summed over the levels (see
        positives), and averaged over the images. Locations whose target has no mask are not looked at.
        """
        protos = protos.float()
        loss = (protos * 0).sum()  # every parameter has a gradient, also where nothing is matched
        image, target, coefficients, share = self.positives(maps, targets, matches)
        numbers = numbers_in_image(targets.boxes)
        counts = torch.bincount(image, minlength=len(protos)).tolist()
        for i, locations in enumerate(image.argsort(stable=True).split(counts)):
            if len(locations):
                rows = target[locations]
                truth = masks_of(targets, i, rows, numbers[rows], protos.shape[2:])
                logits = torch.einsum("kc,chw->khw", coefficients[locations], protos[i])
                loss = loss + cropped_loss(logits, truth, targets.boxes[rows, 2:6], share[locations])
        return loss / len(protos)

    def positives(self, maps, targets, matches=None):
        """Return the m locations, of all levels, that answer for a target with a mask.

        Returns image [m], row of the target [m], mask coefficients [m, nm], and the share of each in the loss of its
        image [m]: with the assigner `ratio` 1 / (such locations of the same level and image); with the others its score
        by those of the same image, times the number of levels.
        """
        if matches is None:
            matches = assign(maps, targets.boxes, self.head, self.hyp)
        matches = [found.take(targets.has_mask[found.targets], found.scores) for found in matches]
        coefficients, shares = [], []
        for raw, found in zip(maps, matches):
            coefficients.append(ReadLocations.apply(raw, *found.location)[0][:, -self.head.nm :].float())
            image = found.location[0]
            shares.append(1 / torch.bincount(image, minlength=len(raw))[image])
        share, image = torch.cat(shares), torch.cat([found.location[0] for found in matches])
        if self.hyp.get("assigner", "ratio") != "ratio":
            scores = scores_of(matches)
            of_image = torch.zeros(len(maps[0]), device=scores.device).index_add_(0, image, scores)
            share = scores * len(maps) / of_image.clamp(min=1)[image]
        return image, torch.cat([found.targets for found in matches]), torch.cat(coefficients), share


def numbers_in_image(boxes):
    """Return [n], counted from 1: the location of each row of boxes [n, 6] among the rows of its image."""
    image = boxes[:, 0]
    return (image[:, None] == image).tril().sum(1)


def masks_of(targets, image: int, rows, numbers, shape_hw):
    """Return the true masks bool [k, *shape_hw] of rows [k], which have these numbers [k] in their image."""
    masks = targets.masks[image][None] if targets.overlap else targets.masks[rows]
    if masks.shape[1:] != shape_hw:
        masks = F.interpolate(masks[:, None].float(), shape_hw, mode="nearest-exact")[:, 0]
    return masks == numbers[:, None, None] if targets.overlap else masks > 0


def cropped_loss(logits, truth, boxes_xywhn, weights):
    """Binary cross-entropy of logits [k, h, w] with bool masks, over the pixels in each one's box, by its area in px.

    Returns the sum over the k masks with these weights [k], a scalar. Only the pixels in the boxes, a small part of
    all, are kept for the backward pass.
    """
    h, w = logits.shape[1:]
    boxes_px = boxes_xywhn * boxes_xywhn.new_tensor([w, h, w, h])
    y, x = (torch.arange(size, device=logits.device) + 0.5 for size in (h, w))
    inside = box_pixels(xywh2xyxy(boxes_px), y, x)
    area_px = boxes_px[:, 2:].prod(1).clamp(min=1)  # A smaller box may still have one pixel's centre inside.
    weights = (weights / area_px).repeat_interleave(inside.sum((1, 2)))
    return F.binary_cross_entropy_with_logits(logits[inside], truth[inside].float(), weights, reduction="sum")
