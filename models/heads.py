"""Heads, the last rows of model files: Detect gives boxes, Segment also what masks are made of, Classify classes."""

import math

import torch
from torch import nn

from models.common import Conv
from utils.autoanchor import placeholder_anchors
from utils.console.text import brief

MAX_ANCHORS = 1000  # on a map, where a model file gives their number alone


class Detect(nn.Module):
    """YOLOv5's anchor head: one 1x1 convolution on each of nl maps.

    Training: a list of nl raw maps [B, na, ny, nx, no], no = 5 + nc: x, y, w, h, objectness, classes.
    Eval: ([B, N, no], maps), the boxes as xywh in input pixels, the scores through a sigmoid. Always float32: half
    precision cannot tell the pixels of a large image apart. With `export`: [B, N, no] alone.
    """

    export = False
    anchors: torch.Tensor  # [nl, na, 2]; in stride units as soon as the strides are known
    stride: torch.Tensor  # [nl] px

    def __init__(self, nc: int, anchors, ch, inplace: bool = True, nm: int = 0):
        """`anchors`: for each map a list w, h, w, h ... in px, or their number (then autoanchor must find them).

        `nm`: values behind the class scores that stay raw, for a subclass.
        """
        super().__init__()
        anchors = anchor_tensor(anchors, len(ch))
        if not (isinstance(nc, int) and nc > 0):
            raise ValueError(f"expected a positive number of classes, found nc={brief(nc)}")
        self.nc, self.nm = nc, nm
        self.no = 5 + nc + nm
        self.nl, self.na = anchors.shape[:2]
        self.inplace = inplace
        self.register_buffer("anchors", anchors)
        self.register_buffer("stride", torch.ones(self.nl), persistent=False)
        self.grid = [torch.empty(0)] * self.nl  # cell corners of the last size, [1, 1, ny, nx, 2]
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)

    def forward(self, x):
        maps = [conv(level) for conv, level in zip(self.m, x)]
        if self.export:
            return torch.cat([self._decode_flat(raw, i) for i, raw in enumerate(maps)], 1)
        maps = [self._split_anchors(raw) for raw in maps]
        if self.training:
            return maps
        return torch.cat([self._decode(raw, i) for i, raw in enumerate(maps)], 1), maps

    def _decode_flat(self, y: torch.Tensor, i: int) -> torch.Tensor:
        """Decode [B, na * no, ny, nx] as _decode() does, for exports: in four dimensions at most, in new tensors."""
        b, _, ny, nx = y.shape
        y = self._activate(y.reshape(b, self.na, self.no, ny * nx).float(), 2)
        stride = float(self.stride[i])
        anchors_px = (self.anchors[i].float() * stride).view(1, self.na, 2, 1)
        xy = (y[:, :, 0:2] * 2 + self._cells(ny, nx, y.device)) * stride
        wh = (y[:, :, 2:4] * 2) ** 2 * anchors_px
        return torch.cat((xy, wh, y[:, :, 4:]), 2).transpose(2, 3).reshape(b, self.na * ny * nx, self.no)

    @staticmethod
    def _cells(ny, nx, device) -> torch.Tensor:
        """Return the offsets [1, 1, 2, ny * nx] that are added to twice the sigmoid of x and y."""
        rows, columns = torch.arange(ny, device=device), torch.arange(nx, device=device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack((x.reshape(-1), y.reshape(-1)))[None, None].float() - 0.5

    def _split_anchors(self, y: torch.Tensor) -> torch.Tensor:
        """Return [B, na, ny, nx, no] of [B, na * no, ny, nx]."""
        b, _, ny, nx = y.shape
        return y.view(b, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2)

    def _decode(self, raw: torch.Tensor, i: int) -> torch.Tensor:
        """Decode raw map i: [B, na, ny, nx, no] -> [B, na * ny * nx, no], boxes as xywh in px."""
        y = self._activate(raw.float().contiguous(), -1)
        stride = self.stride[i]
        anchors_px = (self.anchors[i].float() * stride).view(1, self.na, 1, 1, 2)
        xy = (y[..., 0:2] * 2 - 0.5 + self._grid(y, i)) * stride
        wh = (y[..., 2:4] * 2) ** 2 * anchors_px
        if self.inplace and not y.requires_grad:
            y[..., 0:2] = xy
            y[..., 2:4] = wh
        else:
            y = torch.cat((xy, wh, y[..., 4:]), -1)
        return y.view(y.shape[0], -1, self.no)

    def _activate(self, raw: torch.Tensor, axis: int) -> torch.Tensor:
        """Return a new tensor with the sigmoid of all of the `no` values on `axis` but the last nm."""
        if not self.nm:
            return raw.sigmoid()
        scores, coefficients = raw.split((self.no - self.nm, self.nm), axis)
        return torch.cat((scores.sigmoid(), coefficients), axis)

    def _grid(self, y: torch.Tensor, i: int) -> torch.Tensor:
        ny, nx = y.shape[2:4]
        grid = self.grid[i]
        if grid.shape[2:4] != (ny, nx) or grid.device != y.device:
            with torch.inference_mode(False):  # an inference tensor could not be used with gradients later
                rows, columns = torch.arange(ny, device=y.device), torch.arange(nx, device=y.device)
                grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None, None].float()
            if not torch.jit.is_tracing():
                self.grid[i] = grid
        return grid

    @torch.no_grad()
    def set_stride(self, stride: torch.Tensor) -> None:
        """Fix the strides [nl] (px) and turn the anchors from px into stride units. Called once, at build time."""
        self.stride = stride.to(self.anchors)
        self.anchors /= self.stride.view(-1, 1, 1)

    @torch.no_grad()
    def initialize_biases(self, class_frequencies=None) -> None:
        """Set biases that predict about 8 objects in a 640 px image; `class_frequencies` [nc], default equal ones."""
        if class_frequencies is None:
            classes = torch.tensor(math.log(0.6 / (self.nc - 0.99999)))
        else:
            classes = torch.log(class_frequencies / class_frequencies.sum())
        for conv, stride in zip(self.m, self.stride.tolist()):
            bias = conv.get_parameter("bias").view(self.na, self.no)
            bias[:, 4] = math.log(8 / (640 / stride) ** 2)
            bias[:, 5 : 5 + self.nc] = classes


