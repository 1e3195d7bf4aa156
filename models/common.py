"""The layers of YOLOv5's model files; experimental.py has rare ones, heads.py the heads. Imports torch and utils alone.

Arguments stand in the order in which model files give them: c1 and c2 are input and output channels, k the kernel,
s the stride, p the padding, g the groups, d the dilation, n the repeats, e the hidden channels as a fraction of c2.
`act` is True for SiLU, a module to copy, or False for none. Attribute names are those of YOLOv5 checkpoints.
Maps are [B, C, H, W]. A layer that holds a BatchNorm has `fuse()`, which folds it into the convolutions before it
(exact in eval mode).
"""

import copy
import math

import torch
from torch import nn

from utils.extras import lazy
from utils.torch_utils import fold_batchnorm

BATCH_NORM = {"eps": 1e-3, "momentum": 0.03}
MAX_LAYERS = 300  # in a TransformerBlock, as a model file may claim any number
# YOLOv5's users import these names from here, too.
OWNERS = {
    "models.backends": ["DetectMultiBackend"],
    "models.experimental": ["C3x", "Contract", "CrossConv", "Expand"],
    "models.heads": ["Classify", "Proto"],
    "extras.hub.autoshape": ["AutoShape"],
    "extras.hub.detections": ["Detections"],
}
__getattr__ = lazy({name: owner for owner, names in OWNERS.items() for name in names}, __name__)


def autopad(k, p=None, d=1):
    """Return the padding (int or list like `k`) that keeps the map's size at stride 1; `p` itself where it is given."""
    if p is not None:
        return p
    if isinstance(k, int):
        return (d * (k - 1) + 1) // 2
    return [autopad(size, None, d) for size in k]


def activation(act) -> nn.Module:
    """Return SiLU for True, a copy of a module, Identity for False or None."""
    if act is True:
        return nn.SiLU(inplace=True)  # Nothing else reads the values that it overwrites.
    if isinstance(act, nn.Module):
        return copy.deepcopy(act)
    if act is False or act is None:
        return nn.Identity()
    raise TypeError(f"act must be True, False or an nn.Module, found {act!r}")


class Conv(nn.Module):
    """Convolution, BatchNorm, activation."""

    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, d=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p, d), groups=g, dilation=d, bias=False)
        self.bn = nn.BatchNorm2d(c2, **BATCH_NORM)
        self.act = activation(act)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def fuse(self):
        if not isinstance(self.bn, nn.Identity):
            fold_batchnorm([self.conv], self.bn)
            self.bn = nn.Identity()


class DWConv(Conv):
    """Depthwise convolution: as many groups as c1 and c2 allow."""

    def __init__(self, c1, c2, k=1, s=1, d=1, act=True):
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depthwise transposed convolution; p1 is its padding, p2 its output padding."""

    def __init__(self, c1, c2, k=1, s=1, p1=0, p2=0):
        super().__init__(c1, c2, k, s, p1, p2, groups=math.gcd(c1, c2))


class TransformerLayer(nn.Module):
    """Attention and a linear feed-forward pair, both residual, without LayerNorm. Tokens are [B, N, C]."""

    def __init__(self, c, num_heads):
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(embed_dim=c, num_heads=num_heads, batch_first=True)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x):
        attended, _ = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)
        x = x + attended
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """A map as tokens through `num_layers` transformer layers. `linear` makes the tokens' position term."""

    def __init__(self, c1, c2, num_heads, num_layers, act=True):
        super().__init__()
        self.conv = Conv(c1, c2, act=act) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        if num_layers > MAX_LAYERS:
            raise ValueError(f"expected at most {MAX_LAYERS} transformer layers, found {num_layers}")
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))

    def forward(self, x):
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).transpose(1, 2)  # [B, C, H, W] -> [B, H * W, C]
        tokens = self.tr(tokens + self.linear(tokens))
        return tokens.transpose(1, 2).reshape(x.shape)


