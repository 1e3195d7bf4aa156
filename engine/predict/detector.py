"""Frames in, Results out: letterbox, model, NMS, boxes in the original's pixels.

Detector is what detect.py runs. The subclasses of other tasks are in extras/segment and extras/classify.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from engine.options.flags import CONF_THRES
from engine.predict.names import Stems, frame_stem
from utils.augmentations import letterboxed_rgb
from utils.boxes import scale_boxes
from utils.console.text import describe_classes
from utils.nms import as_float32, final_boxes
from utils.sources.frame import Frame
from utils.timing import UNTIMED, Profile, Untimed

NO_BOXES = np.zeros((0, 6), np.float32)


@dataclass
class Result:
    """The objects of one picture. With an `error` the picture could not be read and there are no boxes."""

    path: str  # file, URL, stream address or "screen N"
    boxes: np.ndarray  # float32 [n, 6]: xyxy in pixels of the original, confidence, class; by falling confidence
    names: dict
    shape: tuple = (0, 0)  # height, width of the original
    kind: str = "image"  # image, video, stream or screen
    frame: int = 1  # number in the video or stream, from 1
    stem: str = ""  # names the output files
    fps: float = 30.0
    time_s: float = 0.0  # of the frame: as in utils.sources.frame.Frame
    age_s: float | None = None  # of a stream's or screen's frame when its objects were known
    error: str = ""
    image: np.ndarray | None = None  # the original, uint8 [H, W, 3] BGR
    masks: list | None = None  # for segmentation: an extras.segment.crops.CroppedMask for each box
    probabilities: np.ndarray | None = None  # for classification: [nc]
    ids: np.ndarray | None = None  # of followed objects: int [n] from 1, 0 for a box that has none yet
    paint: Callable | None = None  # draws what else there is to see on a picture, uint8 [H, W, 3] BGR, in place

    def top(self, k: int = 5) -> list:
        """Return the k most probable classes of a classification, [(number, probability)]."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(int(cls), float(self.probabilities[cls])) for cls in order]

    def summary(self) -> str:
        """Return '2 persons, 1 bus', or '(no detections)'; for a classification 'cat 0.90, dog 0.08'."""
        if self.probabilities is not None:
            return ", ".join(f"{self.names[cls]} {probability:.2f}" for cls, probability in self.top())
        return describe_classes(self.boxes[:, 5], self.names)

    def without_image(self) -> "Result":
        return replace(self, image=None)


@dataclass
class Prepared:
    """A frame, its number in the run, and its letterboxed picture; without the last where the frame has an error."""

    frame: Frame
    number: int
    picture: np.ndarray | None = None  # uint8 RGB [h, w, 3]
    ratio_pad: tuple = ()  # as scale_boxes takes it