class Proto(nn.Module):
    """Mask prototypes: [B, c1, H, W] -> [B, c2, 2H, 2W] through c_ hidden channels."""

    def __init__(self, c1, c_=256, c2=32, act=True):
        super().__init__()
        self.cv1 = Conv(c1, c_, 3, act=act)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.cv2 = Conv(c_, c_, 3, act=act)
        self.cv3 = Conv(c_, c2, act=act)

    def forward(self, x):
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Segment(Detect):
    """Detect with nm mask coefficients for each box, and prototypes [B, nm, H/4, W/4] from the finest map.

    A box's mask is the sigmoid of its coefficients times the prototypes, cut to the box (YOLACT, arXiv 1904.02689).
    Training: (maps [B, na, ny, nx, 5 + nc + nm], prototypes). Eval: ([B, N, 5 + nc + nm], prototypes, maps), boxes and
    scores as in Detect, the coefficients raw. With `export`: ([B, N, 5 + nc + nm], prototypes).
    """

    def __init__(self, nc: int, anchors, nm: int, npr: int, ch, inplace: bool = True):
        """`npr`: hidden channels of the prototypes' convolutions."""
        if not (isinstance(nm, int) and nm > 0):
            raise ValueError(f"expected a positive number of masks, found nm={brief(nm)}")
        super().__init__(nc, anchors, ch, inplace, nm)
        self.npr = npr
        self.proto = Proto(ch[0], npr, nm)

    def forward(self, x):
        protos = self.proto(x[0])
        output = super().forward(x)
        if self.training or self.export:
            return output, protos
        predictions, maps = output
        return predictions, protos, maps


class Classify(nn.Module):
    """Classification head: a map, or a list of maps that are concatenated, -> logits [B, c2]."""

    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, dropout_p=0.0, act=True):
        super().__init__()
        hidden = 1280  # as in EfficientNet-B0
        self.conv = Conv(c1, hidden, k, s, p, g, act=act)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(dropout_p)
        self.linear = nn.Linear(hidden, c2)

    def forward(self, x):
        if isinstance(x, (list, tuple)):
            x = torch.cat(x, 1)
        return self.linear(self.drop(self.pool(self.conv(x)).flatten(1)))


def anchor_tensor(anchors, levels: int) -> torch.Tensor:
    """Return anchors [levels, na, 2] in px from a list for each map; from their number placeholders."""
    if isinstance(anchors, int) and 0 < anchors <= MAX_ANCHORS:
        anchors = placeholder_anchors(anchors, levels)
    if not isinstance(anchors, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in anchors):
        raise ValueError(
            f"anchors: expected a list of w, h, w, h ... for each map, or their number, found {brief(anchors)}"
        )
    if len(anchors) != levels:
        raise ValueError(f"anchors: expected {levels} lists, one for each map, found {len(anchors)}")
    lengths = {len(row) for row in anchors}
    if len(lengths) != 1 or 0 in lengths or lengths.pop() % 2:
        found = [len(row) for row in anchors]
        raise ValueError(f"anchors: expected the same even number of values in each list, found {found}")
    return torch.tensor(anchors, dtype=torch.float32).view(levels, -1, 2)
