"""Non-maximum suppression: from a detector's raw predictions to each image's boxes. Exact, without a time limit.

Free of torch: tensors are taken and given where the runtime has them, the work is numpy's on every device. What passes
the confidence threshold is little, and the loop ends with the last box that is wanted.
"""

import sys

import numpy as np

from utils.boxes import xywh2xyxy

MAX_CANDIDATES = 30_000  # most boxes of an image that enter suppression, by confidence
FIRST_CANDIDATES = 8  # so many for each wanted box are looked at first, and the others where these are not enough
BLOCK = 128  # candidates that are compared at once
SMALLEST = np.finfo(np.float32).tiny  # instead of a division by 0


def non_max_suppression(
    prediction, conf_thres=0.25, iou_thres=0.45, classes=None, agnostic=False, multi_label=False, labels=(),
    max_det=300, nm=0,
) -> list:  # fmt: skip
    """Greedy NMS: take boxes by confidence, dropping every later one whose IoU with a taken one is over iou_thres.

    prediction: [B, N, 5 + nc + nm] xywh in pixels, objectness, nc class scores, nm mask coefficients, an array or a
        tensor; or a tuple that begins with it. It is not changed.
    conf_thres: a box needs objectness, and objectness * class score, above this; one number, or one for each class.
    classes: class numbers to keep (None: all). agnostic: boxes suppress those of other classes too.
    multi_label: a box counts once for every class above conf_thres, else for its best class alone.
    labels: for each image true boxes [k, 5] (class, xywh in pixels), which enter with confidence 1; or empty.

    Returns for each image [n, 6 + nm] float32, n <= max_det: xyxy, confidence, class, mask coefficients; by falling
    confidence; an array for an array, a tensor on its device for a tensor. Candidates beyond the MAX_CANDIDATES most
    confident of an image are dropped before suppression.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not (np.min(value) >= 0 and np.max(value) <= 1):
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    if isinstance(prediction, (list, tuple)):
        prediction = prediction[0]
    classes = class_list(classes)
    per_class = None if np.ndim(conf_thres) == 0 else np.asarray(conf_thres, np.float32)
    conf_thres = np.min(conf_thres)
    boxes_per_image = []
    for index, rows in enumerate(prediction):
        true = _true_boxes(as_float32(labels[index]), nm) if len(labels) else np.zeros((0, 6 + nm), np.float32)
        if classes is not None:
            true = true[np.isin(true[:, 5], classes)]
        chosen = _chosen_rows(rows, conf_thres, per_class, classes, multi_label, nm)
        for limit in (min(FIRST_CANDIDATES * max(max_det, 1), MAX_CANDIDATES), MAX_CANDIDATES):
            found = np.concatenate([true, _candidates(chosen, limit, conf_thres, multi_label, nm)])[:limit]
            kept = found[_survivors(found, iou_thres, agnostic, max_det)]
            if len(kept) == max_det or len(found) < limit:
                break
        boxes_per_image.append(kept if isinstance(rows, np.ndarray) else as_tensor(kept, rows.device))
    return boxes_per_image


def final_boxes(prediction, end2end: bool, conf_thres, iou_thres, classes=None, max_det=300, **options) -> list:
    """Return non_max_suppression(), also for the output [B, n, 6] of a model that has done it by itself (`end2end`)."""
    if not end2end:
        return non_max_suppression(prediction, conf_thres, iou_thres, classes, max_det=max_det, **options)
    if len(options.get("labels", ())):
        raise ValueError("true boxes cannot enter an NMS that is part of the model file: export it without --nms")
    boxes_per_image = []
    for boxes in prediction:
        boxes = boxes[as_float32(boxes[:, 4]) > thresholds_of(boxes[:, 5], conf_thres)]
        if (classes := class_list(classes)) is not None:
            boxes = boxes[sum((boxes[:, 5] == cls for cls in classes), boxes[:, 5] < 0)]
        boxes_per_image.append(boxes[:max_det])
    return boxes_per_image


def class_list(classes) -> list | None:
    """Return the class numbers to keep as a list, also of one number alone; None for all classes."""
    if classes is None:
        return None
    return list(classes) if hasattr(classes, "__len__") else [int(classes)]


def thresholds_of(classes, conf_thres):
    """Return the threshold of boxes with these class numbers [n]: `conf_thres`, or the class's where it is a list."""
    if np.ndim(conf_thres) == 0:
        return conf_thres
    return np.asarray(conf_thres, np.float32)[as_float32(classes).astype(int)]


def as_float32(x) -> np.ndarray:
    """Return a float32 array of an array's or tensor's values; no copy where it is one already."""
    if not isinstance(x, np.ndarray):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x, np.float32)


def as_tensor(x: np.ndarray, device):
    """Return the array as a tensor; whoever wants one has loaded torch already."""
    return sys.modules["torch"].from_numpy(x).to(device)