@dataclass
class Detector:
    """Frames in, Results out: letterbox, model, NMS, boxes in the original's pixels. Other tasks have subclasses.

    Pictures go through the model together if their letterboxed shapes are equal, at most batch_size of them: so no
    picture is padded otherwise than alone, and its boxes are the same.
    """

    model: Any  # a DetectMultiBackend
    imgsz: list  # height, width in pixels
    conf_thres: float | list = CONF_THRES  # one number, or one for each class
    iou_thres: float = 0.45
    max_det: int = 1000
    classes: list | None = None
    agnostic_nms: bool = False
    calibrate: Callable | None = None  # takes confidences [n], gives the chances [n] that are shown
    augment: bool = False
    batch_size: int = 1
    visualize: Path | None = None  # a folder
    times: Untimed = UNTIMED  # with --profile a StageTimes
    task: ClassVar = "detect"  # the task of the models that fit
    steps: ClassVar = ("inference", "NMS")  # as the report of times names them

    @classmethod
    def options(cls, opt) -> dict:
        """Return the fields that the command line gives."""
        same = ("conf_thres", "iou_thres", "max_det", "classes", "agnostic_nms", "augment", "batch_size")
        return {key: getattr(opt, key) for key in same}

    def __post_init__(self):
        self.lock = Lock()
        self.auto = self.model.fixed_hw is None  # pad no more than needed
        self.seconds = Counter()  # by step, over all pictures
        self.pictures = 0
        self.shape = None  # the last batch's

    def batches(self, source):
        """Yield batches (lists of Prepared) from a source's lists of frames. A thread that reads ahead runs this."""
        stems, number = Stems(), 0
        for frames in self.times.each("loading", source):
            with self.times("letterbox", Profile()) as letterboxing:
                window = []
                for frame in frames:
                    frame.stem = stems(frame)
                    window.append(self._prepare(frame, number))
                    number += 1
            self._count({"pre-process": letterboxing.t}, len(frames))
            yield from batches_of_equal_shape(window, self.batch_size)

    def _prepare(self, frame: Frame, number: int) -> Prepared:
        if frame.error:
            return Prepared(frame, number)
        return Prepared(frame, number, *letterboxed_rgb(frame.image, self.imgsz, self.auto, self.model.stride))

    def detect(self, batch: list) -> list:
        """Return (number, Result, console line) for each Prepared of a batch. Several threads may run this at once."""
        if batch[0].picture is None:  # an error begins with the path
            lines = [f"{p.frame.kind} {p.frame.item}/{p.frame.items} {p.frame.error}" for p in batch]
            return [(p.number, self._result(p.frame), line) for p, line in zip(batch, lines)]
        pictures = np.stack([prepared.picture for prepared in batch])
        with self.times(self.steps[0], Profile(device=self.model.device)) as inference:
            prediction = self.model.predict(pictures, self.augment, self._feature_folder(batch[0].frame))
        with self.times(self.steps[1], Profile(device=self.model.device)) as finishing:
            results = self.results(prediction, batch)
        h, w = pictures.shape[1:3]
        self._count(dict(zip(self.steps, (inference.t, finishing.t))), shape=(len(batch), 3, h, w))
        self.times.count(len(batch))
        milliseconds = 1e3 * inference.t / len(batch)
        lines = [f"{p.frame.title()}: {h}x{w} {r.summary()}, {milliseconds:.1f}ms" for p, r in zip(batch, results)]
        return [(prepared.number, result, line) for prepared, result, line in zip(batch, results, lines)]

    def results(self, prediction, batch: list) -> list:
        """Return the Results of a batch from the model's prediction; boxes are in whole pixels of the original."""
        found = self.suppress(prediction)
        return [
            self._result(prepared.frame, self.to_original(boxes, prepared)) for boxes, prepared in zip(found, batch)
        ]

    def suppress(self, prediction, nm: int = 0) -> list:
        """Return the boxes of each picture, float32 [n, 6 + nm], in pixels of the letterboxed picture."""
        limits = {"conf_thres": self.conf_thres, "iou_thres": self.iou_thres, "max_det": self.max_det}
        limits |= {"classes": self.classes, "agnostic": self.agnostic_nms, "nm": nm}
        found = [as_float32(boxes) for boxes in final_boxes(prediction, self.model.end2end, **limits)]
        for boxes in found if self.calibrate else ():
            boxes[:, 4] = self.calibrate(boxes[:, 4])
        return found

    @staticmethod
    def to_original(boxes: np.ndarray, prepared: Prepared) -> np.ndarray:
        """Return `boxes` [n, 6], changed in place into whole pixels of the original."""
        scale_boxes(prepared.picture.shape[:2], boxes[:, :4], prepared.frame.image.shape[:2], prepared.ratio_pad)
        boxes[:, :4] = boxes[:, :4].round()
        return boxes

    def _feature_folder(self, frame: Frame):
        """Return the folder for the pictures of this frame's feature maps; False without --visualize."""
        if self.visualize is None:
            return False
        folder = self.visualize / frame_stem(frame)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _result(self, frame: Frame, boxes: np.ndarray = NO_BOXES, **more) -> Result:
        shape = (0, 0) if frame.image is None else frame.image.shape[:2]
        same = {key: getattr(frame, key) for key in ("kind", "frame", "stem", "fps", "time_s", "error", "image")}
        if frame.kind in ("stream", "screen"):
            more["age_s"] = max(time.time() - frame.time_s, 0.0)
        return Result(frame.path, boxes, self.model.names, shape, **same, **more)

    def _count(self, seconds: dict, pictures: int = 0, shape=None) -> None:
        with self.lock:
            self.seconds.update(seconds)
            self.pictures += pictures
            self.shape = shape or self.shape

    def speed(self) -> str:
        """Return one line with the mean milliseconds of each step for a picture."""
        steps = [f"{seconds / self.pictures * 1e3:.1f}ms {step}" for step, seconds in self.seconds.items()]
        return f"Speed: {', '.join(steps)} per image at shape {self.shape}"


def batches_of_equal_shape(window: list, batch_size: int) -> list:
    """Return the Prepared of `window` in lists of one shape (or all without a picture), at most batch_size in each."""
    groups = {}
    for prepared in window:
        shape = None if prepared.picture is None else prepared.picture.shape
        groups.setdefault(shape, []).append(prepared)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]


def in_order(groups):
    """Yield (Result, console line) by rising number, from lists of (number, Result, line) with all numbers from 0."""
    waiting, number = {}, 0
    for group in groups:
        waiting |= {report[0]: report[1:] for report in group}
        while number in waiting:
            yield waiting.pop(number)
            number += 1
