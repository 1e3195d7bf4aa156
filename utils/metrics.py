"""Detection metrics in numpy: COCO-protocol AP, YOLOv5's figures, the confusion matrix, fitness.

Boxes are xyxy in pixels of the original image: predictions [n, 6] = xyxy, confidence, class; targets [m, 5] =
class, xyxy.
"""

from dataclasses import dataclass

import numpy as np

from utils.boxes import bbox_ioa, bbox_iou, box_iou, wh_iou  # noqa: F401  YOLOv5 users import them from here
from utils.extras import lazy
from utils.plots.curves import IOU_THRESHOLDS, SMOOTHING, Curves, match_predictions, precision_recall_curves, smooth

__getattr__ = lazy({}, __name__)

RECALLS = np.linspace(0, 1, 101)  # at which COCO samples precision
AREAS_PX2 = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])  # COCO's: all, small, medium, large
MAX_PREDICTIONS = 100  # for each image and class, as COCO counts
FITNESS_WEIGHTS = np.array([0.0, 0.0, 0.1, 0.9])  # precision, recall, mAP50, mAP50-95


def fitness(x):
    """Return the number to compare models by, from [..., 4+] = precision, recall, mAP50, mAP50-95."""
    return (np.asarray(x)[..., :4] * FITNESS_WEIGHTS).sum(-1)


@dataclass
class DetectionResult:
    """The figures of DetectionMetrics.compute(). Means are over the k classes with targets; arrays follow `classes`."""

    precision: float  # precision, recall, f1: at IoU 0.5 and the confidence of the best mean F1
    recall: float
    f1: float
    confidence: float  # that confidence
    map50: float  # COCO protocol; 0 if there is no target
    map: float  # COCO protocol, mean over IoU 0.5:0.95
    ap_small: float  # area below 32^2, 32^2 to 96^2, above 96^2 pixels; nan if no target is of that size
    ap_medium: float
    ap_large: float
    classes: np.ndarray  # [k] class numbers
    n_images: np.ndarray  # [k] images with a target of the class
    n_targets: np.ndarray  # [k]
    p: np.ndarray  # [k]
    r: np.ndarray
    f1_per_class: np.ndarray
    ap50: np.ndarray
    ap: np.ndarray
    maps: np.ndarray  # [nc] ap by class number; the mean where a class has no target
    images: int
    targets: int
    v5: tuple  # YOLOv5's recipe: precision, recall, mAP50, mAP50-95
    curves: Curves

    @property
    def fitness(self) -> float:
        return float(fitness([self.precision, self.recall, self.map50, self.map]))

    @property
    def true_positives(self) -> np.ndarray:
        """Return the counts [k] at the confidence of the best mean F1."""
        return (self.r * self.n_targets).round()

    @property
    def false_positives(self) -> np.ndarray:
        """Return the counts [k] at the confidence of the best mean F1."""
        return (self.true_positives / (self.p + 1e-16) - self.true_positives).round()


class DetectionMetrics:
    """A collection of predictions and targets, image by image, and their score."""

    def __init__(self, nc: int):
        self.nc = nc
        self.reset()

    def __len__(self) -> int:
        """Return the number of images seen."""
        return len(self._predictions)

    def reset(self) -> None:
        self._predictions, self._targets, self._correct = [], [], []

    def update(self, predictions, targets) -> None:
        """Add one image: predictions [n, 6], targets [m, 5]; either may be empty."""
        predictions = np.asarray(predictions, dtype=np.float64).reshape(-1, 6)
        predictions = predictions[np.argsort(-predictions[:, 4], kind="stable")]
        targets = np.asarray(targets, dtype=np.float64).reshape(-1, 5)
        self._predictions.append(predictions)
        self._targets.append(targets)
        self._correct.append(match_predictions(predictions, targets))

    def compute(self) -> DetectionResult:
        """Return the figures of all images so far."""
        predictions, image_of_prediction = concatenate(self._predictions, 6)
        targets, image_of_target = concatenate(self._targets, 5)
        correct = np.concatenate(self._correct or [np.zeros((0, len(IOU_THRESHOLDS)), bool)])
        classes, n_targets = np.unique(targets[:, 0].astype(int), return_counts=True)
        pairs = np.unique(np.stack([image_of_target, targets[:, 0].astype(int)], 1), axis=0)

        curves = precision_recall_curves(correct, predictions[:, 4], predictions[:, 5], classes, n_targets)
        best = smooth(curves.f1.mean(0), SMOOTHING).argmax() if len(classes) else 0
        p, r, f1 = curves.precision[:, best], curves.recall[:, best], curves.f1[:, best]
        ap = self.average_precision(predictions, image_of_prediction, targets, image_of_target, classes)  # [10, k, 4]
        mean = _mean_or(ap[..., 0], 0.0)
        ap_per_class = ap[..., 0].mean(0)
        maps = np.full(self.nc, mean)
        maps[classes] = ap_per_class
        means = [_mean_or(x, 0.0) for x in (p, r, f1, ap[0, :, 0])]
        return DetectionResult(
            *means[:3],
            confidence=float(curves.x[best]),
            map50=means[3],
            map=mean,
            **{f"ap_{size}": _mean_or(ap[..., i], np.nan) for i, size in enumerate(("small", "medium", "large"), 1)},
            classes=classes,
            n_images=np.array([(pairs[:, 1] == c).sum() for c in classes], dtype=int),
            n_targets=n_targets,
            p=p,
            r=r,
            f1_per_class=f1,
            ap50=ap[0, :, 0],
            ap=ap_per_class,
            maps=maps,
            images=len(self),
            targets=len(targets),
            v5=(*means[:2], _mean_or(curves.ap[:, 0], 0.0), _mean_or(curves.ap, 0.0)),
            curves=curves,
        )

    def average_precision(self, *boxes_and_classes) -> np.ndarray:
        """Return coco_ap() of these boxes; a subclass scores other shapes than boxes."""
        return coco_ap(*boxes_and_classes)


