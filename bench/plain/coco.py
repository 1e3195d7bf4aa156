"""Average precision by pycocotools."""

import contextlib
import io

import numpy as np


def annotations(boxes_xyxy, classes, image_id, scores=None):
    """Return annotations in COCO's format."""
    found = []
    for i, ((x1, y1, x2, y2), cls) in enumerate(zip(boxes_xyxy.tolist(), classes.tolist())):
        w, h = x2 - x1, y2 - y1
        row = {"image_id": image_id, "category_id": int(cls), "bbox": [x1, y1, w, h], "area": w * h, "iscrowd": 0}
        found.append(row if scores is None else {**row, "score": float(scores[i])})
    return found


def coco_ap(truth, found, count, classes):
    """AP [classes] of IoU 0.5:0.95, nan for a class without objects. truth, found: annotations of images 0, 1 ..."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": i} for i in range(count)],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": [{"id": i, **row} for i, row in enumerate(truth, 1)],
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [10, 101 recalls, classes], all areas, 100 boxes
    precision = np.where(precision < 0, np.nan, precision)
    return precision.mean((0, 1))
