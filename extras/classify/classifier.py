"""Classification of pictures: what classify/predict.py runs. Free of torch."""

from dataclasses import dataclass
from typing import ClassVar

import cv2

from engine.predict.detector import Detector, Prepared
from extras.classify.metrics import softmax
from extras.classify.transforms import center_crop
from utils.nms import as_float32


@dataclass
class Classifier(Detector):
    """A Detector whose pictures are cut to their middle, as in validation, and that gives a chance for each class."""

    task: ClassVar = "classify"
    steps: ClassVar = ("inference", "softmax")

    @classmethod
    def options(cls, opt) -> dict:
        return {"batch_size": opt.batch_size}

    def _prepare(self, frame, number: int) -> Prepared:
        if frame.error:
            return Prepared(frame, number)
        return Prepared(frame, number, cv2.cvtColor(center_crop(frame.image, self.imgsz), cv2.COLOR_BGR2RGB))

    def results(self, prediction, batch: list) -> list:
        rows = softmax(as_float32(prediction))
        return [self._result(prepared.frame, probabilities=row) for prepared, row in zip(batch, rows)]
