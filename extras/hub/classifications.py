"""AutoShape for classifiers, and what it gives: the probability of each class, to print, draw, save, or as pandas."""

import copy

import numpy as np
import torch

from engine.predict.detector import NO_BOXES, Result
from engine.predict.sinks import Drawer
from extras.classify.metrics import softmax
from extras.classify.transforms import center_crop
from extras.hub.autoshape import AutoShape
from extras.hub.detections import Results
from utils.nms import as_float32

DEFAULT_IMGSZ_PX = 224


class Classifications(Results):
    """The probabilities of the classes in a batch of images, as Results.

    pred   float32 [nc], by class number; the same as probs
    """

    last_step = "softmax"

    def __init__(self, ims, pred, files, times=(0.0, 0.0, 0.0), names=None, shape=None):
        super().__init__(ims, pred, files, times, names, shape)
        self.probs = pred

    def _result(self, pred: np.ndarray, image: np.ndarray | None = None) -> Result:
        return Result("", NO_BOXES, self.names, image=image, probabilities=pred)

    def _summary(self, pred: np.ndarray) -> str:
        """Return 'cat 0.90, dog 0.08': the five most probable classes."""
        return self._result(pred).summary()

    def top(self, k: int = 5) -> list[list[tuple[int, float]]]:
        """Return for each image its k most probable classes: (number, probability), by falling probability."""
        return [self._result(pred).top(k) for pred in self.pred]

    def pandas(self) -> "Classifications":
        """Return a copy whose probs hold DataFrames: confidence, class and name, by falling confidence."""
        tables = copy.copy(self)
        orders = [np.argsort(-pred, kind="stable") for pred in self.pred]
        tables.probs = [self._frame(["confidence"], p[o][:, None], o.tolist()) for p, o in zip(self.pred, orders)]
        return tables

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        draw = Drawer()
        return [draw(self._result(pred, im)) if labels else im.copy() for im, pred in zip(self.ims, self.pred)]


class ClassifyShape(AutoShape):
    """A classifier for images of any kind and size: their middle, inference, the probability of each class.

    It is called as AutoShape is, and gives Classifications; a tensor [B, 3, H, W] gives the model's logits [B, nc].
    """

    results = Classifications

    def __init__(self, model):
        """Wrap a ClassificationModel, or a DetectMultiBackend of one."""
        super().__init__(model)
        self.imgsz = getattr(model, "imgsz", None) or DEFAULT_IMGSZ_PX

    def _pictures(self, images: list[np.ndarray], size: int | tuple[int, int]) -> tuple[list[np.ndarray], list]:
        """Return the middle of each image, of one shape. ValueError for a size that is not positive."""
        size = self.fixed_hw or size
        if np.size(size) > 2 or np.min(size) <= 0:
            raise ValueError(f"size must be a positive number or (height, width), found {size!r}")
        return [center_crop(image, size) for image in images], []

    def _infer(self, batch: torch.Tensor, augment: bool, profile: bool):
        if augment:
            raise ValueError("augment=True: a classifier has no test-time augmentation")
        return super()._infer(batch, False, profile)

    def _pred(self, output, shape_hw: tuple, images: list[np.ndarray], ratio_pads: list) -> list[np.ndarray]:
        return list(softmax(as_float32(output)))
