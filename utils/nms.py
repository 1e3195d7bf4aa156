"""Non-maximum suppression: from a detector's raw predictions to each image's boxes. Exact, without a time limit.

Free of torch: tensors are taken and given where the runtime has them, the work is numpy's on every device. What passes
the confidence threshold is little, and the loop ends with the last box that is wanted.
"""

import sys
from heapq import heapify, heappop, heapreplace

import numpy as np

from utils.boxes import xywh2xyxy

MAX_CANDIDATES = 30_000  # most boxes of an image that enter suppression, by confidence


def non_max_suppression(
    prediction,
    conf_thres=0.25,
    iou_thres=0.45,
    classes=None,
    agnostic=False,
    multi_label=False,
    labels=(),
    max_det=300,
    nm=0,
):
    """Greedy NMS: take boxes by confidence, dropping every later one whose IoU with a taken one is over iou_thres.

    prediction: [B, N, 5 + nc + nm] xywh in pixels, objectness, nc class scores, nm mask coefficients, an array or a
        tensor; or a tuple that begins with it. It is not changed.
    conf_thres: a box needs objectness, and objectness * class score, above this.
    classes: class numbers to keep (None: all). agnostic: boxes suppress those of other classes too.
    multi_label: a box counts once for every class above conf_thres, else for its best class alone.
    labels: for each image true boxes [k, 5] (class, xywh in pixels), which enter with confidence 1; or empty.

    Returns for each image [n, 6 + nm] float32, n <= max_det: xyxy, confidence, class, mask coefficients; by falling
    confidence; an array for an array, a tensor on its device for a tensor. Candidates beyond the MAX_CANDIDATES most
    confident of an image are dropped before suppression.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    if isinstance(prediction, (list, tuple)):
        prediction = prediction[0]
    boxes_per_image = []
    for index, rows in enumerate(prediction):
        found = _candidates(as_float32(rows[rows[:, 4] > conf_thres]), conf_thres, multi_label, nm)
        if len(labels):
            found = np.concatenate([_true_boxes(as_float32(labels[index]), nm), found])
        if classes is not None:
            found = found[np.isin(found[:, 5], list(classes))]
        found = found[np.argsort(-found[:, 4], kind="stable")[:MAX_CANDIDATES]]
        kept = found[_survivors(found, iou_thres, agnostic, max_det)]
        boxes_per_image.append(kept if isinstance(rows, np.ndarray) else as_tensor(kept, rows.device))
    return boxes_per_image


def final_boxes(prediction, end2end: bool, conf_thres, iou_thres, classes=None, max_det=300, **options) -> list:
    """non_max_suppression(), also for the output [B, n, 6] of a model that has done it by itself (`end2end`)."""
    if not end2end:
        return non_max_suppression(prediction, conf_thres, iou_thres, classes, max_det=max_det, **options)
    if len(options.get("labels", ())):
        raise ValueError("true boxes cannot enter an NMS that is part of the model file: export it without --nms")
    boxes_per_image = []
    for boxes in prediction:
        boxes = boxes[boxes[:, 4] > conf_thres]
        if classes is not None:
            boxes = boxes[sum((boxes[:, 5] == cls for cls in classes), boxes[:, 5] < 0)]
        boxes_per_image.append(boxes[:max_det])
    return boxes_per_image


def as_float32(x) -> np.ndarray:
    """A float32 array of an array's or tensor's values; no copy where it is one already."""
    if not isinstance(x, np.ndarray):
        x = x.detach().float().cpu().numpy()
    return np.asarray(x, np.float32)


def as_tensor(x: np.ndarray, device):
    """The array as a tensor; torch is loaded already where this is asked for."""
    return sys.modules["torch"].from_numpy(x).to(device)


def _candidates(rows: np.ndarray, conf_thres, multi_label, nm) -> np.ndarray:
    """Rows [n, 5 + nc + nm] of one image -> those above conf_thres [k, 6 + nm]: xyxy, confidence, class, masks."""
    scores = rows[:, 5 : rows.shape[1] - nm] * rows[:, 4:5]
    if multi_label:
        row, cls = np.nonzero(scores > np.float32(conf_thres))
    else:
        row = np.flatnonzero(scores.max(1, initial=-1) > np.float32(conf_thres))
        cls = scores[row].argmax(1) if len(row) else row
    chosen = rows[row]
    masks = chosen[:, rows.shape[1] - nm :]
    columns = xywh2xyxy(chosen[:, :4]), scores[row, cls][:, None], cls[:, None].astype(np.float32), masks
    return np.concatenate(columns, 1)


def _true_boxes(labels: np.ndarray, nm) -> np.ndarray:
    """Labels [k, 5] (class, xywh) as candidates [k, 6 + nm] of confidence 1."""
    ones = np.ones_like(labels[:, :1])
    masks = np.zeros((len(labels), nm), np.float32)
    return np.concatenate([xywh2xyxy(labels[:, 1:5]), ones, labels[:, :1], masks], 1)


def _survivors(candidates: np.ndarray, iou_thres, agnostic, max_det) -> list:
    """Indices, rising, of the candidates [n, 6+] (by falling confidence) that survive, at most max_det.

    Each class is suppressed by itself: moving the classes apart by an offset would round the coordinates. A group holds
    the indices of a class that nothing has suppressed yet, so its first one is the next to be kept.
    """
    boxes, cls = np.ascontiguousarray(candidates[:, :4]), candidates[:, 5]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    everything = np.arange(len(candidates))
    groups = [everything] if agnostic else [np.flatnonzero(cls == c) for c in np.unique(cls)]
    heads = [(group[0], number) for number, group in enumerate(groups) if len(group)]
    heapify(heads)
    kept = []
    while heads and len(kept) < max_det:
        best, number = heads[0]
        kept.append(best)
        rest = groups[number][1:]
        groups[number] = rest = rest[_iou(boxes, areas, best, rest) <= iou_thres]
        if len(rest):
            heapreplace(heads, (rest[0], number))
        else:
            heappop(heads)
    return kept


def _iou(boxes, areas, one: int, others: np.ndarray) -> np.ndarray:
    """IoU [n] of the box `one` with the `others`, indices of boxes [N, 4] xyxy with these areas [N]."""
    a, b = boxes[one], boxes[others]
    width_height = (np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])).clip(0)
    shared = width_height[:, 0] * width_height[:, 1]
    union = areas[one] + areas[others] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
