"""Layers that few model files name (Sum, MixConv2d), several models as one (Ensemble), and loading (attempt_load)."""

import math

import torch
from torch import nn

from models.common import BATCH_NORM, activation, fold_batchnorm
from utils.extras import load_extra


class Sum(nn.Module):
    """Sum of a list of n maps of one shape; `weight` gives each but the first a learned factor from 0 to 2."""

    def __init__(self, n, weight=False):
        super().__init__()
        self.n = n
        self.weight = weight
        if weight:
            self.w = nn.Parameter(-torch.arange(1.0, n) / 2)

    def forward(self, x):
        if len(x) != self.n:
            raise ValueError(f"Sum was built for {self.n} maps, found {len(x)}")
        factors = 2 * self.w.sigmoid() if self.weight else [1] * (self.n - 1)
        return x[0] + sum(factor * other for factor, other in zip(factors, x[1:]))


class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes side by side (arXiv 1907.09595), then BatchNorm and activation.

    The c2 output channels are split evenly over the kernels `k`, or with equal_ch=False so that every kernel size has
    about as many weights as the others.
    """

    def __init__(self, c1, c2, k=(1, 3), s=1, equal_ch=True, act=True):
        super().__init__()
        shares = [1.0 if equal_ch else 1 / size**2 for size in k]
        channels = split_channels(c2, shares)
        self.m = nn.ModuleList(
            nn.Conv2d(c1, c, size, s, size // 2, groups=math.gcd(c1, c), bias=False) for size, c in zip(k, channels)
        )
        self.bn = nn.BatchNorm2d(c2, **BATCH_NORM)
        self.act = activation(act)

    def forward(self, x):
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))

    def fuse(self):
        if not isinstance(self.bn, nn.Identity):
            fold_batchnorm(self.m, self.bn)
            self.bn = nn.Identity()


def split_channels(total: int, shares) -> list:
    """`total` as whole numbers >= 1 in about the proportions of `shares`; their sum is exactly `total`."""
    if total < len(shares):
        raise ValueError(f"MixConv2d: {total} output channels cannot be split over {len(shares)} kernels")
    free = total - len(shares)  # one channel each is given in advance
    exact = [max(share * total / sum(shares) - 1, 0) for share in shares]
    scale = free / sum(exact) if free else 0
    edges = [round(scale * sum(exact[:i])) for i in range(len(exact) + 1)]
    return [1 + stop - start for start, stop in zip(edges, edges[1:])]


class Ensemble(nn.ModuleList):
    """Several detectors as one: their boxes [B, N, no] stand one after the other for one NMS."""

    def forward(self, x, augment=False, profile=False, visualize=False):
        boxes = [model(x, augment, profile, visualize)[0] for model in self]
        return torch.cat(boxes, 1), None

    @property
    def stride(self) -> torch.Tensor:
        """The strides of the model whose largest one is largest: an image size that suits it suits them all."""
        return max((model.stride for model in self), key=lambda stride: float(stride.max()))

    @property
    def names(self) -> dict:
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
    """The class of the models for a task, as Checkpoint.task has it."""
    from models import yolo  # here, because yolo's registry imports the layers above

    classes = {cls.task: cls for cls in (yolo.DetectionModel, yolo.SegmentationModel)}
    if task == "classify":
        return load_extra("classify.model").ClassificationModel
    if task not in classes:
        raise ValueError(f"expected a model for one of {', '.join([*classes, 'classify'])}, found one for '{task}'")
    return classes[task]


def attempt_load(weights, device=None, inplace=True, fuse=True):
    """The model of a checkpoint file, or an Ensemble from a list of several: float32, in eval mode.

    inplace: a detection head may overwrite its own maps. fuse: fold the batch-norms, for inference only.
    Raises ValueError where the models of a list differ in their class names, or do not detect.
    """
    from utils.checkpoint import load_checkpoint

    paths = weights if isinstance(weights, (list, tuple)) else [weights]
    models = Ensemble()
    for path in paths:
        ckpt = load_checkpoint(path)
        if len(paths) > 1 and ckpt.task != "detect":
            raise ValueError(f"{path}: an ensemble takes detection models, found one for the task '{ckpt.task}'")
        model = class_for(ckpt.task).from_checkpoint(ckpt, fuse=fuse)
        if ckpt.task != "classify":
            model.inplace = model.head.inplace = inplace
        models.append(model.to(device or "cpu").eval())
    if len(models) == 1:
        return models[0]
    for path, model in zip(paths, models):
        if model.names != models.names:
            raise ValueError(
                f"{path}: expected the class names of the first model, {models.names}, found {model.names}"
            )
    return models
