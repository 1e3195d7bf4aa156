"""CVAT's automatic annotation with a detector of this project; docs/clients.md has the commands.

CVAT's command line calls create() with what follows its -p flags.
"""

import cvat_sdk.auto_annotation as cvataa
import numpy as np

from extras.clients.boxes import BoxFinder


class Function:
    """What CVAT wants: `spec`, the labels, and `detect`, which takes a picture and returns shapes."""

    def __init__(self, weights: str, conf_thres: float = 0.25):
        self.find, self.conf_thres = BoxFinder(weights, conf_thres=0.01), conf_thres
        labels = [cvataa.label_spec(name, number, type="rectangle") for number, name in self.find.names.items()]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(self, context, image) -> list:
        least = self.conf_thres if context.conf_threshold is None else context.conf_threshold
        boxes = self.find(np.asarray(image.convert("RGB")))
        return [cvataa.rectangle(int(box[5]), box[:4].tolist()) for box in boxes if box[4] >= least]


create = Function
