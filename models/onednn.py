"""Quicker ways through oneDNN for inference mode on a CPU. Everywhere else these functions are torch's own.

In a single thread torch leaves 1x1 convolutions and the products of attention to the BLAS library. oneDNN takes less
than half of its time on an EPYC with AVX-512, where MKL keeps to AVX2: a third of a forward pass of EdgeViT-XXS.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

QUERIES = 200  # The scores of so many are computed at once, which keeps them in the cache.
LEAST_TOKENS = 400  # Below this number torch's attention is as quick.
# These operators of torch.compile apply a function to their result while that is in the cache. Some builds lack them.
CONVOLUTION = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def is_ours(x: torch.Tensor) -> bool:
    """Tell whether oneDNN is called directly: for float32 on a CPU, in inference mode."""
    onednn = torch.backends.mkldnn
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    return torch.is_inference_mode_enabled() and fits and onednn.is_available() and bool(onednn.enabled)


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias=None, gelu: bool = False) -> torch.Tensor:
    """Return F.conv2d with a 1x1 kernel [C_out, C_in, 1, 1] at stride 1, then F.gelu if `gelu`: [B, C_out, H, W]."""
    layout = (0, 0), (1, 1), (1, 1), 1  # padding, stride, dilation, groups
    if not is_ours(x):
        y = F.conv2d(x, weight, bias)
    elif gelu and CONVOLUTION is not None:
        return CONVOLUTION(x, weight, bias, *layout, "gelu", [], "none")  # "none": exact, not by tanh
    else:
        y = torch.mkldnn_convolution(x, weight, bias, *layout)
    return F.gelu(y) if gelu else y


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return F.scaled_dot_product_attention of [B, heads, tokens, channels]."""
    if LINEAR is None or not is_ours(q) or q.shape[2] < LEAST_TOKENS or torch.get_num_threads() > 1:
        return F.scaled_dot_product_attention(q, k, v)
    tensors = q * q.shape[3] ** -0.5, k, v.transpose(2, 3)
    heads = zip(*(tensor.flatten(0, 1).contiguous() for tensor in tensors))
    return torch.stack([_attention_of_one_head(*head) for head in heads]).view(q.shape)


def _attention_of_one_head(q, k, v_t) -> torch.Tensor:
    """Return [tokens, channels] for scaled queries and keys [tokens, channels] and values [channels, tokens]."""
    return torch.cat([_product(_product(part, k).softmax(1), v_t) for part in q.split(QUERIES)])


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b.T."""
    return LINEAR(a, b, None, "none", [], "")


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution that runs by pointwise()."""

    def forward(self, x):
        return pointwise(x, self.weight, self.bias)


def use_pointwise(model: nn.Module) -> None:
    """Let the plain 1x1 convolutions of a model run by pointwise()."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = PointwiseConv  # the same parameters and hooks


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
