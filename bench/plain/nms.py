"""Non-maximum suppression, plainly: a loop over the classes, each with torchvision's greedy NMS."""

import torch
from torchvision.ops import nms


def plain_nms(prediction, conf_thres, iou_thres, max_det, max_candidates):
    """Turn [N, 5 + nc] xywh into [n, 6] xyxy, confidence, class, best first; a box may have several classes."""
    prediction = prediction[prediction[:, 4] > conf_thres]
    scores = prediction[:, 5:] * prediction[:, 4:5]
    row, cls = (scores > conf_thres).nonzero(as_tuple=True)
    confidence = scores[row, cls]
    best = confidence.argsort(descending=True, stable=True)[:max_candidates]
    row, cls, confidence = row[best], cls[best], confidence[best]
    centre, half = prediction[row, :2], prediction[row, 2:4] / 2
    boxes = torch.cat([centre - half, centre + half], 1)
    kept = []
    for number in cls.unique():
        of_class = (cls == number).nonzero(as_tuple=True)[0]
        kept.append(of_class[nms(boxes[of_class], confidence[of_class], iou_thres)])
    kept = torch.cat(kept) if kept else torch.zeros(0, dtype=torch.long)
    kept = kept[confidence[kept].argsort(descending=True, stable=True)[:max_det]]
    return torch.cat([boxes[kept], confidence[kept, None], cls[kept, None].float()], 1)
