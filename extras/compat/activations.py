"""Activations of YOLOv5's utils.activations; those that torch has are torch's."""

import torch
from torch import nn
from torch.nn import Hardswish, Mish, SiLU

__all__ = ["AconC", "FReLU", "Hardswish", "MetaAconC", "Mish", "SiLU"]


class FReLU(nn.Module):
    """The larger one of a map and of its depthwise convolution (arXiv 2007.11824)."""

    def __init__(self, c1: int, k: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, 1, 1, groups=c1, bias=False)
        self.bn = nn.BatchNorm2d(c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x, self.bn(self.conv(x)))


class AconC(nn.Module):
    """A smooth choice between two learned slopes, p1 and p2, for each channel (arXiv 2009.04759)."""

    def __init__(self, c1: int):
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.beta = nn.Parameter(torch.ones(1, c1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._between(x, self.beta)

    def _between(self, x: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        difference = (self.p1 - self.p2) * x
        return difference * torch.sigmoid(beta * difference) + self.p2 * x


class MetaAconC(AconC):
    """AconC whose smoothness beta follows from the means of the channels (arXiv 2009.04759)."""

    def __init__(self, c1: int, k: int = 1, s: int = 1, r: int = 16):
        super().__init__(c1)
        hidden = max(r, c1 // r)
        del self.beta
        self.fc1 = nn.Conv2d(c1, hidden, k, s, bias=True)
        self.fc2 = nn.Conv2d(hidden, c1, k, s, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._between(x, torch.sigmoid(self.fc2(self.fc1(x.mean((2, 3), keepdim=True)))))
