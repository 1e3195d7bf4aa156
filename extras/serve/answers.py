"""The shapes in which boxes are returned."""

import cv2

from engine.predict.detector import Result
from engine.predict.records import label_rows
from engine.predict.sinks import Drawer

COLUMNS = ("xmin", "ymin", "xmax", "ymax")  # of YOLOv5's results.pandas().xyxy


def as_coco(results: list[Result]) -> dict:
    """Return a COCO data set of the pictures; annotations have a score, category ids are the model's class numbers."""
    annotations = []
    for number, result in enumerate(results, 1):
        for x1, y1, x2, y2, score, cls in result.boxes.tolist():
            box = {"id": len(annotations) + 1, "image_id": number, "category_id": int(cls)}
            box |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append(box | {"score": round(score, 5)})
    images = [
        {"id": number, "file_name": result.path, "width": result.shape[1], "height": result.shape[0]}
        for number, result in enumerate(results, 1)
    ]
    categories = [{"id": cls, "name": name} for cls, name in results[0].names.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def as_records(results: list[Result]) -> list[dict]:
    """Return a record for each box, as YOLOv5's results.pandas().xyxy has it, and the number of its picture."""
    return [
        {"image": number, **dict(zip(COLUMNS, xyxy)), "confidence": round(conf, 5)}
        | {"class": int(cls), "name": result.names[int(cls)]}
        for number, result in enumerate(results, 1)
        for *xyxy, conf, cls in result.boxes.tolist()
    ]


def as_labels(results: list[Result]) -> list[str]:
    """Return the text of a label file for each picture: class, xywhn, confidence."""
    return ["".join(f"{row}\n" for row in label_rows(result, with_conf=True)) for result in results]


def as_jpeg(result: Result) -> bytes:
    """Return the picture with its boxes drawn."""
    return cv2.imencode(".jpg", Drawer()(result))[1].tobytes()


SHAPES = {"coco": as_coco, "pandas": as_records, "yolo": as_labels}
