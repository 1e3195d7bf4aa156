"""The files in which prediction records what it found: text, CSV, JSON, and a picture of each box.

A sink has write(result), for an engine.predict.detector.Result, and close().
"""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from engine.predict.names import frame_stem, free_file, image_name, safe_name
from utils.boxes import xyxy2xywhn
from utils.console.text import counted
from utils.data.images import write_image
from utils.files import while_writing, write_whole
from utils.logger import LOGGER


class TxtSink:
    """labels/NAME.txt: one row per box; no file where there is no box.

    voc=False: class, xywh normalised by the image's width and height, or with masks the polygon, x y x y ...,
    normalised too. voc=True: class, xyxy in pixels. Then the confidence, if with_conf. A classification gives the
    five most probable classes, each with its probability before it.
    """

    def __init__(self, folder: Path, voc: bool = False, with_conf: bool = False):
        self.folder = folder / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.voc = voc
        self.with_conf = with_conf
        self.files = 0

    def write(self, result) -> None:
        is_class = result.probabilities is not None
        rows = self._chances(result) if is_class else label_rows(result, self.voc, self.with_conf)
        if rows:
            write_whole(self.folder / f"{frame_stem(result)}.txt", "\n".join(rows) + "\n")
            self.files += 1

    @staticmethod
    def _chances(result) -> list:
        return [f"{probability:.2f} {result.names[cls]}" for cls, probability in result.top()]

    def close(self) -> None:
        LOGGER.info(f"{counted(self.files, 'label file')} in {self.folder}")


def label_rows(result, voc: bool = False, with_conf: bool = False) -> list[str]:
    """Return a line for each object with an area, as TxtSink describes them: label files cannot have others."""
    h, w = result.shape
    corners = result.boxes[:, :4]
    shapes = list(corners if voc else xyxy2xywhn(corners.copy(), w, h))
    if result.masks is not None and not voc:
        polygons = [mask.polygon() / np.array([w, h], np.float32) for mask in result.masks]
        shapes = [polygon.ravel() if len(polygon) else box for polygon, box in zip(polygons, shapes)]
    objects = zip(shapes, result.boxes[:, 4:], (corners[:, 2:] > corners[:, :2]).all(1))
    rows = [[cls, *shape, *([conf] * with_conf)] for shape, (conf, cls), has_area in objects if has_area]
    return [" ".join(f"{value:g}" for value in row) for row in rows]


class GrowingFile:
    """A text file that grows with the results under a temporary name, and gets its own when it is whole.

    Where something ends the run early, what was found until then is a whole file too; where the disk is full, what was
    there before stays.
    """

    def __init__(self, file: Path):
        self.path, self.temporary = file, file.with_name(file.name + ".tmp")
        self.file = open(self.temporary, "w", newline="", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self.is_whole = True

    def write(self, text: str) -> None:
        try:
            with while_writing(self.path):
                self.file.write(text)
        except OSError:
            self.is_whole = False
            raise

    def close(self, end: str = "") -> None:
        try:
            with while_writing(self.path), self.file:
                self.file.write(end)
            if self.is_whole:
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


FOLLOWED_COLUMNS = ["Frame", "Time (s)", "Id", "x1", "y1", "x2", "y2"]


class CsvSink:
    """predictions.csv: image name (that of the saved picture), class name, confidence; a row per box or top class.

    with_ids: then also the number of the frame, its time in seconds, the object's id, and the box, xyxy in pixels.
    """

    def __init__(self, folder: Path, with_ids: bool = False):
        self.file = GrowingFile(folder / "predictions.csv")
        self.writer = csv.writer(self.file)
        self.with_ids = with_ids
        self.writer.writerow(["Image Name", "Prediction", "Confidence"] + with_ids * FOLLOWED_COLUMNS)

    def write(self, result) -> None:
        found = [(cls, conf) for *_, conf, cls in result.boxes.tolist()]
        found = found if result.probabilities is None else result.top()
        rows = [[image_name(result), result.names[int(cls)], f"{conf:.2f}"] for cls, conf in found]
        if self.with_ids:
            ids = [""] * len(rows) if result.ids is None else result.ids
            for row, one, box in zip(rows, ids, result.boxes):
                row += [result.frame, f"{result.time_s:.6f}", one or "", *(f"{value:g}" for value in box[:4])]
        self.writer.writerows(rows)

    def close(self) -> None:
        self.file.close()


class JsonSink:
    """predictions.json: a list with a record for each picture: where it is from, its size, and what was found.

    Boxes are xyxy in pixels, with the object's id where objects are followed; a mask is its polygon, x and y in pixels;
    a classification has the top classes. Frames of videos have their time, those of streams their age too, in seconds.
    """

    def __init__(self, folder: Path):
        self.file = GrowingFile(folder / "predictions.json")
        self.file.write("[")
        self.separator = "\n"

    def write(self, result) -> None:
        h, w = result.shape
        boxes = [
            {"class": int(cls), "name": result.names[int(cls)], "confidence": round(conf, 5), "box_xyxy": xyxy}
            for *xyxy, conf, cls in result.boxes.tolist()
        ]
        record = {"image": image_name(result), "source": result.path, "frame": result.frame}
        record |= {"width": w, "height": h}
        if result.kind != "image":
            record["time_s"] = round(result.time_s, 6)
        if result.age_s is not None:
            record["age_s"] = round(result.age_s, 6)
        if result.ids is not None:
            boxes = [{"id": one or None, **box} for one, box in zip(result.ids.tolist(), boxes)]
        if result.masks is not None:
            for box, mask in zip(boxes, result.masks):
                box["polygon"] = mask.polygon().tolist()
        if result.probabilities is None:
            record["boxes"] = boxes
        else:
            record["classes"] = [
                {"class": cls, "name": result.names[cls], "probability": round(probability, 5)}
                for cls, probability in result.top()
            ]
        self.file.write(self.separator + json.dumps(record, ensure_ascii=False))
        self.separator = ",\n"

    def close(self) -> None:
        self.file.close("\n]\n")


class CropSink:
    """crops/CLASS/NAME.jpg: a picture of every box. Where that file exists already, NAME2.jpg, NAME3.jpg ..."""

    def __init__(self, folder: Path):
        from utils.plots.pictures import save_one_box

        self.folder = folder / "crops"
        self.cut = save_one_box

    def write(self, result) -> None:
        count: Counter = Counter()
        for *xyxy, _, cls in result.boxes.tolist():
            crop = self.cut(np.array(xyxy), result.image, BGR=True, save=False)
            folder = self.folder / safe_name(result.names[int(cls)])
            folder.mkdir(parents=True, exist_ok=True)
            count[cls] += 1
            write_image(free_file(folder, frame_stem(result), count[cls]), crop)

    def close(self) -> None:
        pass