class Bottleneck(nn.Module):
    """1x1 then 3x3, with the input added if `shortcut` and the shapes allow it."""

    def __init__(self, c1, c2, shortcut=True, g=1, e=0.5, act=True):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1, act=act)
        self.cv2 = Conv(hidden, c2, 3, 1, g=g, act=act)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class BottleneckCSP(nn.Module):
    """Cross-stage partial block of bottlenecks (arXiv 1911.11929); one BatchNorm covers both branches."""

    def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5, act=True):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1, act=act)
        self.cv2 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2, 1, 1, act=act)
        self.bn = nn.BatchNorm2d(2 * hidden, **BATCH_NORM)
        self.act = activation(act)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, 1.0, act) for _ in range(n)))

    def forward(self, x):
        branches = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(branches)))

    def fuse(self):
        if not isinstance(self.bn, nn.Identity):
            fold_batchnorm([self.cv3, self.cv2], self.bn)
            self.bn = nn.Identity()


class C3(nn.Module):
    """Cross-stage partial block with three convolutions; subclasses put another inner part on the first branch."""

    def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5, act=True):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1, act=act)
        self.cv2 = Conv(c1, hidden, 1, 1, act=act)
        self.cv3 = Conv(2 * hidden, c2, 1, act=act)
        self.m = self.inner(hidden, n, shortcut, g, act)

    def inner(self, c, n, shortcut, g, act) -> nn.Module:
        """Return a module from c to c channels that keeps the map's size."""
        return nn.Sequential(*(Bottleneck(c, c, shortcut, g, 1.0, act) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3TR(C3):
    """C3 of transformer layers with 4 heads."""

    def inner(self, c, n, shortcut, g, act):
        return TransformerBlock(c, c, 4, n, act)


class C3SPP(C3):
    """C3 of spatial pyramid pooling with kernels `k`."""

    def __init__(self, c1, c2, k=(5, 9, 13), n=1, shortcut=True, g=1, e=0.5, act=True):
        self.kernels = k
        super().__init__(c1, c2, n, shortcut, g, e, act)

    def inner(self, c, n, shortcut, g, act):
        return SPP(c, c, self.kernels, act)


class C3Ghost(C3):
    """C3 of ghost bottlenecks."""

    def inner(self, c, n, shortcut, g, act):
        return nn.Sequential(*(GhostBottleneck(c, c, act=act) for _ in range(n)))


class SPP(nn.Module):
    """Spatial pyramid pooling (arXiv 1406.4729): the map beside its max-pools of several kernels."""

    def __init__(self, c1, c2, k=(5, 9, 13), act=True):
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1, act=act)
        self.cv2 = Conv(hidden * (len(k) + 1), c2, 1, 1, act=act)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in k)

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    """SPP with kernels k, 2k - 1 and 3k - 2, made by pooling three times in a row."""

    def __init__(self, c1, c2, k=5, act=True):
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1, act=act)
        self.cv2 = Conv(hidden * 4, c2, 1, 1, act=act)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(torch.cat(maps, 1))


class Focus(nn.Module):
    """Every 2 x 2 pixels become channels (column by column), then a convolution: [B, c1, H, W] -> [B, c2, H/2, W/2]."""

    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, act=True):
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act=act)

    def forward(self, x):
        pixels = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(pixels, 1))


class GhostConv(nn.Module):
    """Half of the channels by a convolution, the others from them by a cheap 5x5 depthwise one (arXiv 1911.11907)."""

    def __init__(self, c1, c2, k=1, s=1, g=1, act=True):
        super().__init__()
        hidden = c2 // 2
        self.cv1 = Conv(c1, hidden, k, s, None, g, act=act)
        self.cv2 = Conv(hidden, hidden, 5, 1, None, hidden, act=act)

    def forward(self, x):
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


class GhostBottleneck(nn.Module):
    """Residual pair of ghost convolutions, with a depthwise one between where the stride is 2."""

    def __init__(self, c1, c2, k=3, s=1, act=True):
        super().__init__()
        hidden = c2 // 2
        down = s == 2
        self.conv = nn.Sequential(
            GhostConv(c1, hidden, 1, 1, act=act),
            DWConv(hidden, hidden, k, s, act=False) if down else nn.Identity(),
            GhostConv(hidden, c2, 1, 1, act=False),
        )
        self.shortcut = nn.Identity()
        if down:
            self.shortcut = nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, 1, 1, act=False))

    def forward(self, x):
        return self.conv(x) + self.shortcut(x)


class Concat(nn.Module):
    """A list of maps as one along `dimension`."""

    def __init__(self, dimension=1):
        super().__init__()
        self.d = dimension

    def forward(self, x):
        return torch.cat(x, self.d)
