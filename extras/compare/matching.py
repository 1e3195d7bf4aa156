"""The target that each prediction finds, by the COCO protocol, and AP from that for many weightings of the images.

The labels of this project have no crowds, so nothing is ignored as COCO ignores them.
"""

from typing import NamedTuple

import numpy as np

from utils.metrics import AREAS_PX2, IOU_THRESHOLDS, RECALLS, coco_matches, concatenate, is_counted

CHUNK = 2**22  # numbers in the largest array of class_ap


class ImageMatches(NamedTuple):
    """One image; the predictions are those that COCO counts, by falling confidence."""

    predictions: np.ndarray  # [n, 6] xyxy, confidence, class
    targets: np.ndarray  # [m, 5] class, xyxy
    target: np.ndarray  # [n, 10 IoU thresholds] number of the image's target that the prediction finds, -1 for none


def match_images(evidence) -> list[ImageMatches]:
    """Return the matches of every image of an extras.compare.records.Evidence."""
    found, image = concatenate(evidence.predictions, 6)
    true, image_of_true = concatenate(evidence.targets, 5)
    counted = is_counted(found, image)
    found, image, true = found[counted].astype(float), image[counted], true.astype(float)
    first = np.searchsorted(image_of_true, image)  # target of the prediction's image
    target = np.full((len(found), len(IOU_THRESHOLDS)), -1)
    for cls in np.unique(true[:, 0]):
        chosen, own = found[:, 5] == cls, np.flatnonzero(true[:, 0] == cls)
        match = coco_matches(found[chosen, :4], image[chosen], true[own, 1:], image_of_true[own], AREAS_PX2[:1])[:, 0]
        target[chosen] = np.where(match >= 0, own[match] - first[chosen, None], -1)
    images = np.arange(1, len(evidence.predictions) + 1)
    cuts, true_cuts = np.searchsorted(image, images), np.searchsorted(image_of_true, images)
    parts = np.split(found, cuts), np.split(true, true_cuts), np.split(target, cuts)
    return [ImageMatches(*part) for part in zip(*parts)][:-1]  # after the last cut there is nothing


def weighted_ap(matches: list[ImageMatches], weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes [k] that have targets, and their AP [r, k, 10 IoU thresholds] by the COCO protocol.

    weights: int [images, r], how often each image counts, for each of r samples. nan where a sample has no target of
    the class. With weights of 1 it is utils.metrics.coco_ap for boxes of any area.
    """
    cls, image, target = _predictions_in_order(matches)
    target_class = np.concatenate([np.zeros(0, int), *(m.targets[:, 0].astype(int) for m in matches)])
    target_image = np.repeat(np.arange(len(matches)), [len(m.targets) for m in matches])
    classes = np.unique(target_class)
    ap = np.empty((weights.shape[1], len(classes), len(IOU_THRESHOLDS)))
    for k, number in enumerate(classes):
        chosen = cls == number
        n_targets = np.bincount(target_image[target_class == number], minlength=len(matches)) @ weights
        ap[:, k] = class_ap(image[chosen], target[chosen] >= 0, n_targets, weights)
    return classes, ap


def _predictions_in_order(matches: list[ImageMatches]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class [N], image [N] and target [N, 10] of all predictions, by falling confidence."""
    predictions = np.concatenate([np.zeros((0, 6)), *(m.predictions for m in matches)])
    target = np.concatenate([np.zeros((0, len(IOU_THRESHOLDS)), int), *(m.target for m in matches)])
    image = np.repeat(np.arange(len(matches)), [len(m.predictions) for m in matches])
    order = np.argsort(-predictions[:, 4], kind="stable")
    return predictions[order, 5].astype(int), image[order], target[order]


def class_ap(image, correct, n_targets, weights) -> np.ndarray:
    """Return the AP [r, t] of one class for r samples and t IoU thresholds.

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
