"""EdgeViT: Competing Light-weight CNNs on Mobile Devices with Vision Transformers, https://arxiv.org/abs/2205.03436

Each block gathers locally (LocalAgg), lets one token of every r x r window attend to all others, and spreads the result
over the window again (SelfAttn). State-dict names are those of published checkpoints.

All maps are [B, C, H, W] in channels-last memory, so that LayerNorms over C and matrix products read rows as they lie.
Three exact rewrites make it fast, for training too: tokens are picked before the LayerNorm and not after it, the local
propagation (a transposed convolution with kernel = stride) is a broadcast multiply, x + dw3x3(x) is one convolution.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from models.backbone.pretrained import load_backbone_weights
from models.onednn import attention, pointwise
from utils.torch_utils import fuse_bn_and_conv

MLP_RATIO = 4
SUB_SAMPLE_RATES = (4, 2, 2, 1)  # r of each stage
STRIDES = (4, 8, 16, 32)
VARIANTS = {  # depths, channels, channels of an attention head
    "edgevit_xxs": ((1, 1, 3, 2), (36, 72, 144, 288), 36),
    "edgevit_xs": ((1, 1, 3, 1), (48, 96, 240, 384), 48),
    "edgevit_s": ((1, 2, 5, 3), (48, 96, 240, 384), 48),
}


def own_gradients(x) -> bool:
    """Whether gradients are wanted that are quicker or smaller here than those of torch: on a CPU without autocast."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def convolve(x, weight, bias, padding=0, groups=1, gelu=False) -> torch.Tensor:
    """F.conv2d at stride 1, and F.gelu if asked for, quicker on CPUs: backwards, and 1x1 kernels in inference mode."""
    if own_gradients(x):
        x = _Convolution.apply(x, weight, bias, 1, padding, 1, groups)
    elif groups == 1 and padding == 0:  # a 1x1 kernel
        return pointwise(x, weight, bias, gelu)
    else:
        x = F.conv2d(x, weight, bias, 1, padding, 1, groups)
    return F.gelu(x) if gelu else x


class _Convolution(torch.autograd.Function):
    """F.conv2d whose bias gradient is a plain sum: oneDNN's way to it takes as long as the weight gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        gradients = convolution_gradients(grad, x, weight, ctx.padding, ctx.groups, ctx.needs_input_grad[:2])
        return *gradients, None, None, None, None


def convolution_gradients(grad, x, weight, padding=0, groups=1, wanted=(True, True)) -> tuple:
    """Gradients of x [B, C, H, W], weight and bias of a convolution at stride 1, from its output's [B, C_out, H, W].

    wanted: whether those of x and weight are; else they are None.
    """
    layout = [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups
    wanted = (*wanted, False)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, [len(weight)], *layout, wanted)
    return grad_x, grad_weight, grad.sum((0, 2, 3))


def gelu(x) -> torch.Tensor:
    """F.gelu of a channels-last map, a third quicker: torch takes oneDNN for contiguous tensors alone, as rows are."""
    return to_map(F.gelu(to_rows(x)))


def gelu_gradient(grad, x) -> torch.Tensor:
    """Gradient of x, from that of gelu(x)."""
    return to_map(torch.ops.aten.gelu_backward(to_rows(grad), to_rows(x)))


def to_rows(x) -> torch.Tensor:
    """[B, C, H, W] -> [B, H, W, C]"""
    return x.permute(0, 2, 3, 1)


def to_map(x) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W]"""
    return x.permute(0, 3, 1, 2)


