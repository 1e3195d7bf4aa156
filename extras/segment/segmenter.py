"""Segmentation in pictures: what segment/predict.py runs. Free of torch."""

from dataclasses import dataclass
from typing import ClassVar

from engine.predict.detector import Detector
from extras.segment.crops import cropped_masks


@dataclass
class Segmenter(Detector):
    """A Detector that makes a mask for each box that is left after NMS."""

    retina_masks: bool = False
    task: ClassVar = "segment"
    steps: ClassVar = ("inference", "NMS and masks")

    @classmethod
    def options(cls, opt) -> dict:
        return {**super().options(opt), "retina_masks": opt.retina_masks}

    def results(self, prediction, batch: list) -> list:
        predictions, protos = prediction[:2]
        results = []
        for found, proto, prepared in zip(self.suppress(predictions, nm=protos.shape[1]), protos, batch):
            boxes, coefficients = found[:, :6], found[:, 6:]
            masks = cropped_masks(
                proto,
                coefficients,
                boxes[:, :4],
                prepared.picture.shape[:2],
                prepared.frame.image.shape[:2],
                prepared.ratio_pad,
                self.retina_masks,
            )
            results.append(self._result(prepared.frame, self.to_original(boxes, prepared), masks=masks))
        return results
