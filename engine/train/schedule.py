"""Learning rate, momentum and gradient accumulation as pure functions of the iteration, so resume needs no state."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from utils.general import one_cycle

LONGEST_WARMUP_PART = 1 / 3  # share of all iterations: a short training must not end inside its warm-up
BIAS_GROUP = 0  # index of the optimizer's group of biases


class Settings(NamedTuple):
    """The settings of one iteration. `lrs`: one per optimizer group; `accumulate`: batches in an optimizer step."""

    lrs: list[float]
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """YOLOv5's schedule: a linear or cosine fall from lr0 to lr0 * lrf, changed at epochs, after a linear warm-up.

    In the warm-up the biases' rate falls from `warmup_bias_lr`, the others' rises from 0, the momentum rises from
    `warmup_momentum` and the accumulation from 1 batch.
    """

    epochs: int
    batches_per_epoch: int
    batch_size: int
    hyp: dict
    cosine: bool = False
    groups: int = 3
    progress: float | None = None  # 0..1 for the lr in the place of epochs done of all; where time sets the length

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step after the warm-up."""
        return accumulation(self.batch_size, self.hyp["nominal_batch"])

    @property
    def warmup_iterations(self) -> int:
        wanted = max(round(self.hyp["warmup_epochs"] * self.batches_per_epoch), self.hyp["warmup_least"])
        return min(wanted, int(self.epochs * self.batches_per_epoch * LONGEST_WARMUP_PART))

    def lr_part(self, epoch: float) -> float:
        """Return the learning rate of `epoch` as a part of lr0."""
        lrf, epoch = self.hyp["lrf"], epoch if self.progress is None else self.progress * self.epochs
        if self.cosine:
            return one_cycle(1.0, lrf, self.epochs)(epoch)
        return (1 - epoch / self.epochs) * (1 - lrf) + lrf

    def at(self, iteration: int) -> Settings:
        """Return the settings of `iteration`, counted from 0 over all epochs."""
        lr = self.hyp["lr0"] * self.lr_part(iteration // self.batches_per_epoch)
        done = iteration / self.warmup_iterations if self.warmup_iterations else 1.0
        if done >= 1:
            return Settings([lr] * self.groups, self.hyp["momentum"], self.accumulate)
        starts = [self.hyp["warmup_bias_lr"] if group == BIAS_GROUP else 0.0 for group in range(self.groups)]
        return Settings(
            [start + done * (lr - start) for start in starts],
            self.hyp["warmup_momentum"] + done * (self.hyp["momentum"] - self.hyp["warmup_momentum"]),
            max(1, round(1 + done * (self.hyp["nominal_batch"] / self.batch_size - 1))),
        )


def accumulation(batch_size: int, nominal_batch: float) -> int:
    """Return how many batches make one optimizer step."""
    return max(round(nominal_batch / batch_size), 1)


def scaled_weight_decay(hyp: dict, batch_size: int) -> float:
    """Return the weight decay per optimizer step: proportional to the images in it."""
    nominal = hyp["nominal_batch"]
    return hyp["weight_decay"] * batch_size * accumulation(batch_size, nominal) / nominal


def scaled_loss_gains(hyp: dict, nl: int, nc: int, imgsz: int) -> dict:
    """Return `hyp` with gains made comparable over `nl` output maps, `nc` classes and the image size (px)."""
    scaled = dict(hyp)
    scaled["box"] *= 3 / nl
    scaled["cls"] *= nc / 80 * 3 / nl
    if hyp.get("obj_loss", "bce") == "bce":  # a mean over all locations, of which larger images have more empty ones
        scaled["obj"] *= (imgsz / 640) ** 2
    scaled["obj"] *= 3 / nl
    return scaled


def multi_scale_size(imgsz: int, stride: int, rng) -> int:
    """Return an image size between 50 and 150 % of `imgsz`, a multiple of `stride`; `rng`: numpy Generator."""
    least = max(math.ceil(imgsz * 0.5 / stride), 1)
    most = max(math.floor(imgsz * 1.5 / stride), least)
    return int(rng.integers(least, most + 1)) * stride


def resize_batch(images: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Scale [B, 3, H, W] so that the longer side is `size` px and both are multiples of `stride`."""
    gain = size / max(images.shape[2:])
    if gain == 1:
        return images
    shape_hw = [math.ceil(side * gain / stride) * stride for side in images.shape[2:]]
    return F.interpolate(images, size=shape_hw, mode="bilinear", align_corners=False)


def multi_scaled(images: torch.Tensor, iteration: int, imgsz: int, stride: int, seed: int) -> torch.Tensor:
    """Scale a batch to the random size of --multi-scale, which is the same in every process."""
    rng = np.random.default_rng([seed, iteration])
    return resize_batch(images, multi_scale_size(imgsz, stride, rng), stride)


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of an epoch for everything random that has no generator of its own, such as dropout."""
    return int(np.random.SeedSequence([seed, epoch, max(rank, 0)]).generate_state(1)[0])