class _Mlp(torch.autograd.Function):
    """Two 1x1 convolutions with a GELU between, whose result is worked out again for the gradients, not kept: a quarter
    of all that a backbone keeps.
    """

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2):
        hidden = F.conv2d(x, weight1, bias1)
        ctx.save_for_backward(x, hidden, weight1, weight2)
        return F.conv2d(gelu(hidden), weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, hidden, weight1, weight2 = ctx.saved_tensors
        wanted = True, ctx.needs_input_grad[3]
        grad_hidden, *gradients2 = convolution_gradients(grad, gelu(hidden), weight2, wanted=wanted)
        grad_hidden = gelu_gradient(grad_hidden, hidden)
        return *convolution_gradients(grad_hidden, x, weight1, wanted=ctx.needs_input_grad[:2]), *gradients2


class Conv(nn.Conv2d):
    """nn.Conv2d at stride 1, without dilation."""

    def forward(self, x):
        return convolve(x, self.weight, self.bias, self.padding[0], self.groups)


def dense(x: torch.Tensor, linear, gelu=False) -> torch.Tensor:
    """A linear layer over the channels of a map, as a 1x1 convolution: on CPUs faster than a product of tokens."""
    return convolve(x, kernel(linear), linear.bias, gelu=gelu)


def kernel(linear) -> torch.Tensor:
    """The weights [C_out, C_in, 1, 1] of a linear layer or 1x1 convolution."""
    return linear.weight if linear.weight.ndim == 4 else linear.weight[..., None, None]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map; a view, not a copy, of channels-last memory."""

    def forward(self, x):
        return to_map(super().forward(to_rows(x)))


@torch.no_grad()
def fold_affine(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """Move the scale and shift of `norm` into the linear layer that alone reads it."""
    if norm.weight is not None:
        linear.bias += linear.weight @ norm.bias
        linear.weight *= norm.weight
        norm.weight = norm.bias = None


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


class PositionEmbed(nn.Conv2d):
    """x + dw3x3(x), as one depthwise convolution whose centre weight is one larger."""

    no_weight_decay = True  # it says where things are; decay would take that away

    def __init__(self, dim):
        super().__init__(dim, dim, 3, padding=1, groups=dim)
        identity = torch.zeros(1, 1, 3, 3)
        identity[..., 1, 1] = 1
        self.register_buffer("identity", identity, persistent=False)

    def forward(self, x):
        return convolve(x, self.weight + self.identity, self.bias, padding=1, groups=self.groups)

    @torch.no_grad()
    def fuse(self):
        self.weight += self.identity
        self.identity.zero_()


class Mlp(nn.Module):
    """Two layers over the channels, an exact GELU between; by name 1x1 convolutions in LocalAgg, linear in SelfAttn."""

    def __init__(self, dim, convolutions: bool):
        super().__init__()
        hidden = dim * MLP_RATIO
        self.fc1 = Conv(dim, hidden, 1) if convolutions else nn.Linear(dim, hidden)
        self.fc2 = Conv(hidden, dim, 1) if convolutions else nn.Linear(hidden, dim)

    def forward(self, x):
        if own_gradients(x):
            return _Mlp.apply(x, kernel(self.fc1), self.fc1.bias, kernel(self.fc2), self.fc2.bias)
        return dense(dense(x, self.fc1, gelu=True), self.fc2)


class LocalAgg(nn.Module):
    """Local aggregation: a convolutional token mixer (5x5 depthwise) and an MLP, both behind a batch-norm."""

    def __init__(self, dim, drop_path):
        super().__init__()
        self.pos_embed = PositionEmbed(dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1 = Conv(dim, dim, 1)
        self.attn = Conv(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = Conv(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, convolutions=True)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        x = self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def fuse(self):
        if not isinstance(self.norm1, nn.Identity):
            self.conv1 = fuse_bn_and_conv(self.norm1, self.conv1)
            self.mlp.fc1 = fuse_bn_and_conv(self.norm2, self.mlp.fc1)
            self.norm1 = self.norm2 = nn.Identity()


class LocalProp(nn.ConvTranspose2d):
    """Local propagation: depthwise transposed convolution with kernel = stride = r, so that no two outputs overlap."""

    def __init__(self, dim, r):
        super().__init__(dim, dim, r, stride=r, groups=dim)

    def forward(self, x):  # [B, C, h, w] -> [B, C, h * r, w * r]
        b, c, h, w = x.shape
        r = self.stride[0]
        tokens = to_rows(x).contiguous().view(b, h, 1, w, 1, c)
        window = self.weight.view(c, r, r).permute(1, 2, 0).contiguous().view(r, 1, r, c)
        return to_map(torch.addcmul(self.bias, tokens, window).reshape(b, h * r, w * r, c))


class Attention(nn.Module):
    """Multi-head self-attention over the tokens it is given, spread over r x r windows afterwards."""

    def __init__(self, dim, head_dim, r):
        super().__init__()
        self.heads = dim // head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.r = r
        if r > 1:
            self.LocalProp = LocalProp(dim, r)
            self.norm = ChannelNorm(dim, eps=1e-5)

    def forward(self, x):  # [B, C, h, w] -> [B, C, h * r, w * r]
        b, c, h, w = x.shape
        qkv = to_rows(dense(x, self.qkv)).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, tokens, head dim]
        x = attention(q, k, v)
        x = to_map(x.transpose(1, 2).reshape(b, h, w, c))
        if self.r > 1:
            x = self.norm(self.LocalProp(x))
        return dense(x, self.proj)

    def fuse(self):
        if self.r > 1:
            fold_affine(self.norm, self.proj)


class SelfAttn(nn.Module):
    """Sparse global attention and an MLP, both behind a LayerNorm."""

    def __init__(self, dim, head_dim, r, drop_path):
        super().__init__()
        self.pos_embed = PositionEmbed(dim)
        self.norm1 = ChannelNorm(dim, eps=1e-6)
        self.attn = Attention(dim, head_dim, r)
        self.norm2 = ChannelNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, convolutions=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        r = self.attn.r
        x = self.pos_embed(x)
        x = x + self.drop_path(self.attn(self.norm1(x[:, :, ::r, ::r])))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def fuse(self):
        fold_affine(self.norm1, self.attn.qkv)
        fold_affine(self.norm2, self.mlp.fc1)


class LGLBlock(nn.Module):
    """Local-global-local block. Without sub-sampling (r = 1) there is nothing local."""

    def __init__(self, dim, head_dim, r, drop_path):
        super().__init__()
        self.LocalAgg = LocalAgg(dim, drop_path) if r > 1 else nn.Identity()
        self.SelfAttn = SelfAttn(dim, head_dim, r, drop_path)

    def forward(self, x):
        return self.SelfAttn(self.LocalAgg(x))


class PatchEmbed(nn.Module):
    """A convolution with kernel = stride and a LayerNorm."""

    def __init__(self, in_chans, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch, stride=patch)  # before norm: the first parameter is the stem's
        self.norm = ChannelNorm(dim, eps=1e-5)

    def forward(self, x):
        return self.norm(self.proj(x))


class Stages(nn.Module):
    """The four stages of patch embedding and blocks, which backbone and classifier share."""

    export = False  # leave out what would become a needless part of an exported graph

    def __init__(self, depths, dims, head_dim, in_chans=3, drop_path_rate=0.0):
        super().__init__()
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        for i, (depth, dim, r) in enumerate(zip(depths, dims, SUB_SAMPLE_RATES), start=1):
            setattr(self, f"patch_embed{i}", PatchEmbed(in_chans, dim, 4 if i == 1 else 2))
            setattr(self, f"blocks{i}", nn.Sequential(*(LGLBlock(dim, head_dim, r, next(rates)) for _ in range(depth))))
            in_chans = dim
        self.apply(_init_weights)

    def set_drop_path(self, rate: float) -> None:
        """Drop the last block's branches with probability `rate`, and less the earlier a block is."""
        blocks = [m for m in self.modules() if isinstance(m, LGLBlock)]
        for block, part in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist()):
            for path in (m for m in block.modules() if isinstance(m, DropPath)):
                path.rate = part

    def maps(self, x) -> list:
        """[B, in_chans, H, W] -> maps [B, C_i, H / s_i, W / s_i], strides s_i 4, 8, 16, 32."""
        if not self.export:
            check_size(*x.shape[2:])
            x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for i in range(1, len(STRIDES) + 1):
            x = getattr(self, f"blocks{i}")(getattr(self, f"patch_embed{i}")(x))
            maps.append(x)
        return maps