def concatenate(arrays: list, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows [N, columns] and the number of the array, from 0, that each came from."""
    index = np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]).astype(int)
    return np.concatenate(arrays or [np.zeros((0, columns))]), index


def _mean_or(values, otherwise) -> float:
    """Return the mean of the values that are not nan, or `otherwise` if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else otherwise


def greedy_pairs(scores, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns [k] of the pairs of a matrix, by falling score >= threshold > 0, each line at most once.

    A pair that is the best of both its row and its column is certain to be taken, so rounds of them are taken at once.
    """
    scores = np.where(scores >= threshold, scores, 0)
    rows, columns = [], []
    while scores.any():
        best_column = scores.argmax(1)
        row = np.flatnonzero((scores.argmax(0)[best_column] == np.arange(len(scores))) & scores.any(1))
        rows.append(row)
        columns.append(best_column[row])
        scores[row] = 0
        scores[:, columns[-1]] = 0
    return np.concatenate(rows or [np.zeros(0, int)]), np.concatenate(columns or [np.zeros(0, int)])


def coco_ap(predictions, image_of_prediction, targets, image_of_target, classes) -> np.ndarray:
    """Return the AP [10 IoU thresholds, k classes, 4 areas (all, small, medium, large)] of the COCO protocol.

    predictions [N, 6] and targets [M, 5]: image after image, predictions of an image by falling confidence. nan where
    no target has that class and area. The same figures as pycocotools'.
    """
    ap = np.full((len(IOU_THRESHOLDS), len(classes), len(AREAS_PX2)), np.nan)
    counted = is_counted(predictions, image_of_prediction)
    predictions, image_of_prediction = predictions[counted], image_of_prediction[counted]
    for k, cls in enumerate(classes):
        found, true = predictions[:, 5] == cls, targets[:, 0] == cls
        boxes, true_boxes = predictions[found, :4], targets[true, 1:]
        target = coco_matches(boxes, image_of_prediction[found], true_boxes, image_of_target[true])
        hit, true_outside = target >= 0, _outside_areas(true_boxes, AREAS_PX2)
        # A prediction counts neither way if its target, or without a target it itself, is of another area.
        area = np.arange(len(AREAS_PX2))[:, None]
        counts = ~np.where(hit, true_outside[target, area], _outside_areas(boxes, AREAS_PX2)[..., None])
        ap[:, k] = _coco_class_ap(predictions[found, 4], hit & counts, ~hit & counts, (~true_outside).sum(0))
    return ap


def is_counted(predictions, image) -> np.ndarray:
    """Return which predictions are among the first MAX_PREDICTIONS of their image and class: bool [n].

    predictions [n, 6]; image [n], the number of the image of each.
    """
    group = np.unique(np.stack([image, predictions[:, 5]], 1), axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(group, kind="stable")
    group = group[order]
    counted = np.empty(len(group), bool)
    counted[order] = np.arange(len(group)) - np.searchsorted(group, group) < MAX_PREDICTIONS
    return counted


def coco_matches(boxes, image, true_boxes, image_of_true, areas_px2=AREAS_PX2) -> np.ndarray:
    """Return the target that each prediction of one class finds, -1 for none: int32 [n, areas, 10 IoU thresholds].

    COCO's rule: predictions [n, 4], by falling confidence, each take the target [m, 4] of their image (numbers [n] and
    [m], rising) that they overlap most and that is free, the last of several; one outside the area only if there is no
    other. Step i of the loop is for the i-th prediction of every image.
    """
    true_outside = _outside_areas(true_boxes, areas_px2)  # [m, areas]
    found = np.full((len(boxes), len(areas_px2), len(IOU_THRESHOLDS)), -1, np.int32)
    taken = np.zeros((*true_outside.shape, len(IOU_THRESHOLDS)), bool)
    rows, target, overlap = _overlapping_targets(boxes, image, true_boxes, image_of_true)
    step = np.arange(len(rows)) - np.searchsorted(image[rows], image[rows])
    for number in range(step.max(initial=-1) + 1):
        now = np.flatnonzero(step == number)
        choice, value = target[now], overlap[now, :, None, None]  # [q, K], [q, K, 1, 1]
        free = ~taken[choice] & (value >= IOU_THRESHOLDS)
        preferred = free & ~true_outside[choice][..., None]
        free = np.where(preferred.any(1, keepdims=True), preferred, free)  # [q, K, areas, 10]
        last_best = choice.shape[1] - 1 - np.where(free, value, 0)[:, ::-1].argmax(1)  # [q, areas, 10]
        best = choice[np.arange(len(now))[:, None, None], last_best]
        q, area, threshold = np.nonzero(free.any(1))
        chosen = best[q, area, threshold]
        taken[chosen, area, threshold] = True
        found[rows[now[q]], area, threshold] = chosen
    return found


def _outside_areas(boxes_xyxy, areas_px2) -> np.ndarray:
    """Return which boxes [n] are too small or too large for each of the areas [k, 2]: bool [n, k]."""
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)[:, None]
    return (area < areas_px2[:, 0]) | (area > areas_px2[:, 1])


def _overlapping_targets(boxes, image, true_boxes, image_of_true) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers [p] of the predictions that overlap a target of their image enough, and for each of them the
    numbers [p, K] of these targets and their IoU [p, K]; a row with fewer than K targets ends in zeros."""
    first = np.searchsorted(image_of_true, image)
    counts = np.searchsorted(image_of_true, image, side="right") - first
    row = np.repeat(np.arange(len(boxes)), counts)
    target = np.arange(len(row)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    iou = _coco_iou(boxes[row], true_boxes[target])
    enough = iou >= IOU_THRESHOLDS[0]
    row, target, iou = row[enough], target[enough], iou[enough]
    rows, start, group = np.unique(row, return_index=True, return_inverse=True)
    column = np.arange(len(row)) - start[group]
    targets = np.zeros((len(rows), column.max(initial=-1) + 1), int)
    overlap = np.zeros(targets.shape)
    targets[group, column], overlap[group, column] = target, iou
    return rows, targets, overlap


def _coco_iou(a_xyxy, b_xyxy) -> np.ndarray:
    """Return the IoU [n] of pairs of boxes [n, 4], rounded as COCO's xywh boxes are."""
    (a, a_sides), (b, b_sides) = ((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]) for boxes in (a_xyxy, b_xyxy))
    shared = (np.minimum(a + a_sides, b + b_sides) - np.maximum(a, b)).clip(0).prod(1)
    return shared / np.maximum(a_sides.prod(1) + b_sides.prod(1) - shared, np.finfo(float).tiny)


def _coco_class_ap(confidence, true_positive, false_positive, n_targets) -> np.ndarray:
    """Return the AP [10, 4] of one class: confidence [n], true and false positives bool [n, 4, 10], n_targets [4]."""
    order = np.argsort(-confidence, kind="stable")
    found, wrong = (x[order].cumsum(0, dtype=np.float64) for x in (true_positive, false_positive))
    precision = found / np.maximum(found + wrong, 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = found / np.maximum(n_targets, 1)[:, None]
    precision = np.concatenate([precision, np.zeros((1, *precision.shape[1:]))])  # beyond the last recall
    ap = np.full(found.shape[1:], np.nan)
    for area in np.flatnonzero(n_targets):
        for t in range(ap.shape[1]):
            ap[area, t] = precision[np.searchsorted(recall[:, area, t], RECALLS), area, t].mean()
    return ap.T


class ConfusionMatrix:
    """Counts of predicted (row) against true (column) class; the last row and column are the background.

    A prediction counts from confidence `conf` on. Pairs are taken by falling IoU, whatever their classes.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45):
        self.nc, self.conf, self.iou_thres = nc, conf, iou_thres
        self.matrix = np.zeros((nc + 1, nc + 1))

    def process_batch(self, detections, labels) -> None:
        """Add one image: detections [n, 6] xyxy, confidence, class (or None); labels [m, 5] class, xyxy."""
        detections = np.zeros((0, 6)) if detections is None else np.asarray(detections).reshape(-1, 6)
        labels = np.asarray(labels).reshape(-1, 5)
        detections = detections[detections[:, 4] > self.conf]
        predicted, true = detections[:, 5].astype(int), labels[:, 0].astype(int)
        row, column = greedy_pairs(box_iou(labels[:, 1:], detections[:, :4]), self.iou_thres)
        missed, invented = np.ones(len(true), bool), np.ones(len(predicted), bool)
        missed[row] = invented[column] = False
        np.add.at(self.matrix, (predicted[column], true[row]), 1)
        np.add.at(self.matrix, (self.nc, true[missed]), 1)
        np.add.at(self.matrix, (predicted[invented], self.nc), 1)

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and false positives [nc] of each class."""
        hits = self.matrix.diagonal()[:-1]
        return hits, self.matrix.sum(1)[:-1] - hits

    def print(self) -> None:
        """Print the counts, a line for each predicted class."""
        for row in self.matrix:
            print(" ".join(f"{count:g}" for count in row))

    def plot(self, normalize=True, save_dir="", names=()) -> None:
        """Draw SAVE_DIR/confusion_matrix.png; columns sum to 1 if `normalize`."""
        from utils.plots.charts import plot_confusion_matrix

        plot_confusion_matrix(self.matrix, f"{save_dir or '.'}/confusion_matrix.png", names, normalize)