def _chosen_rows(rows, conf_thres, per_class, classes, multi_label, nm) -> np.ndarray:
    """Return the float32 rows [n, 5 + nc + nm] of one image whose objectness is above conf_thres, and their class one
    of `classes`, its confidence above its own of `per_class` [nc]; with multi_label all rows, the scores that are not
    wanted set to 0. None for either: all classes, no thresholds of their own.
    """
    if not isinstance(rows, np.ndarray) and rows.device.type != "cpu":
        rows = rows[rows[:, 4] > conf_thres]  # so that little is moved from the device
    rows = as_float32(rows)
    rows = rows.take(np.flatnonzero(rows[:, 4] > np.float32(conf_thres)), axis=0)
    if (classes is None and per_class is None) or not len(rows):
        return rows
    scores = rows[:, 5 : rows.shape[1] - nm]
    confidence = scores * rows[:, 4:5]
    wanted = np.ones(scores.shape, bool) if per_class is None else confidence > per_class
    wanted &= True if classes is None else np.isin(np.arange(scores.shape[1]), classes)
    if not multi_label:
        return rows[wanted[np.arange(len(rows)), confidence.argmax(1)]]
    rows[:, 5 : rows.shape[1] - nm] = np.where(wanted, scores, 0)
    return rows


def _candidates(rows: np.ndarray, limit: int, conf_thres, multi_label, nm) -> np.ndarray:
    """Return the `limit` best of the candidates [k, 6 + nm] (xyxy, confidence, class, masks) of rows [n, 5 + nc + nm].

    By falling confidence, those of one confidence in the order of rows and classes. The scores of a row are multiplied
    only if its best one can be among the best: for an untrained model nearly all of them are above conf_thres.
    """
    first_mask = rows.shape[1] - nm
    if len(rows) > limit:
        best = rows[:, 5:first_mask].max(1, initial=0) * rows[:, 4]  # rounding keeps the order
        rows = rows[best >= _nth_largest(best, limit)]
    scores = rows[:, 5:first_mask] * rows[:, 4:5]
    if not multi_label:
        best_class = np.zeros(scores.shape, bool)
        best_class[np.arange(len(rows)), scores.argmax(1)] = True
        scores = np.where(best_class, scores, 0)
    passes = scores > np.float32(conf_thres)
    confidence = scores[passes]
    if len(confidence) > limit:
        passes = scores >= _nth_largest(confidence, limit)
        confidence = scores[passes]
    row, cls = np.nonzero(passes)
    order = np.argsort(-confidence, kind="stable")[:limit]
    chosen = rows[row[order]]
    columns = confidence[order, None], cls[order, None].astype(np.float32), chosen[:, first_mask:]
    return np.concatenate([xywh2xyxy(chosen[:, :4]), *columns], 1)


def _nth_largest(values: np.ndarray, n: int):
    return np.partition(values, len(values) - n)[len(values) - n]


def _true_boxes(labels: np.ndarray, nm) -> np.ndarray:
    """Return labels [k, 5] (class, xywh) as candidates [k, 6 + nm] of confidence 1."""
    ones = np.ones_like(labels[:, :1])
    masks = np.zeros((len(labels), nm), np.float32)
    return np.concatenate([xywh2xyxy(labels[:, 1:5]), ones, labels[:, :1], masks], 1)


def _survivors(candidates: np.ndarray, iou_thres, agnostic, max_det) -> np.ndarray:
    """Return the indices, rising, of the candidates [n, 6+] (by falling confidence) that survive, at most max_det.

    Blocks of candidates are compared with all that were kept before them, and then among each other: so the work ends
    with the block that holds the last wanted one. Classes are compared as such: moving them apart by an offset would
    round the coordinates.
    """
    columns = np.ascontiguousarray(candidates[:, :4].T)
    areas = (columns[2] - columns[0]) * (columns[3] - columns[1])
    group = np.zeros(len(candidates), np.float32) if agnostic else candidates[:, 5]
    columns = np.concatenate([columns, areas[None], group[None]])  # x1, y1, x2, y2, area, class
    kept = np.zeros(0, np.intp)
    for start in range(0, len(candidates), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(candidates)))
        block = block[~_suppress(columns[:, kept], columns[:, block], iou_thres).any(0)]
        rivals = np.triu(
            _suppress(columns[:, block], columns[:, block], iou_thres), 1
        )  # each box's less confident rivals
        survives = np.ones(len(block), bool)
        for i in np.flatnonzero(rivals.any(1)).tolist():
            if survives[i]:
                survives &= ~rivals[i]
        kept = np.concatenate([kept, block[survives]])
        if len(kept) >= max_det:
            break
    return kept[:max_det]


def _suppress(a: np.ndarray, b: np.ndarray, iou_thres) -> np.ndarray:
    """Which boxes of a [6, n] overlap which of b [6, m] (x1, y1, x2, y2, area, class) too much: bool [n, m]."""
    ax1, ay1, ax2, ay2, a_area, a_class = a[:, :, None]
    bx1, by1, bx2, by2, b_area, b_class = b
    w = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    h = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    shared = w * h
    union = np.maximum(a_area + b_area - shared, SMALLEST)
    return (shared / union > iou_thres) & (a_class == b_class)
