"""Non-maximum suppression: from a detector's raw predictions to each image's boxes. Exact, without a time limit."""

import torch
from torchvision.ops import nms

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

    prediction: [B, N, 5 + nc + nm] xywh in pixels, objectness, nc class scores, nm mask coefficients; or a tuple that
        begins with it. It is not changed.
    conf_thres: a box needs objectness, and objectness * class score, above this.
    classes: class numbers to keep (None: all). agnostic: boxes suppress those of other classes too.
    multi_label: a box counts once for every class above conf_thres, else for its best class alone.
    labels: for each image true boxes [k, 5] (class, xywh in pixels), which enter with confidence 1; or empty.

    Returns for each image [n, 6 + nm] float32, n <= max_det: xyxy, confidence, class, mask coefficients; by falling
    confidence. Candidates beyond the MAX_CANDIDATES most confident of an image are dropped before suppression.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    if isinstance(prediction, (list, tuple)):
        prediction = prediction[0]
    prediction = prediction.detach()
    boxes_per_image = []
    for index, rows in enumerate(prediction):
        found = _candidates(rows[rows[:, 4] > conf_thres].float(), conf_thres, multi_label, nm)
        if len(labels):
            found = torch.cat([_true_boxes(labels[index].to(found), nm), found])
        if classes is not None:
            found = found[torch.isin(found[:, 5], torch.as_tensor(list(classes)).to(found))]
        found = found[found[:, 4].argsort(descending=True, stable=True)[:MAX_CANDIDATES]]
        boxes_per_image.append(_suppress(found, iou_thres, agnostic, max_det))
    return boxes_per_image


def _candidates(rows, conf_thres, multi_label, nm):
    """Rows [n, 5 + nc + nm] of one image -> those above conf_thres [k, 6 + nm]: xyxy, confidence, class, masks."""
    scores = rows[:, 5 : rows.shape[1] - nm] * rows[:, 4:5]
    if multi_label:
        row, cls = (scores > conf_thres).nonzero(as_tuple=True)
    else:
        best, cls = scores.max(1)
        row = (best > conf_thres).nonzero()[:, 0]
        cls = cls[row]
    chosen = rows[row]
    masks = chosen[:, rows.shape[1] - nm :]
    return torch.cat([xywh2xyxy(chosen[:, :4]), scores[row, cls][:, None], cls[:, None].to(rows), masks], 1)


def _true_boxes(labels, nm):
    """Labels [k, 5] (class, xywh) as candidates [k, 6 + nm] of confidence 1."""
    ones = torch.ones_like(labels[:, :1])
    return torch.cat([xywh2xyxy(labels[:, 1:5]), ones, labels[:, :1], ones.new_zeros(len(labels), nm)], 1)


def _suppress(candidates, iou_thres, agnostic, max_det):
    """The candidates (sorted by confidence) that survive, at most max_det, in the same order.

    Each class is suppressed by itself: moving the classes apart by an offset would round the coordinates.
    """
    boxes, conf, cls = candidates[:, :4].contiguous(), candidates[:, 4].contiguous(), candidates[:, 5]
    if agnostic or len(candidates) == 0:
        groups = [torch.arange(len(candidates), device=candidates.device)]
    else:
        by_class, order = cls.sort(stable=True)
        groups = order.split(by_class.unique_consecutive(return_counts=True)[1].tolist())
    kept = torch.cat([group[nms(boxes[group], conf[group], iou_thres)] for group in groups])
    return candidates[kept.sort()[0][:max_det]]
