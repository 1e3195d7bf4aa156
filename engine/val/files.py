"""The files with the boxes that a validation found: labels/NAME.txt and predictions.json."""

import json
from pathlib import Path

import numpy as np

from engine.val.evaluator import EvalOptions
from utils.boxes import xyxy2xywh, xyxy2xywhn
from utils.files import write_whole
from utils.general import coco80_to_coco91_class
from utils.logger import LOGGER


class PredictionFiles:
    """The writer of labels/NAME.txt for each image and, at the end, predictions.json, as far as the options say."""

    def __init__(self, options: EvalOptions, names):
        self.options = options
        self.folder = Path(options.save_dir or "")
        self.category_ids = coco80_to_coco91_class() if is_coco(names) else list(range(len(names)))
        self.results: list[dict] = []
        self.written: set[str] = set()
        if options.save_txt:
            (self.folder / "labels").mkdir(parents=True, exist_ok=True)

    def write(self, boxes, shape_hw, path: Path, masks=(), polygons=()) -> None:
        """Write the boxes [n, 6] of the image `path`, in its pixels; without boxes no text file, as with YOLOv5.

        With segmentation also, for each box, the mask's run lengths and its polygon [k, 2] in pixels.
        """
        if self.options.save_txt and len(boxes):
            self.write_txt(boxes, shape_hw, path, polygons)
        if self.options.save_json:
            results = coco_results(boxes, path, self.category_ids)
            for result, code in zip(results, masks):
                result["segmentation"] = code
            self.results += results

    def write_txt(self, boxes, shape_hw, path: Path, polygons) -> None:
        """Write a row for each box: class, xywh or, where there is one, the polygon, normalised, and the confidence."""
        height, width = shape_hw
        shapes = list(xyxy2xywhn(boxes[:, :4], width, height))
        for i, polygon in enumerate(polygons):
            shapes[i] = (polygon / np.array([width, height], np.float32)).ravel() if len(polygon) else shapes[i]
        rows = [[cls, *shape, conf] for shape, (conf, cls) in zip(shapes, boxes[:, 4:6])]
        rows = rows if self.options.save_conf else [row[:-1] for row in rows]
        name, number = path.stem, 2
        while name in self.written:  # images of one name in two folders
            name, number = f"{path.stem}_{number}", number + 1
        self.written.add(name)
        file = self.folder / "labels" / f"{name}.txt"
        write_whole(file, "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows))

    def close(self) -> None:
        if self.options.save_json:
            file = self.folder / "predictions.json"
            write_whole(file, json.dumps(self.results))
            LOGGER.info(f"{len(self.results)} boxes in COCO's results format: {file}")


def is_coco(names) -> bool:
    """Tell whether these are the 80 class names of COCO, whose published category ids have gaps."""
    return len(names) == 80 and [names[i] for i in (0, 1, 79)] == ["person", "bicycle", "toothbrush"]


def coco_results(boxes, path: Path, category_ids) -> list:
    """Return an image's boxes [n, 6] in COCO's results format; image_id is the file's stem, an int if it is digits."""
    image_id = int(path.stem) if path.stem.isdecimal() else path.stem
    xywh = xyxy2xywh(boxes[:, :4].astype(np.float64))
    xywh[:, :2] -= xywh[:, 2:] / 2  # COCO's xy is the top-left corner
    columns = zip(xywh.round(3).tolist(), boxes[:, 4].tolist(), boxes[:, 5].tolist())
    return [
        {"image_id": image_id, "category_id": category_ids[int(cls)], "bbox": xywh, "score": round(score, 5)}
        for xywh, score, cls in columns
    ]
