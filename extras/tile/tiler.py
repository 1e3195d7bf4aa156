"""Detection in a large picture, view by view. find_boxes() is the one function that everything else calls.

Free of torch, as the runtimes of exported files are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extras.tile.grid import views_of
from extras.tile.merge import merge_views
from utils.augmentations import letterbox
from utils.boxes import scale_boxes
from utils.nms import as_float32, final_boxes

CANDIDATES = 8  # so many for each wanted box take part in the merging


# The rows of model files whose cost grows with the picture and no faster, and that look at the neighbourhood alone.
LOCAL = frozenset(
    "Conv DWConv CrossConv Focus Bottleneck BottleneckCSP C3 C3x C3SPP C3Ghost SPP SPPF GhostConv GhostBottleneck "
    "MixConv2d nn.Conv2d nn.ConvTranspose2d DWConvTranspose2d nn.BatchNorm2d nn.MaxPool2d nn.AvgPool2d nn.ZeroPad2d "
    "nn.Upsample nn.Identity nn.SiLU nn.ReLU nn.LeakyReLU nn.Hardswish Contract Expand Concat Sum Detect".split()
)


def may_join(model) -> bool:
    """Tell whether tiles can go through a model in strips: it takes any size, and has no attention or other global row.

    Attention would cost more than by tiles, as it grows with the square of the picture's area.
    """
    rows = [*model.yaml.get("backbone", []), *model.yaml.get("head", [])]
    is_known = bool(rows) and all(isinstance(row, list) and len(row) > 2 and row[2] in LOCAL for row in rows)
    return is_known and model.fixed_hw is None and not model.end2end and len(model.files) == 1


@dataclass(frozen=True)
class Tiler:
    """How to look at large pictures: the model, the size of its input, the tiles, and what NMS takes."""

    model: Any  # a DetectMultiBackend
    imgsz: tuple  # height, width of the model's input in pixels, for the whole picture and for every tile
    tile_px: int
    overlap: float
    nms: dict = field(default_factory=dict)  # conf_thres, iou_thres, max_det ... of utils.nms.final_boxes
    augment: bool = False

    joined: bool = False  # tiles go through the model in strips: see may_join()

    def __post_init__(self):
        if self.nms["iou_thres"] <= 0:
            raise ValueError(f"--tile needs an IoU threshold above 0, found {self.nms['iou_thres']}")

    def find_boxes(self, image_rgb: np.ndarray) -> np.ndarray:
        """Return the boxes of a picture, uint8 RGB [H, W, 3]: float32 [n, 6], xyxy in its pixels, confidence, class."""
        views = views_of(*image_rgb.shape[:2], self.tile_px, self.overlap, self.joined)
        found = list(self.model.parallel_map(self._look(image_rgb), enumerate(views.tolist())))
        if len(views) == 1:
            return found[0]
        boxes, view = np.concatenate(found), np.repeat(np.arange(len(views)), list(map(len, found)))
        max_det = self.nms["max_det"]
        best = np.argsort(-boxes[:, 4], kind="stable")[: CANDIDATES * max_det]
        same = {"iou_thres": self.nms["iou_thres"], "agnostic": self.nms.get("agnostic", False), "max_det": max_det}
        return merge_views(boxes[best], view[best], views, **same)

    def _look(self, image_rgb: np.ndarray) -> Callable:
        """Return the function from (number, view [4] xyxy) to its boxes [n, 6] in pixels of the picture."""

        def look(numbered: tuple) -> np.ndarray:
            number, (x1, y1, x2, y2) = numbered
            part = image_rgb[y1:y2, x1:x2]
            size_hw = self._strip_hw(part.shape) if self.joined and number > 0 else self.imgsz
            auto = self.model.fixed_hw is None
            padded, ratio_wh, pad_wh = letterbox(part, size_hw, auto=auto, stride=self.model.stride)
            prediction = self.model.predict(np.ascontiguousarray(padded)[None], self.augment)
            boxes = as_float32(final_boxes(prediction, self.model.end2end, **self.nms)[0])[:, :6]
            scale_boxes(padded.shape[:2], boxes[:, :4], part.shape[:2], (ratio_wh[::-1], pad_wh))
            return boxes + np.array([x1, y1, x1, y1, 0, 0], np.float32)

        return look

    def _strip_hw(self, shape_hw) -> tuple:
        """Return the model's input for several tiles together, with as many pixels for each as for one alone."""
        scale = min(self.imgsz) / self.tile_px
        return tuple(round(side * scale / self.model.stride) * self.model.stride for side in shape_hw[:2])
