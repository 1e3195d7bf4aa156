"""Detection metrics in numpy: COCO-protocol AP, curves after YOLOv5's recipe, the confusion matrix, fitness.

Boxes are xyxy in pixels of the original image: predictions [n, 6] = xyxy, confidence, class; targets [m, 5] =
class, xyxy.
"""

from dataclasses import dataclass, field

import numpy as np

from utils.boxes import bbox_ioa, bbox_iou, box_iou, wh_iou  # noqa: F401  YOLOv5 users import them from here

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CURVE_POINTS = 1000  # confidences (and recalls) at which curves are sampled
FITNESS_WEIGHTS = np.array([0.0, 0.0, 0.1, 0.9])  # precision, recall, mAP50, mAP50-95
SMOOTHING = 0.1  # share of the confidence axis over which F1 is averaged before its maximum is looked up


def fitness(x):
    """One number to compare models by, from [..., 4+] = precision, recall, mAP50, mAP50-95."""
    return (np.asarray(x)[..., :4] * FITNESS_WEIGHTS).sum(-1)


@dataclass
class Curves:
    """Precision, recall and F1 of k classes at IoU 0.5 over confidence, and precision over recall; for plots."""

    x: np.ndarray = field(default_factory=lambda: np.linspace(0, 1, CURVE_POINTS))
    precision: np.ndarray = field(default_factory=lambda: np.zeros((0, CURVE_POINTS)))  # [k, points]
    recall: np.ndarray = field(default_factory=lambda: np.zeros((0, CURVE_POINTS)))
    f1: np.ndarray = field(default_factory=lambda: np.zeros((0, CURVE_POINTS)))
    precision_at_recall: np.ndarray = field(default_factory=lambda: np.zeros((0, CURVE_POINTS)))
    ap: np.ndarray = field(default_factory=lambda: np.zeros((0, len(IOU_THRESHOLDS))))  # [k, 10] YOLOv5's recipe


@dataclass
class DetectionResult:
    """What DetectionMetrics.compute() returns. Means are over the k classes with targets; arrays follow `classes`."""

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
        """[k] at the confidence of the best mean F1."""
        return (self.r * self.n_targets).round()

    @property
    def false_positives(self) -> np.ndarray:
        """[k] at the confidence of the best mean F1."""
        return (self.true_positives / (self.p + 1e-16) - self.true_positives).round()


class DetectionMetrics:
    """Collects predictions and targets image by image, then scores them."""

    def __init__(self, nc: int):
        self.nc = nc
        self.reset()

    def __len__(self) -> int:
        """Images seen."""
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
        predictions, image_of_prediction = _concatenate(self._predictions, 6)
        targets, image_of_target = _concatenate(self._targets, 5)
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
        """coco_ap() of what was collected; a subclass scores other shapes than boxes."""
        return coco_ap(len(self), *boxes_and_classes)


def _concatenate(arrays, columns):
    """All rows [N, columns] and the number of the array, from 0, that each came from."""
    index = np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]).astype(int)
    return np.concatenate(arrays or [np.zeros((0, columns))]), index


def _mean_or(values, otherwise) -> float:
    """Mean of what is not nan, or `otherwise` if nothing is left."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else otherwise


def match_predictions(predictions, targets) -> np.ndarray:
    """Which predictions of an image are true positives: bool [n, 10], a column for each of IOU_THRESHOLDS.

    YOLOv5's rule: a prediction stands for the target of its class that it overlaps most, and where several stand for
    one target (with enough overlap), the first of them counts. Predictions are sorted by falling confidence.
    """
    iou = box_iou(predictions[:, :4], targets[:, 1:])
    iou[predictions[:, 5:6] != targets[None, :, 0]] = 0
    return match_by_iou(iou)


def match_by_iou(iou) -> np.ndarray:
    """match_predictions() for an IoU [n, m] of predictions with targets, 0 where the classes differ."""
    correct = np.zeros((len(iou), len(IOU_THRESHOLDS)), dtype=bool)
    if iou.size == 0:
        return correct
    target, overlap = iou.argmax(1), iou.max(1)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        enough = np.flatnonzero(overlap >= threshold)
        _, first = np.unique(target[enough], return_index=True)
        correct[enough[first], column] = True
    return correct


def greedy_pairs(scores, threshold):
    """Rows and columns [k] of the pairs of a matrix taken by falling score >= threshold > 0, each line at most once.

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


