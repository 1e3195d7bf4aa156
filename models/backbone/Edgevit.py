"""EdgeViT: Competing Light-weight CNNs on Mobile Devices with Vision Transformers, https://arxiv.org/abs/2205.03436

A block gathers locally (LocalAgg), lets one token of every r x r window attend to all others (global sparse attention),
and spreads the result over the windows again (LocalProp). State-dict names are those of published checkpoints.

Maps are [B, C, H, W]. Steps named `fast.` are in fast.py: the same numbers, sooner. One exact rewrite is here: tokens
are picked before the LayerNorm, not after it. bench/plain/edgevit.py has the network without any rewrite.
"""

from functools import partial

import torch
from torch import nn

import models.backbone.fast as fast
from models.backbone.pretrained import load_backbone_weights
from utils.torch_utils import fuse_bn_and_conv

MLP_RATIO = 4
SUB_SAMPLE_RATES = (4, 2, 2, 1)  # r of each stage
STRIDES = (4, 8, 16, 32)
# N and T are ours, found by latency (bench/notes.md): narrow MLPs, and attention in the last stage alone.
VARIANTS = {
    "edgevit_n": dict(depths=(1, 1, 3, 2), dims=(32, 64, 128, 192), head_dim=64, mlp_ratio=2, attends_from=4),
    "edgevit_t": dict(depths=(1, 1, 3, 2), dims=(48, 96, 160, 256), head_dim=64, mlp_ratio=2, attends_from=4),
    "edgevit_xxs": dict(depths=(1, 1, 3, 2), dims=(36, 72, 144, 288), head_dim=36),
    "edgevit_xs": dict(depths=(1, 1, 3, 1), dims=(48, 96, 240, 384), head_dim=48),
    "edgevit_s": dict(depths=(1, 2, 5, 3), dims=(48, 96, 240, 384), head_dim=48),
}


class DropPath(nn.Module):
    """Drop a residual branch of each image with this probability while training (https://arxiv.org/abs/1603.09382)."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)


class Mlp(nn.Module):
    """Two layers over the channels with an exact GELU between; checkpoints of LocalAgg have them as convolutions."""

    def __init__(self, dim: int, convolutions: bool, ratio: int = MLP_RATIO):
        super().__init__()
        layer = partial(nn.Conv2d, kernel_size=1) if convolutions else nn.Linear
        self.fc1 = layer(dim, dim * ratio)
        self.fc2 = layer(dim * ratio, dim)

    def forward(self, x):
        return fast.mlp(x, self.fc1, self.fc2)


class LocalAgg(nn.Module):
    """Local aggregation: a depthwise 5x5 between two 1x1 convolutions, then an MLP, both behind a batch-norm."""

    def __init__(self, dim: int, mlp_ratio: int = MLP_RATIO):
        super().__init__()
        self.pos_embed = fast.PositionEmbed(dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1 = fast.Conv2d(dim, dim, 1)
        self.attn = fast.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = fast.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, True, mlp_ratio)
        self.drop_path = DropPath()

    def forward(self, x):
        x = self.pos_embed(x)  # x + dw3x3(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def fuse(self) -> None:
        if not isinstance(self.norm1, nn.Identity):
            self.conv1 = fuse_bn_and_conv(self.norm1, self.conv1)
            self.mlp.fc1 = fuse_bn_and_conv(self.norm2, self.mlp.fc1)
            self.norm1 = self.norm2 = nn.Identity()


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a map, spread over r x r windows afterwards."""

    def __init__(self, dim: int, head_dim: int, r: int):
        super().__init__()
        self.heads, self.r = dim // head_dim, r
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        if r > 1:
            self.LocalProp = LocalProp(dim, r)
            self.norm = fast.ChannelNorm(dim, eps=1e-5)

    def forward(self, x):  # [B, C, h, w] -> [B, C, h * r, w * r]
        b, c, h, w = x.shape
        qkv = fast.to_rows(fast.linear(x, self.qkv))  # [B, 3 * C, h, w] -> [B, h, w, 3 * C]
        qkv = qkv.reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, tokens, head dim]
        x = fast.attention(q, k, v)
        x = fast.to_map(x.transpose(1, 2).reshape(b, h, w, c))  # [B, heads, tokens, head dim] -> [B, C, h, w]
        if self.r > 1:
            x = self.norm(self.LocalProp(x))
        return fast.linear(x, self.proj)

    def fuse(self) -> None:
        if self.r > 1:
            fast.fold_affine(self.norm, self.proj)


