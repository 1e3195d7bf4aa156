"""A machine-learning backend for Label Studio with a detector of this project; docs/clients.md has the commands.

The environment variables WEIGHTS and CONF_THRES name the model file and the least confidence.
"""

import os

import numpy as np
from label_studio_ml.model import LabelStudioMLBase
from PIL import Image

from extras.clients.boxes import BoxFinder


class Backend(LabelStudioMLBase):
    """Predictions as rectangles, for the first RectangleLabels of the labelling interface."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.find = BoxFinder(os.environ["WEIGHTS"], float(os.environ.get("CONF_THRES", 0.25)))

    def predict(self, tasks: list[dict], **kwargs) -> list[dict]:
        controls = self.parsed_label_config.items()
        name, control = next(item for item in controls if item[1]["type"] == "RectangleLabels")
        same = {"from_name": name, "to_name": control["to_name"][0], "type": "rectanglelabels"}
        key = control["inputs"][0]["value"]
        return [self._prediction(task["data"][key], control["labels"], same) for task in tasks]

    def _prediction(self, address: str, labels: list[str], same: dict) -> dict:
        image = Image.open(self.get_local_path(address)).convert("RGB")
        width, height = image.size
        rows = []
        for x1, y1, x2, y2, score, cls in self.find(np.asarray(image)).tolist():
            label = self.find.names[int(cls)]
            percent = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
            value = {key: share * 100 for key, share in percent.items()}
            value |= {"rotation": 0, "rectanglelabels": [label]}
            if label in labels:
                rows.append(
                    {**same, "value": value, "score": score, "original_width": width, "original_height": height}
                )
        return {"result": rows, "score": max((row["score"] for row in rows), default=0.0)}