def precision_recall_curves(correct, confidence, predicted_class, classes, n_targets) -> Curves:
    """YOLOv5's recipe for `classes` [k] with `n_targets` [k]: correct [N, 10], confidence [N], predicted_class [N]."""
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


def precision_envelope(recall, precision):
    """Points (recall, precision) of the falling upper envelope, from recall 0 to recall 1."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    return recall, np.maximum.accumulate(precision[::-1])[::-1]


def average_precision(recall, precision) -> float:
    """Area under the precision envelope, by the trapezoid rule on 101 recalls (YOLOv5's recipe, not COCO's)."""
    x = np.linspace(0, 1, 101)
    y = np.interp(x, *precision_envelope(recall, precision))
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def smooth(y, share):
    """Moving average of y [n] over about `share` of its points; the ends are extended by their own value."""
    half = round(len(y) * share) // 2
    return np.convolve(np.pad(y, half, mode="edge"), np.ones(2 * half + 1) / (2 * half + 1), mode="valid")


def coco_ap(n_images, predictions, image_of_prediction, targets, image_of_target, classes) -> np.ndarray:
    """AP [10 IoU thresholds, k classes, 4 areas (all, small, medium, large)] of the COCO protocol.

    At most 100 predictions of an image and class count. nan where no target has that class and area. The same figures
    as pycocotools'.
    """
    if len(classes) == 0:
        return np.full((len(IOU_THRESHOLDS), 0, 4), np.nan)
    known = np.isin(predictions[:, 5], classes)
    predictions, image_of_prediction = predictions[known], image_of_prediction[known]
    truth = _coco_dict(n_images, classes, image_of_target, targets[:, 0], targets[:, 1:])
    found = _coco_dict(n_images, classes, image_of_prediction, predictions[:, 5], predictions[:, :4], predictions[:, 4])
    return coco_evaluation(truth, found, "bbox")


def coco_evaluation(truth: dict, found: dict, shape: str) -> np.ndarray:
    """AP [10 IoU thresholds, k classes, 4 areas] of two data sets in COCO's format; shape: bbox or segm."""
    from faster_coco_eval import COCO, COCOeval_faster

    quiet = {"print_function": lambda *_: None}
    evaluation = COCOeval_faster(COCO(truth, **quiet), COCO(found, **quiet), shape, **quiet)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1].copy()  # [10, 101 recalls, k, 4]; -1 where there is no target
    precision[precision < 0] = np.nan
    return precision.mean(1)


def _coco_dict(n_images, classes, image_index, cls, boxes_xyxy, scores=None) -> dict:
    """A data set in COCO's annotation format, in memory."""
    boxes = boxes_xyxy.copy()
    boxes[:, 2:] -= boxes[:, :2]
    columns = [image_index.tolist(), cls.astype(int).tolist(), boxes.tolist(), boxes[:, 2:].prod(1).tolist()]
    names = ["image_id", "category_id", "bbox", "area"]
    if scores is not None:
        columns.append(scores.tolist())
        names.append("score")
    annotations = [{"id": i, "iscrowd": 0, **dict(zip(names, row))} for i, row in enumerate(zip(*columns), 1)]
    return {
        "images": [{"id": i} for i in range(n_images)],
        "categories": [{"id": int(c)} for c in classes],
        "annotations": annotations,
    }


class ConfusionMatrix:
    """Counts of predicted (row) against true (column) class; the last row and column stand for background.

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

    def tp_fp(self):
        """True and false positives [nc] of each class."""
        true_positives = self.matrix.diagonal()
        return true_positives[:-1].copy(), (self.matrix.sum(1) - true_positives)[:-1]

    def plot(self, normalize=True, save_dir="", names=()) -> None:
        """Draw SAVE_DIR/confusion_matrix.png; columns sum to 1 if `normalize`."""
        from utils.plots import plot_confusion_matrix

        plot_confusion_matrix(self.matrix, f"{save_dir or '.'}/confusion_matrix.png", names, normalize)