class EdgeViT(Stages):
    """The backbone: [B, in_chans, H, W] -> maps [B, C_i, H / s_i, W / s_i], strides s_i 4, 8, 16, 32."""

    def __init__(self, depths, dims, head_dim, in_chans=3, drop_path_rate=0.0):
        super().__init__(depths, dims, head_dim, in_chans, drop_path_rate)
        self.out_channels = list(dims)
        self.out_strides = list(STRIDES)

    def forward(self, x):
        return self.maps(x)


class EdgeViTClassifier(Stages):
    """The classifier of the paper: [B, in_chans, H, W] -> logits [B, nc], from the last map's batch-norm and mean."""

    def __init__(self, depths, dims, head_dim, nc=1000, in_chans=3, drop_path_rate=0.0):
        super().__init__(depths, dims, head_dim, in_chans, drop_path_rate)
        self.norm = nn.BatchNorm2d(dims[-1])
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(dims[-1], nc)
        _init_weights(self.head)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.maps(x)[-1]).mean((2, 3))))

    @torch.no_grad()
    def fuse(self):
        if not isinstance(self.norm, nn.Identity):
            scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
            self.head.bias += self.head.weight @ (self.norm.bias - self.norm.running_mean * scale)
            self.head.weight *= scale
            self.norm = nn.Identity()


def check_size(height: int, width: int) -> None:
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise ValueError(f"EdgeViT: expected multiples of {STRIDES[-1]} px, found height {height}, width {width}")


def _init_weights(module):
    """Truncated normal for linear layers, as usual for transformers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _edgevit(name, weights, in_chans, drop_path_rate) -> EdgeViT:
    model = EdgeViT(*VARIANTS[name], in_chans, drop_path_rate)
    if weights:
        load_backbone_weights(model, weights)
    return model


def edgevit_xxs(in_chans=3, weights=None, *, drop_path_rate=0.0) -> EdgeViT:
    """EdgeViT-XXS: 3.8 M parameters. `weights`: a .pt, .pth or .safetensors file."""
    return _edgevit("edgevit_xxs", weights, in_chans, drop_path_rate)


def edgevit_xs(in_chans=3, weights=None, *, drop_path_rate=0.0) -> EdgeViT:
    """EdgeViT-XS: 6.4 M parameters. `weights`: a .pt, .pth or .safetensors file."""
    return _edgevit("edgevit_xs", weights, in_chans, drop_path_rate)


def edgevit_s(in_chans=3, weights=None, *, drop_path_rate=0.0) -> EdgeViT:
    """EdgeViT-S: 12.7 M parameters. `weights`: a .pt, .pth or .safetensors file."""
    return _edgevit("edgevit_s", weights, in_chans, drop_path_rate)