class SelfAttn(nn.Module):
    """Global sparse attention and an MLP, both behind a LayerNorm."""

    def __init__(self, dim: int, head_dim: int, r: int, mlp_ratio: int = MLP_RATIO):
        super().__init__()
        self.pos_embed = fast.PositionEmbed(dim)
        self.norm1 = fast.ChannelNorm(dim, eps=1e-6)
        self.attn = Attention(dim, head_dim, r)
        self.norm2 = fast.ChannelNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, False, mlp_ratio)
        self.drop_path = DropPath()

    def forward(self, x):
        r = self.attn.r
        x = self.pos_embed(x)  # x + dw3x3(x)
        tokens = x[:, :, ::r, ::r]  # [B, C, H, W] -> [B, C, H / r, W / r], the top-left one of every window
        x = x + self.drop_path(self.attn(self.norm1(tokens)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def fuse(self) -> None:
        fast.fold_affine(self.norm1, self.attn.qkv)
        fast.fold_affine(self.norm2, self.mlp.fc1)


class LocalProp(nn.ConvTranspose2d):
    """Local propagation: a depthwise transposed convolution with kernel = stride = r."""

    def __init__(self, dim: int, r: int):
        super().__init__(dim, dim, r, stride=r, groups=dim)

    def forward(self, x):  # [B, C, h, w] -> [B, C, h * r, w * r]
        return fast.spread(x, self.weight, self.bias)


class LGLBlock(nn.Module):
    """Local-global-local block: nothing local without sub-sampling (r = 1), nothing global unless it `attends`."""

    def __init__(self, dim: int, head_dim: int, r: int, mlp_ratio: int, attends: bool):
        super().__init__()
        self.LocalAgg = LocalAgg(dim, mlp_ratio) if r > 1 else nn.Identity()
        self.SelfAttn = SelfAttn(dim, head_dim, r, mlp_ratio) if attends else nn.Identity()

    def forward(self, x):
        return self.SelfAttn(self.LocalAgg(x))


class PatchEmbed(nn.Module):
    """A convolution with kernel = stride, then a LayerNorm."""

    def __init__(self, in_chans: int, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch, stride=patch)  # before norm: the first parameter is the stem's
        self.norm = fast.ChannelNorm(dim, eps=1e-5)

    def forward(self, x):
        return self.norm(self.proj(x))


class Stages(nn.Module):
    """The four stages of patch embedding and blocks, which backbone and classifier share."""

    export = False  # leave out what would become a needless part of an exported graph

    def __init__(self, depths, dims, head_dim, in_chans=3, drop_path_rate=0.0, mlp_ratio=MLP_RATIO, attends_from=1):
        super().__init__()
        for i, (depth, dim, r) in enumerate(zip(depths, dims, SUB_SAMPLE_RATES), start=1):
            block = partial(LGLBlock, dim, head_dim, r, mlp_ratio, attends=i >= attends_from)
            setattr(self, f"patch_embed{i}", PatchEmbed(in_chans, dim, 4 if i == 1 else 2))
            setattr(self, f"blocks{i}", nn.Sequential(*(block() for _ in range(depth))))
            in_chans = dim
        self.set_drop_path(drop_path_rate)
        self.apply(init_weights)

    def set_drop_path(self, rate: float) -> None:
        """Drop the last block's branches with probability `rate`, and less the earlier a block is."""
        blocks = [m for m in self.modules() if isinstance(m, LGLBlock)]
        for block, share in zip(blocks, torch.linspace(0, rate, len(blocks), device="cpu").tolist()):
            for path in (m for m in block.modules() if isinstance(m, DropPath)):
                path.rate = share

    def maps(self, x) -> list[torch.Tensor]:
        """Return the maps [B, C_i, H / s_i, W / s_i], strides s_i 4, 8, 16, 32, of images [B, in_chans, H, W]."""
        if not self.export:
            height, width = x.shape[2:]
            if height % STRIDES[-1] or width % STRIDES[-1]:
                raise ValueError(f"EdgeViT: expected multiples of 32 px, found height {height}, width {width}")
            x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for i in range(1, len(STRIDES) + 1):
            x = getattr(self, f"blocks{i}")(getattr(self, f"patch_embed{i}")(x))
            maps.append(x)
        return maps


class EdgeViT(Stages):
    """The backbone: images [B, in_chans, H, W] -> four maps [B, C_i, H / s_i, W / s_i]."""

    def __init__(self, depths, dims, *args, **options):
        super().__init__(depths, dims, *args, **options)
        self.out_channels, self.out_strides = list(dims), list(STRIDES)

    def forward(self, x):
        return self.maps(x)


def init_weights(module: nn.Module) -> None:
    """Draw a linear layer's weights from a truncated normal, as usual for transformers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _factory(variant: str):
    """Return a function that makes this variant, as the rows of model files want it."""

    def build(in_chans: int = 3, weights=None, *, drop_path_rate: float = 0.0) -> EdgeViT:
        model = EdgeViT(**VARIANTS[variant], in_chans=in_chans, drop_path_rate=drop_path_rate)
        if weights:  # a .pt, .pth or .safetensors file
            load_backbone_weights(model, weights)
        return model

    build.__name__ = build.__qualname__ = variant
    return build


# parameters: 1.1 M, 1.9 M, 3.8 M, 6.4 M and 12.7 M
edgevit_n, edgevit_t, edgevit_xxs, edgevit_xs, edgevit_s = map(_factory, VARIANTS)
