"""The quick forms of EdgeViT's steps on a CPU, each equal to the plain step up to rounding.

Maps are [B, C, H, W] in channels-last memory, so that a LayerNorm over C and a product over C read rows as they lie.
In training three things cost time or memory in torch: oneDNN's bias gradients, GELU on channels-last maps, and GELU's
output, which is kept for the backward pass. In inference mode models/onednn.py has the 1x1 convolutions and attention.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from models.onednn import attention, pointwise

__all__ = ["ChannelNorm", "Conv2d", "PositionEmbed", "attention", "fold_affine", "linear", "mlp", "spread"]


def to_rows(x: torch.Tensor) -> torch.Tensor:
    """Return the view [B, H, W, C] of a map [B, C, H, W]."""
    return x.permute(0, 2, 3, 1)


def to_map(x: torch.Tensor) -> torch.Tensor:
    """Return the view [B, C, H, W] of rows [B, H, W, C]."""
    return x.permute(0, 3, 1, 2)


def own_gradients(x: torch.Tensor) -> bool:
    """Tell whether the gradient functions below are used: on a CPU without autocast, where gradients are wanted."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def convolve(x: torch.Tensor, weight: torch.Tensor, bias, padding: int = 0, groups: int = 1) -> torch.Tensor:
    """Return F.conv2d at stride 1."""
    if own_gradients(x):
        return _Convolution.apply(x, weight, bias, padding, groups)
    if groups == 1 and padding == 0:  # EdgeViT's only kernels at stride 1 with neither are 1x1.
        return pointwise(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=padding, groups=groups)


def linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """Apply a linear layer to the channels of a map, as a 1x1 convolution: quicker than a product of tokens."""
    return convolve(x, _kernel(layer), layer.bias)


def mlp(x: torch.Tensor, fc1: nn.Module, fc2: nn.Module) -> torch.Tensor:
    """Return fc2(GELU(fc1(x))) of a map; each layer is an nn.Linear over the channels or a 1x1 convolution."""
    if own_gradients(x):
        return _Mlp.apply(x, _kernel(fc1), fc1.bias, _kernel(fc2), fc2.bias)
    return pointwise(pointwise(x, _kernel(fc1), fc1.bias, gelu=True), _kernel(fc2), fc2.bias)


def spread(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the depthwise transposed convolution [C, 1, r, r] of stride r: [B, C, h, w] -> [B, C, h * r, w * r].

    Its outputs do not overlap, so it is a product of every token with every position of its window.
    """
    b, c, h, w = x.shape
    r = weight.shape[-1]
    tokens = to_rows(x).contiguous().view(b, h, 1, w, 1, c)
    window = weight.view(c, r, r).permute(1, 2, 0).contiguous().view(r, 1, r, c)
    return to_map(torch.addcmul(bias, tokens, window).reshape(b, h * r, w * r, c))


class Conv2d(nn.Conv2d):
    """A convolution at stride 1, without dilation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return convolve(x, self.weight, self.bias, self.padding[0], self.groups)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map; a view, not a copy, of channels-last memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return to_map(super().forward(to_rows(x)))


class PositionEmbed(nn.Conv2d):
    """x + dw3x3(x), as one depthwise convolution whose centre weight is one larger."""

    no_weight_decay = True  # It says where things are, which decay would take away.

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, padding=1, groups=dim)
        identity = torch.zeros(1, 1, 3, 3)
        identity[..., 1, 1] = 1
        self.register_buffer("identity", identity, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return convolve(x, self.weight + self.identity, self.bias, padding=1, groups=self.groups)

    @torch.no_grad()
    def fuse(self) -> None:
        self.weight += self.identity
        self.identity.zero_()


@torch.no_grad()
def fold_affine(norm: nn.LayerNorm, layer: nn.Linear) -> None:
    """Move the scale and shift of `norm` into the linear layer that alone reads it."""
    if norm.weight is not None:
        layer.bias += layer.weight @ norm.bias
        layer.weight *= norm.weight
        norm.weight = norm.bias = None


class _Convolution(torch.autograd.Function):
    """F.conv2d at stride 1 with the bias gradient as a plain sum: oneDNN's takes as long as the weight gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias, padding, groups):
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv2d(x, weight, bias, padding=padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return *_gradients(grad, x, weight, ctx.padding, ctx.groups, ctx.needs_input_grad[:2]), None, None


class _Mlp(torch.autograd.Function):
    """Two 1x1 convolutions with a GELU between. The GELU is computed again for the gradients instead of kept: that is a
    quarter of all that a backbone keeps.
    """

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2):
        hidden = F.conv2d(x, weight1, bias1)
        ctx.save_for_backward(x, hidden, weight1, weight2)
        return F.conv2d(_gelu(hidden), weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, hidden, weight1, weight2 = ctx.saved_tensors
        wanted = True, ctx.needs_input_grad[3]
        grad_hidden, *gradients2 = _gradients(grad, _gelu(hidden), weight2, wanted=wanted)
        grad_hidden = to_map(torch.ops.aten.gelu_backward(to_rows(grad_hidden), to_rows(hidden)))
        return *_gradients(grad_hidden, x, weight1, wanted=ctx.needs_input_grad[:2]), *gradients2


def _gradients(grad, x, weight, padding=0, groups=1, wanted=(True, True)) -> tuple:
    """Return the gradients of a convolution's x, weight and bias; those of x and weight are None if not wanted."""
    layout = [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups
    wanted = (*wanted, False)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, [len(weight)], *layout, wanted)
    return grad_x, grad_weight, grad.sum((0, 2, 3))


def _gelu(x: torch.Tensor) -> torch.Tensor:
    """Return F.gelu of a channels-last map, a third quicker: torch takes oneDNN for contiguous tensors alone."""
    return to_map(F.gelu(to_rows(x)))


def _kernel(layer: nn.Module) -> torch.Tensor:
    """Return the weights [C_out, C_in, 1, 1] of a linear layer or 1x1 convolution."""
    return layer.weight if layer.weight.ndim == 4 else layer.weight[..., None, None]
