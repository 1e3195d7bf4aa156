"""A detector as one function of a picture, for plug-ins of other programs. Free of torch where the model file is."""

import numpy as np

from models.backends import DetectMultiBackend
from utils.augmentations import letterboxed_rgb
from utils.boxes import scale_boxes
from utils.nms import as_float32, final_boxes


class BoxFinder:
    """Boxes in one picture after another. weights: a checkpoint, or a file of export.py that detect.py reads.

    conf_thres: None takes the model's own thresholds if it has any, else 0.25. Several threads may not share it.
    """

    def __init__(self, weights, conf_thres: float | None = None, iou_thres: float = 0.45, max_det: int = 300):
        self.model = DetectMultiBackend(weights, "cpu")
        self.model.require_task("detect")
        own = self.model.backend.thresholds
        self.limits = {"conf_thres": conf_thres if conf_thres is not None else own.conf if own else 0.25}
        self.limits |= {"iou_thres": iou_thres, "max_det": max_det}
        size = self.model.fixed_hw or self.model.imgsz or 640
        self.imgsz = [size, size] if isinstance(size, int) else list(size)

    @property
    def names(self) -> dict[int, str]:
        return self.model.names

    def __call__(self, image_rgb: np.ndarray) -> np.ndarray:
        """Return boxes [n, 6], xyxy in the picture's pixels, confidence, class, for uint8 RGB [H, W, 3]."""
        bgr = np.ascontiguousarray(image_rgb[..., ::-1])
        picture, ratio_pad = letterboxed_rgb(bgr, self.imgsz, self.model.fixed_hw is None, self.model.stride)
        boxes = as_float32(final_boxes(self.model.predict(picture[None]), self.model.end2end, **self.limits)[0])
        scale_boxes(picture.shape[:2], boxes[:, :4], bgr.shape[:2], ratio_pad)
        return boxes
