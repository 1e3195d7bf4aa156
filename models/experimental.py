"""Layers that few model files name: Sum, MixConv2d. YOLOv5's users import attempt_load and Ensemble from here too."""

import math

import torch
from torch import nn

from models.common import BATCH_NORM, activation
from utils.extras import lazy
from utils.torch_utils import fold_batchnorm

__getattr__ = lazy({"Ensemble": "models.load", "attempt_load": "models.load"}, __name__)


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


def split_channels(total: int, shares) -> list[int]:
    """Split `total` into whole numbers >= 1 in about the proportions of `shares`; their sum is exactly `total`."""
    if total < len(shares):
        raise ValueError(f"MixConv2d: {total} output channels cannot be split over {len(shares)} kernels")
    free = total - len(shares)  # one channel each is given in advance
    exact = [max(share * total / sum(shares) - 1, 0) for share in shares]
    scale = free / sum(exact) if free else 0
    edges = [round(scale * sum(exact[:i])) for i in range(len(exact) + 1)]
    return [1 + stop - start for start, stop in zip(edges, edges[1:])]
