"""EdgeViT: reference outputs, names, the plain form of every exact rewrite, fusing, errors."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backbone import Edgevit
from models.backbone.Edgevit import DropPath, edgevit_s, edgevit_xs, edgevit_xxs
from tests.conftest import SHARED, needs_shared

FACTORIES = {"edgevit_xxs": edgevit_xxs, "edgevit_xs": edgevit_xs, "edgevit_s": edgevit_s}
GOLDEN = SHARED / "golden"


def closed_form_tensor(name: str, shape) -> torch.Tensor:
    """The reference fill of one tensor of the state dict, float32 (shared/golden/README.md)."""
    n = math.prod(shape)
    k = sum(ord(c) * (i + 1) for i, c in enumerate(name)) % 9973
    i = torch.arange(n, dtype=torch.float64)
    u = torch.frac(torch.sin(12.9898 * i + 78.233 * k) * 43758.5453).abs() * 2 - 1
    if name.endswith("num_batches_tracked"):
        u = torch.zeros(n)
    elif name.endswith("running_var"):
        u = 1 + 0.3 * u
    elif name.endswith("running_mean") or (len(shape) == 1 and not name.endswith("weight")):
        u = 0.1 * u
    elif len(shape) == 1:
        u = 1 + 0.2 * u
    else:
        u = u * math.sqrt(3 / math.prod(shape[1:]))
    return u.reshape(shape).float()


def fill(model):
    """The model with the closed-form numbers in every tensor of its state dict."""
    model.load_state_dict({name: closed_form_tensor(name, t.shape) for name, t in model.state_dict().items()})
    return model


def closed_form_image() -> torch.Tensor:
    i = torch.arange(3 * 64 * 96, dtype=torch.float64)
    return torch.frac(torch.sin(0.7547 * i) * 1543.1234).abs().reshape(1, 3, 64, 96).float()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def plain_layer_norm(x, norm):
    return F.layer_norm(x.permute(0, 2, 3, 1).contiguous(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)


def plain_attention(x, attn):
    """Sub-sample with AvgPool2d(1, r), softmax attention, transposed convolution: as in the paper, step by step."""
    tokens = F.avg_pool2d(x, 1, attn.r) if attn.r > 1 else x
    b, c, h, w = tokens.shape
    qkv = F.linear(tokens.flatten(2).transpose(1, 2), attn.qkv.weight, attn.qkv.bias)
    q, k, v = (part.view(b, h * w, attn.heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    weights = (q @ k.transpose(-2, -1) * (c // attn.heads) ** -0.5).softmax(-1)
    y = (weights @ v).transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w)
    if attn.r > 1:
        y = F.conv_transpose2d(y, attn.LocalProp.weight, attn.LocalProp.bias, stride=attn.r, groups=c)
        y = plain_layer_norm(y, attn.norm)
    return F.linear(y.permute(0, 2, 3, 1), attn.proj.weight, attn.proj.bias).permute(0, 3, 1, 2)


def plain_depthwise(x, conv):
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)


def plain_batch_norm(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps)


def plain_conv(x, conv):
    return F.conv2d(x, conv.weight, conv.bias)


def plain_block(x, block):
    if block.SelfAttn.attn.r > 1:
        local = block.LocalAgg
        x = x + plain_depthwise(x, local.pos_embed)
        y = plain_conv(plain_batch_norm(x, local.norm1), local.conv1)
        x = x + plain_conv(plain_depthwise(y, local.attn), local.conv2)
        y = plain_batch_norm(x, local.norm2)
        x = x + plain_conv(F.gelu(plain_conv(y, local.mlp.fc1)), local.mlp.fc2)
    block = block.SelfAttn
    x = x + plain_depthwise(x, block.pos_embed)
    x = x + plain_attention(plain_layer_norm(x, block.norm1), block.attn)
    y = plain_layer_norm(x, block.norm2).permute(0, 2, 3, 1)
    y = F.linear(F.gelu(F.linear(y, block.mlp.fc1.weight, block.mlp.fc1.bias)), block.mlp.fc2.weight, block.mlp.fc2.bias)
    return x + y.permute(0, 3, 1, 2)


def plain_forward(model, x):
    """The reference form of the four stages, with the parameters of `model`: no rewrite, plain NCHW."""
    maps = []
    for i in range(1, 5):
        embed = getattr(model, f"patch_embed{i}")
        x = plain_layer_norm(F.conv2d(x, embed.proj.weight, embed.proj.bias, stride=embed.proj.stride), embed.norm)
        for block in getattr(model, f"blocks{i}"):
            x = plain_block(x, block)
        maps.append(x)
    return maps


@needs_shared
@pytest.mark.parametrize("name", ["edgevit_xxs", "edgevit_xs"])
@pytest.mark.parametrize("form", ["fast", "fused", "plain"])
def test_stages_equal_the_reference_outputs(name, form):
    model = fill(FACTORIES[name]()).eval()
    if form == "fused":
        for module in list(model.modules()):
            if hasattr(module, "fuse"):
                module.fuse()
    golden = np.load(GOLDEN / "edgevit_64x96.npz")
    with torch.no_grad():
        maps = plain_forward(model, closed_form_image()) if form == "plain" else model(closed_form_image())
    for i, found in enumerate(maps, start=1):
        assert relative_error(found, torch.from_numpy(golden[f"{name}/stage{i}"])) <= 1e-5, f"stage {i}"
