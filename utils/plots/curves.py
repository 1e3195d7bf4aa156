"""True positives, precision, recall and F1 over confidence, and AP from them, after YOLOv5's recipe."""

from dataclasses import dataclass, field

import numpy as np

from utils.boxes import box_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CURVE_POINTS = 1000  # confidences (and recalls) at which curves are sampled
SMOOTHING = 0.1  # share of the confidence axis over which F1 is averaged before its maximum is looked up


def _no_curves() -> np.ndarray:
    return np.zeros((0, CURVE_POINTS))


@dataclass
class Curves:
    """Precision, recall and F1 of k classes at IoU 0.5 over confidence, and precision over recall; for plots."""

    x: np.ndarray = field(default_factory=lambda: np.linspace(0, 1, CURVE_POINTS))
    precision: np.ndarray = field(default_factory=_no_curves)  # [k, points]
    recall: np.ndarray = field(default_factory=_no_curves)
    f1: np.ndarray = field(default_factory=_no_curves)
    precision_at_recall: np.ndarray = field(default_factory=_no_curves)
    ap: np.ndarray = field(default_factory=lambda: np.zeros((0, len(IOU_THRESHOLDS))))  # [k, 10] YOLOv5's recipe


def match_predictions(predictions, targets) -> np.ndarray:
    """Return which predictions of an image are true positives: bool [n, 10], a column for each of IOU_THRESHOLDS.

    YOLOv5's rule: a prediction claims the target of its class that it overlaps most, and where several claim one
    target (with enough overlap), the first of them counts. Predictions are sorted by falling confidence.
    """
    iou = box_iou(predictions[:, :4], targets[:, 1:])
    iou[predictions[:, 5:6] != targets[None, :, 0]] = 0
    return match_by_iou(iou)


def match_by_iou(iou) -> np.ndarray:
    """Return match_predictions() for an IoU [n, m] of predictions with targets, 0 where the classes differ."""
    correct = np.zeros((len(iou), len(IOU_THRESHOLDS)), dtype=bool)
    if iou.size == 0:
        return correct
    target, overlap = iou.argmax(1), iou.max(1)
    row, column = np.nonzero(overlap[:, None] >= IOU_THRESHOLDS)
    first = np.full((iou.shape[1], len(IOU_THRESHOLDS)), -1)
    first[target[row[::-1]], column[::-1]] = row[
        ::-1
    ]  # Where several rows have one target, the last one written stays.
    where = np.nonzero(first >= 0)
    correct[first[where], where[1]] = True
    return correct


def precision_recall_curves(correct, confidence, predicted_class, classes, n_targets) -> Curves:
    """Return the curves of `classes` [k] with `n_targets` [k].

    correct: bool [N, 10], which predictions are true positives at each of IOU_THRESHOLDS; confidence [N];
    predicted_class [N].
    """
    curves = Curves()
    shape = (len(classes), CURVE_POINTS)
    curves.precision, curves.recall, curves.precision_at_recall = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    curves.ap = np.zeros((len(classes), len(IOU_THRESHOLDS)))
    order = np.argsort(-confidence, kind="stable")
    correct, confidence, predicted_class = correct[order], confidence[order], predicted_class[order]
    for k, (cls, count) in enumerate(zip(classes, n_targets)):
        chosen = predicted_class == cls
        if not chosen.any():
            continue
        true_positives = correct[chosen].cumsum(0)  # [n, 10]
        precision = true_positives / np.arange(1, len(true_positives) + 1)[:, None]
        recall = true_positives / count
        falling = -confidence[chosen]  # interpolation wants rising positions
        curves.recall[k] = np.interp(-curves.x, falling, recall[:, 0], left=0)
        curves.precision[k] = np.interp(-curves.x, falling, precision[:, 0], left=1)
        curves.ap[k] = [average_precision(recall[:, i], precision[:, i]) for i in range(len(IOU_THRESHOLDS))]
        curves.precision_at_recall[k] = np.interp(curves.x, *precision_envelope(recall[:, 0], precision[:, 0]))
    curves.f1 = 2 * curves.precision * curves.recall / (curves.precision + curves.recall + 1e-16)
    return curves


def precision_envelope(recall, precision) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (recall, precision) of the falling upper envelope, from recall 0 to recall 1."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    return recall, np.maximum.accumulate(precision[::-1])[::-1]


def average_precision(recall, precision) -> float:
    """Return the area under the precision envelope, by the trapezoid rule on 101 recalls (not COCO's rule)."""
    x = np.linspace(0, 1, 101)
    y = np.interp(x, *precision_envelope(recall, precision))
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def smooth(y: np.ndarray, share: float) -> np.ndarray:
    """Return the moving average of y [n] over about `share` of its points; the ends are extended by their own value."""
    half = round(len(y) * share) // 2
    return np.convolve(np.pad(y, half, mode="edge"), np.ones(2 * half + 1) / (2 * half + 1), mode="valid")
