"""Layers that few model files name. YOLOv5's users import attempt_load and Ensemble from here, too."""

import math

import torch
from torch import nn

from models.common import BATCH_NORM, C3, Conv, activation
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


class CrossConv(nn.Module):
    """A k x k convolution as 1 x k then k x 1."""

    def __init__(self, c1, c2, k=3, s=1, g=1, e=1.0, shortcut=False, act=True):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s), act=act)
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g, act=act)
        self.add = shortcut and c1 == c2 and s == 1

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3x(C3):
    """C3 of CrossConv."""

    def inner(self, c, n, shortcut, g, act):
        return nn.Sequential(*(CrossConv(c, c, 3, 1, g, 1.0, shortcut, act) for _ in range(n)))


class Contract(nn.Module):
    """Space to channels: [B, C, H, W] -> [B, g * g * C, H / g, W / g], channels ordered (row, column, C)."""

    def __init__(self, gain=2):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        blocks = x.unflatten(3, (-1, self.gain)).unflatten(2, (-1, self.gain))  # [B, C, H/g, g, W/g, g]
        return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class Expand(nn.Module):
    """Channels to space, the inverse of Contract: [B, C, H, W] -> [B, C / (g * g), g * H, g * W]."""

    def __init__(self, gain=2):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        blocks = x.unflatten(1, (self.gain, self.gain, -1))  # [B, g, g, C/gg, H, W]
        return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
