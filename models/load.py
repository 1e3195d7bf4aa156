"""Models from checkpoint files: one (attempt_load), or several as one (Ensemble)."""

from pathlib import Path

import torch
from torch import nn

from models.yolo import DetectionModel, SegmentationModel
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.extras import load_extra
from utils.files import naming


class Ensemble(nn.ModuleList):
    """Several detectors as one: their boxes [B, N, no], one detector's after the other's, for one NMS."""

    def forward(self, x, augment=False, profile=False, visualize=False):
        boxes = [model(x, augment, profile, visualize)[0] for model in self]
        return torch.cat(boxes, 1), None

    @property
    def stride(self) -> torch.Tensor:
        """The strides of the model whose largest one is largest: an image size that suits it suits them all."""
        return max((model.stride for model in self), key=lambda stride: float(stride.max()))

    @property
    def names(self) -> dict[int, str]:
        return self[0].names

    @property
    def nc(self) -> int:
        return self[0].nc

    @property
    def yaml(self) -> dict:
        return self[0].yaml

    @property
    def imgsz(self):
        return self[0].imgsz


def class_for(task: str) -> type:
    """Return the class of the models for a task, as Checkpoint.task has it."""
    if task == "classify":
        return load_extra("classify.model").ClassificationModel
    classes = {cls.task: cls for cls in (DetectionModel, SegmentationModel)}
    if task not in classes:
        raise ValueError(f"expected a model for one of {', '.join([*classes, 'classify'])}, found one for '{task}'")
    return classes[task]


def model_of(ckpt: Checkpoint, file: Path | str, fuse: bool = False) -> nn.Module:
    """Return the model of a checkpoint that was read from `file`, float32, in eval mode. ValueError names the file."""
    with naming(file):
        return class_for(ckpt.task).from_checkpoint(ckpt, fuse=fuse)


def attempt_load(weights, device=None, inplace: bool = True, fuse: bool = True, map_location=None) -> nn.Module:
    """Return the model of a checkpoint file, or an Ensemble from a list of several: float32, in eval mode.

    inplace: a detection head may overwrite its own maps. fuse: fold the batch-norms, for inference only.
    map_location: what `device` was called until YOLOv5 v6.1.
    Raises ValueError where the models of a list differ in their class names, or do not detect.
    """
    paths = weights if isinstance(weights, (list, tuple)) else [weights]
    models = Ensemble()
    for path in paths:
        ckpt = load_checkpoint(path)
        if len(paths) > 1 and ckpt.task != "detect":
            raise ValueError(f"{path}: an ensemble takes detection models, found one for the task '{ckpt.task}'")
        model = model_of(ckpt, path, fuse)
        if ckpt.task != "classify":
            model.inplace = model.head.inplace = inplace
        models.append(model.to(device or map_location or "cpu").eval())
        if model.names != models.names:
            expected = f"expected the class names of the first model, {models.names}"
            raise ValueError(f"{path}: {expected}, found {model.names}")
    return models if len(models) > 1 else models[0]
