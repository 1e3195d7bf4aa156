"""Steps of YOLOv5's val.py as functions."""

from pathlib import Path

import torch

from engine.val.files import coco_results
from utils.boxes import box_iou, xyxy2xywhn
from utils.nms import as_float32
from utils.plots.curves import match_by_iou


def process_batch(detections, labels, iouv) -> torch.Tensor:
    """Return which detections are true positives at each IoU threshold: bool [n, 10].

    detections [n, 6] xyxy, confidence, class; labels [m, 5] class, xyxy; iouv: the thresholds, 0.5 to 0.95.
    """
    same_class = detections[:, None, 5] == labels[None, :, 0]
    iou = as_float32(box_iou(detections[:, :4], labels[:, 1:]) * same_class)
    return torch.from_numpy(match_by_iou(iou)[:, : len(iouv)]).to(detections.device)


def save_one_txt(predn, save_conf: bool, shape, file) -> None:
    """Append boxes [n, 6] (xyxy in pixels, confidence, class) of an image of shape (height, width) to a label file."""
    boxes = as_float32(predn)
    rows = []
    for box, (conf, cls) in zip(xyxy2xywhn(boxes[:, :4], shape[1], shape[0]), boxes[:, 4:6]):
        rows.append(" ".join(f"{value:g}" for value in (cls, *box, *([conf] * bool(save_conf)))) + "\n")
    with open(file, "a", encoding="utf-8") as stream:
        stream.writelines(rows)


def save_one_json(predn, jdict: list, path, class_map) -> None:
    """Append boxes [n, 6] (xyxy in pixels, confidence, class) of an image file to a list in COCO's results format."""
    jdict += coco_results(as_float32(predn), Path(path), class_map)
