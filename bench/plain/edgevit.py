"""EdgeViT (arXiv 2205.03436) as the paper draws it: every step is the layer of that name, and nothing is folded.

Average pooling picks the tokens after the LayerNorm, attention writes out softmax(q k^T / sqrt(d)) v, a transposed
convolution spreads the result. Maps are contiguous [B, C, H, W]; a LayerNorm permutes, normalises, permutes back.
State-dict names are those of models/backbone/Edgevit.py.
"""

import torch
import torch.nn.functional as F
from torch import nn


class PermutedLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LinearMlp(nn.Module):
    def __init__(self, dim, ratio=4):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim * ratio)
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class ConvMlp(LinearMlp):
    def __init__(self, dim, ratio=4):
        super().__init__(dim, ratio)
        self.fc1 = nn.Conv2d(dim, dim * ratio, 1)
        self.fc2 = nn.Conv2d(dim * ratio, dim, 1)


class LocalAgg(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ConvMlp(dim)

    def forward(self, x):
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """[B, C, H, W] -> [B, C, H, W]: r = 1 looks at every token, r > 1 at one of every r x r window."""

    def __init__(self, dim, head_dim, r):
        super().__init__()
        self.heads, self.r = dim // head_dim, r
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        if r > 1:
            self.sampler = nn.AvgPool2d(1, r)
            self.LocalProp = nn.ConvTranspose2d(dim, dim, r, stride=r, groups=dim)
            self.norm = PermutedLayerNorm(dim)

    def forward(self, x):
        if self.r > 1:
            x = self.sampler(x)
        b, c, h, w = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, tokens, head dim]
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.scale, dim=-1)
        x = (weights @ v).transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w)
        if self.r > 1:
            x = self.norm(self.LocalProp(x))
        b, c, h, w = x.shape
        return self.proj(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b, c, h, w)


class SelfAttn(nn.Module):
    def __init__(self, dim, head_dim, r):
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = PermutedLayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, head_dim, r)
        self.norm2 = PermutedLayerNorm(dim, eps=1e-6)
        self.mlp = LinearMlp(dim)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x + self.pos_embed(x)
        x = x + self.attn(self.norm1(x))
        tokens = self.norm2(x).flatten(2).transpose(1, 2)
        return x + self.mlp(tokens).transpose(1, 2).reshape(b, c, h, w)


class LGLBlock(nn.Module):
    def __init__(self, dim, head_dim, r):
        super().__init__()
        self.LocalAgg = LocalAgg(dim) if r > 1 else nn.Identity()
        self.SelfAttn = SelfAttn(dim, head_dim, r)

    def forward(self, x):
        return self.SelfAttn(self.LocalAgg(x))


class PatchEmbed(nn.Module):
    def __init__(self, in_chans, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch, stride=patch)
        self.norm = PermutedLayerNorm(dim)

    def forward(self, x):
        return self.norm(self.proj(x))


class PlainEdgeViT(nn.Module):
    """[B, 3, H, W] -> four maps, strides 4, 8, 16, 32."""

    def __init__(self, depths, dims, head_dim, rates=(4, 2, 2, 1)):
        super().__init__()
        c_in, self.out_channels, self.out_strides = 3, list(dims), [4, 8, 16, 32]
        for i, (depth, dim, r) in enumerate(zip(depths, dims, rates), start=1):
            setattr(self, f"patch_embed{i}", PatchEmbed(c_in, dim, 4 if i == 1 else 2))
            setattr(self, f"blocks{i}", nn.Sequential(*(LGLBlock(dim, head_dim, r) for _ in range(depth))))
            c_in = dim

    def forward(self, x):
        maps = []
        for i in range(1, 5):
            x = getattr(self, f"blocks{i}")(getattr(self, f"patch_embed{i}")(x))
            maps.append(x)
        return maps


def plain_copy(model) -> PlainEdgeViT:
    """Return the plain form of an EdgeViT of models/backbone/Edgevit.py (not fused), with its tensors, in its mode."""
    depths = [len(getattr(model, f"blocks{i}")) for i in range(1, 5)]
    attention = model.blocks4[0].SelfAttn.attn
    plain = PlainEdgeViT(depths, model.out_channels, model.out_channels[-1] // attention.heads)
    plain.load_state_dict(model.state_dict())
    return plain.train(model.training)
