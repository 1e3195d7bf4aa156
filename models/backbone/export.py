"""EdgeViT in the form in which it is exported: the same numbers from operators that every runtime has and runs well.

Maps stay [B, C, H, W] and have at most four dimensions, linear layers are 1x1 convolutions, tokens are picked by a
strided pooling, and local propagation is a depthwise convolution to r * r values per token that a pixel shuffle lays
out. The modules are made from fused ones and share their weights.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.backbone.Edgevit import Attention, LocalProp, Mlp, SelfAttn
from models.backbone.fast import ChannelNorm, PositionEmbed


def plain_convolution(weight, bias, groups=1, padding=0) -> nn.Conv2d:
    """Return an nn.Conv2d at stride 1 with these tensors."""
    out, per_group, k, _ = weight.shape
    conv = nn.Conv2d(per_group * groups, out, k, padding=padding, groups=groups, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


def as_convolution(linear) -> nn.Conv2d:
    """Return a linear layer, or a 1x1 convolution, as an nn.Conv2d."""
    weight = linear.weight if linear.weight.ndim == 4 else linear.weight[..., None, None]
    return plain_convolution(weight, linear.bias)


class MapNorm(nn.Module):
    """LayerNorm over the channels of a map, without moving them to the end."""

    def __init__(self, norm: ChannelNorm):
        super().__init__()
        self.eps, self.shape = norm.eps, norm.normalized_shape
        self.weight = None if norm.weight is None else nn.Parameter(norm.weight.detach()[:, None, None], False)
        self.bias = None if norm.bias is None else nn.Parameter(norm.bias.detach()[:, None, None], False)

    def forward(self, x):
        if torch.onnx.is_in_onnx_export():
            return self._as_operator(x)
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + self.eps)
        return x if self.weight is None else x * self.weight + self.bias

    def _as_operator(self, x):
        """Return forward(x) by ONNX's own operator, which onnxruntime runs faster and float16 leaves as exact."""
        affine = (None, None) if self.weight is None else (self.weight.flatten(), self.bias.flatten())
        return F.layer_norm(x.permute(0, 2, 3, 1), self.shape, *affine, self.eps).permute(0, 3, 1, 2)


class Propagation(nn.Module):
    """LocalProp: [B, C, h, w] -> [B, C, h * r, w * r]."""

    def __init__(self, prop: LocalProp):
        super().__init__()
        self.r = prop.stride[0]
        weight = prop.weight.reshape(-1, 1, 1, 1)  # [C, 1, r, r] -> C * r * r values, those of a channel together
        self.spread = plain_convolution(weight, prop.bias.repeat_interleave(self.r**2), groups=len(prop.bias))

    def forward(self, x):
        return F.pixel_shuffle(self.spread(x), self.r)


class MapAttention(nn.Module):
    """Attention whose queries, keys and values stay [channels, tokens], as the convolution leaves them."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads, self.r = attention.heads, attention.r
        self.dim = dim = attention.proj.out_features
        scale = (dim // self.heads) ** -0.5
        self.qkv = as_convolution(attention.qkv)
        with torch.no_grad():  # the scale goes into the queries
            factor = torch.ones(3 * dim)
            factor[:dim] = scale
            self.qkv.weight = nn.Parameter(self.qkv.weight * factor[:, None, None, None], False)
            self.qkv.bias = nn.Parameter(self.qkv.bias * factor, False)
        self.proj = as_convolution(attention.proj)
        if self.r > 1:
            self.LocalProp = Propagation(attention.LocalProp)
            self.norm = MapNorm(attention.norm)

    def forward(self, x):
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3 * self.heads, self.dim // self.heads, h * w).split(self.heads, 1)
        attention = torch.matmul(q.transpose(2, 3), k).softmax(-1)  # [B, heads, queries, keys]
        x = torch.matmul(v, attention.transpose(2, 3)).reshape(b, self.dim, h, w)
        if self.r > 1:
            x = self.norm(self.LocalProp(x))
        return self.proj(x)


class MapMlp(nn.Module):
    def __init__(self, mlp: Mlp):
        super().__init__()
        self.fc1, self.fc2 = as_convolution(mlp.fc1), as_convolution(mlp.fc2)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class MapSelfAttn(nn.Module):
    def __init__(self, block: SelfAttn):
        super().__init__()
        self.pos_embed, self.norm1, self.attn = block.pos_embed, block.norm1, block.attn
        self.norm2, self.mlp, self.r = block.norm2, block.mlp, block.attn.r

    def forward(self, x):
        x = self.pos_embed(x)
        tokens = F.max_pool2d(x, 1, self.r) if self.r > 1 else x  # the top-left one of every window
        x = x + self.attn(self.norm1(tokens))
        return x + self.mlp(self.norm2(x))


def position_convolution(embed: PositionEmbed) -> nn.Conv2d:
    return plain_convolution(embed.weight + embed.identity, embed.bias, embed.groups, padding=1)


FORMS = {
    SelfAttn: MapSelfAttn,
    Attention: MapAttention,
    Mlp: MapMlp,
    ChannelNorm: MapNorm,
    PositionEmbed: position_convolution,
}


def to_export_form(module: nn.Module) -> None:
    """Give a fused model its export form, in place: FORMS replace modules, and others hear of it by their `export`."""
    if hasattr(module, "export"):
        module.export = True
    for name, child in list(module.named_children()):
        if type(child) in FORMS:
            child = FORMS[type(child)](child)
            setattr(module, name, child)
        to_export_form(child)
