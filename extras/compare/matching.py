"""Which prediction stands for which target, by the COCO protocol, and AP from that for many weightings of the images.

The labels of this project have no crowds, so nothing is ignored as COCO ignores them.
"""

from typing import NamedTuple

import numpy as np

from utils.boxes import box_iou
from utils.metrics import IOU_THRESHOLDS

MAX_PREDICTIONS = 100  # of an image and class that COCO counts
RECALLS = np.linspace(0, 1, 101)  # at which precision is sampled
CHUNK = 2**22  # numbers in the largest array of class_ap


class ImageMatches(NamedTuple):
    """One image; the predictions are those that COCO counts, by falling confidence."""

    predictions: np.ndarray  # [n, 6] xyxy, confidence, class
    targets: np.ndarray  # [m, 5] class, xyxy
    target: np.ndarray  # [n, 10 IoU thresholds] number of the target that the prediction stands for, -1 for none


def match_images(evidence) -> list:
    """ImageMatches of every image of an extras.compare.records.Evidence."""
    return [match_image(*boxes) for boxes in zip(evidence.predictions, evidence.targets)]


def match_image(predictions, targets) -> ImageMatches:
    """COCO's greedy matching: predictions [n, 6], by falling confidence, each take the free target they overlap most.

    Of two targets with the same overlap the last is taken.
    """
    predictions, targets = counted(np.asarray(predictions, np.float64)), np.asarray(targets, np.float64)
    iou = box_iou(predictions[:, :4], targets[:, 1:], eps=1e-300)  # COCO adds nothing to the union
    iou[predictions[:, 5:6] != targets[None, :, 0]] = 0
    target = np.full((len(predictions), len(IOU_THRESHOLDS)), -1)
    taken = np.zeros((len(IOU_THRESHOLDS), len(targets)), bool)
    for i in np.flatnonzero(iou.max(1, initial=0) >= IOU_THRESHOLDS[0]):
        free = np.where(taken, 0, iou[i])
        best = len(targets) - 1 - free[:, ::-1].argmax(1)
        enough = np.flatnonzero(free.max(1) >= IOU_THRESHOLDS)
        target[i, enough] = best[enough]
        taken[enough, best[enough]] = True
    return ImageMatches(predictions, targets, target)


def counted(predictions):
    """The first MAX_PREDICTIONS of each class of an image's predictions [n, 6]."""
    classes, counts = np.unique(predictions[:, 5], return_counts=True)
    late = [np.flatnonzero(predictions[:, 5] == cls)[MAX_PREDICTIONS:] for cls in classes[counts > MAX_PREDICTIONS]]
    return np.delete(predictions, np.concatenate([np.zeros(0, int), *late]), axis=0)


def weighted_ap(matches: list, weights) -> tuple:
    """Classes [k] that have targets, and their AP [r, k, 10 IoU thresholds] by the COCO protocol.

    weights: int [images, r], how often each image counts, for each of r samples. nan where a sample has no target of
    the class. With weights of 1 it is utils.metrics.coco_ap for boxes of any area.
    """
    cls, confidence, image, target = _predictions_in_order(matches)
    target_class = np.concatenate([np.zeros(0, int), *(m.targets[:, 0].astype(int) for m in matches)])
    target_image = np.repeat(np.arange(len(matches)), [len(m.targets) for m in matches])
    classes = np.unique(target_class)
    ap = np.empty((weights.shape[1], len(classes), len(IOU_THRESHOLDS)))
    for k, number in enumerate(classes):
        chosen = cls == number
        n_targets = np.bincount(target_image[target_class == number], minlength=len(matches)) @ weights
        ap[:, k] = class_ap(image[chosen], target[chosen] >= 0, n_targets, weights)
    return classes, ap


def _predictions_in_order(matches: list) -> tuple:
    """Class [N], confidence [N], image [N] and target [N, 10] of all predictions, by falling confidence."""
    predictions = np.concatenate([np.zeros((0, 6)), *(m.predictions for m in matches)])
    target = np.concatenate([np.zeros((0, len(IOU_THRESHOLDS)), int), *(m.target for m in matches)])
    image = np.repeat(np.arange(len(matches)), [len(m.predictions) for m in matches])
    order = np.argsort(-predictions[:, 4], kind="stable")
    return predictions[order, 5].astype(int), predictions[order, 4], image[order], target[order]


def class_ap(image, correct, n_targets, weights) -> np.ndarray:
    """AP [r, t] of one class for r samples and t IoU thresholds.

    Predictions are by falling confidence: image [n], correct bool [n, t]. n_targets [r]. weights: int [images, r].

    Precision need only be known at the true positives: between them it falls, and COCO takes the highest precision at
    the same or a higher recall. A prediction that counts w times is w neighbours in COCO's list.
    """
    ap = np.zeros((len(n_targets), correct.shape[1]))
    relevant = np.flatnonzero(correct.any(1))
    correct = correct[relevant]
    step = max(CHUNK // max(len(image), 1), 1)
    for start in range(0, len(n_targets) if len(relevant) else 0, step):
        part = slice(start, start + step)
        weight = weights[image, part]
        seen = weight.cumsum(0, dtype=np.int32)[relevant]  # predictions up to each relevant one
        weight = weight[relevant]
        for j in range(correct.shape[1]):
            chosen = correct[:, j]
            found = weight[chosen].cumsum(0, dtype=np.int32)
            precision = found / np.maximum(seen[chosen], 1)
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            reached = np.searchsorted(RECALLS, found / np.maximum(n_targets[part], 1), side="right")  # points of recall
            ap[part, j] = (np.diff(reached, axis=0, prepend=0) * envelope).sum(0) / len(RECALLS)
    ap[n_targets == 0] = np.nan
    return ap
