"""EdgeViT: reference outputs, names, the plain form of every exact rewrite, fusing, errors."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.backbone import EDGEVITS
from models.backbone.classifier import EdgeViTClassifier
from models.backbone.Edgevit import (
    MLP_RATIO,
    DropPath,
    EdgeViT,
    LocalProp,
    Mlp,
    edgevit_xxs,
)
from models.backbone.fast import ChannelNorm, PositionEmbed
from tests.conftest import SHARED, needs_shared

FACTORIES = EDGEVITS
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
    return F.layer_norm(
        x.permute(0, 2, 3, 1).contiguous(), norm.normalized_shape, norm.weight, norm.bias, norm.eps
    ).permute(0, 3, 1, 2)


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


def plain_conv(x, conv):
    return F.conv2d(x, conv.weight, conv.bias)


def plain_block(x, block):
    if block.SelfAttn.attn.r > 1:
        local = block.LocalAgg
        x = x + plain_depthwise(x, local.pos_embed)
        y = plain_conv(local.norm1(x), local.conv1)
        x = x + plain_conv(plain_depthwise(y, local.attn), local.conv2)
        y = local.norm2(x)
        x = x + plain_conv(F.gelu(plain_conv(y, local.mlp.fc1)), local.mlp.fc2)
    block = block.SelfAttn
    x = x + plain_depthwise(x, block.pos_embed)
    x = x + plain_attention(plain_layer_norm(x, block.norm1), block.attn)
    y = plain_layer_norm(x, block.norm2).permute(0, 2, 3, 1)
    y = F.linear(
        F.gelu(F.linear(y, block.mlp.fc1.weight, block.mlp.fc1.bias)), block.mlp.fc2.weight, block.mlp.fc2.bias
    )
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


def fuse(model):
    for module in list(model.modules()):
        if hasattr(module, "fuse"):
            module.fuse()
    return model


def tiny(**kwargs):
    """An EdgeViT of a few thousand parameters with every kind of layer: several heads, r = 4, 2, 2, 1, two blocks."""
    torch.manual_seed(0)
    model = EdgeViT((1, 2, 1, 1), (8, 8, 16, 16), 8, **kwargs)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():  # no zero bias, no unit scale: a lost one must show
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.add_(noise * 0.5 if name.endswith("running_var") else (noise - 0.5) * 0.4)
    return model


@needs_shared
@pytest.mark.parametrize("name", ["edgevit_xxs", "edgevit_xs"])
@pytest.mark.parametrize("form", ["fast", "fused", "plain"])
def test_stages_equal_the_reference_outputs(name, form):
    model = fill(FACTORIES[name]()).eval()
    forward = {"fast": model, "fused": fuse(copy.deepcopy(model)), "plain": lambda x: plain_forward(model, x)}[form]
    golden = np.load(GOLDEN / "edgevit_64x96.npz")
    with torch.no_grad():
        maps = forward(closed_form_image())
    for i, found in enumerate(maps, start=1):
        assert relative_error(found, torch.from_numpy(golden[f"{name}/stage{i}"])) <= 1e-5, f"stage {i}"


@needs_shared
@pytest.mark.parametrize("name", sorted(set(FACTORIES) - {"edgevit_n", "edgevit_t"}))
def test_names_and_shapes_are_those_of_published_checkpoints(name):
    expected = json.loads((GOLDEN / "edgevit_state_dict_keys.json").read_text())[name]
    expected = {key: shape for key, shape in expected.items() if not key.startswith(("norm.", "head."))}
    assert {key: list(tensor.shape) for key, tensor in FACTORIES[name]().state_dict().items()} == expected


@pytest.mark.parametrize(
    "name, parameters, channels",
    [
        ("edgevit_n", 1_087_168, [32, 64, 128, 192]),
        ("edgevit_t", 1_865_024, [48, 96, 160, 256]),
        ("edgevit_xxs", 3_778_128, [36, 72, 144, 288]),
        ("edgevit_xs", 6_384_288, [48, 96, 240, 384]),
        ("edgevit_s", 12_722_400, [48, 96, 240, 384]),
    ],
)
def test_sizes_and_declared_maps(name, parameters, channels):
    model = FACTORIES[name]()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (model.out_channels, model.out_strides) == (channels, [4, 8, 16, 32])
    maps = model.eval()(torch.zeros(1, 3, 32, 64))
    assert [list(m.shape[1:]) for m in maps] == [[c, 32 // s, 64 // s] for c, s in zip(channels, [4, 8, 16, 32])]


@pytest.mark.parametrize("training", [True, False])
def test_fast_form_equals_plain_form_forward_and_backward(training):
    """In float64, so that a real difference cannot hide in rounding; batch-norm statistics move alike, too."""
    fast = tiny().double().train(training)
    plain = copy.deepcopy(fast)
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 64, 96, generator=generator, dtype=torch.float64)
    inputs = image.clone().requires_grad_(), image.clone().requires_grad_()
    outputs = fast(inputs[0]), plain_forward(plain, inputs[1])
    for i, (a, b) in enumerate(zip(*outputs), start=1):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=lambda text, i=i: f"stage {i}: {text}")
    for maps in outputs:
        sum((m * m.detach().cos()).sum() for m in maps).backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-8, atol=1e-9)
    others = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        assert parameter.grad.abs().max() > 0, f"{name} receives no gradient"
        torch.testing.assert_close(
            parameter.grad, others[name].grad, rtol=1e-7, atol=1e-8, msg=lambda t, n=name: f"{n}: {t}"
        )
    for name, buffer in fast.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name])


@pytest.mark.parametrize("convolutions", [True, False])
def test_an_mlp_keeps_its_hidden_map_once_for_the_gradients(convolutions):
    mlp, x = Mlp(4, convolutions), torch.rand(2, 4, 8, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        y = mlp(x)
    weights = 2 * 4 * 4 * MLP_RATIO
    assert sum(kept) == x.numel() + x.numel() * MLP_RATIO + weights
    y.sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("frozen", [["fc1"], ["fc2"], ["fc1", "fc2"]])
def test_frozen_layers_of_an_mlp_get_no_gradient_and_pass_it_on(frozen):
    mlp, x = Mlp(4, convolutions=True), torch.rand(1, 4, 2, 2, requires_grad=True)
    for name in frozen:
        getattr(mlp, name).requires_grad_(False)
    mlp(x).sum().backward()
    assert x.grad.abs().max() > 0
    for name in ("fc1", "fc2"):
        assert (getattr(mlp, name).weight.grad is None) == (name in frozen)


def test_gradients_under_autocast_and_in_float32_agree():
    """The quick backward pass is for float32; autocast goes torch's own way, with nearly the same gradients."""
    model = tiny()
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            sum(m.float().mean() for m in model(image)).backward()
        gradients.append(model.blocks1[0].LocalAgg.mlp.fc1.weight.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_fuse_leaves_no_batch_norm_and_equal_maps():
    model = tiny().eval()
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(image)
        fuse(model)
        once = model(image)
        twice = fuse(model)(image)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    for a, b, c in zip(before, once, twice):
        assert relative_error(b, a) < 1e-5
        assert torch.equal(b, c), "fusing again must change nothing"


def test_classifier_adds_batch_norm_mean_and_linear_to_the_last_map():
    """Step by step, and fused; its other tensors are the backbone's, name by name."""
    torch.manual_seed(0)
    model = EdgeViTClassifier((1, 2, 1, 1), (8, 8, 16, 16), 8, nc=5)
    backbone = tiny()
    assert model.state_dict().keys() - backbone.state_dict().keys() == {
        *(f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "head.weight",
        "head.bias",
    }
    model.load_state_dict(backbone.state_dict(), strict=False)
    for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean, model.norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = backbone.eval()(image)[-1]
        expected = F.linear(model.norm.eval()(last).mean((2, 3)), model.head.weight, model.head.bias)
        assert relative_error(model.eval()(image), expected) < 1e-6
        assert relative_error(fuse(model)(image), expected) < 1e-5
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize("rewrite", ["position", "propagation", "pick", "norm"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_each_rewrite_alone(rewrite, data):
    """For any size: x + dw3x3(x), transposed convolution, AvgPool2d(1, r), LayerNorm over C."""
    draw = data.draw
    b, c, h, w = (draw(st.integers(1, n)) for n in (3, 9, 8, 8))
    r = draw(st.sampled_from([2, 4]))
    torch.manual_seed(draw(st.integers(0, 99)))
    x = torch.randn(b, c, h, w, dtype=torch.float64)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    if rewrite == "position":
        module = PositionEmbed(c).double()
        found, expected = module(x), x + plain_depthwise(x, module)
    elif rewrite == "propagation":
        module = LocalProp(c, r).double()
        found, expected = module(x), F.conv_transpose2d(x, module.weight, module.bias, stride=r, groups=c)
    elif rewrite == "pick":
        found, expected = x[:, :, ::r, ::r], F.avg_pool2d(F.pad(x, (0, -w % r, 0, -h % r)), 1, r)
    else:
        module = ChannelNorm(c).double()
        found, expected = module(x), plain_layer_norm(x, module)
    torch.testing.assert_close(found, expected)


def test_drop_path_rates_grow_and_spare_the_depthwise_convolution():
    model = edgevit_xxs(drop_path_rate=0.6)
    rates = [block.SelfAttn.drop_path.rate for i in range(1, 5) for block in getattr(model, f"blocks{i}")]
    assert rates == pytest.approx(np.linspace(0, 0.6, 7))
    assert model.blocks2[0].LocalAgg.drop_path.rate == pytest.approx(0.1)
    block = tiny(drop_path_rate=0.5).train().blocks4[0].SelfAttn
    block.drop_path.rate = 1 - 1e-12  # every residual branch is dropped
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(block(x), x + plain_depthwise(x, block.pos_embed))


def test_drop_path_keeps_the_mean_and_rests_in_eval_mode():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 1, 1, 1)
    kept = drop.train()(x)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("height, width", [(64, 65), (48, 64), (16, 32), (100, 100)])
def test_size_that_is_no_multiple_of_32(height, width):
    with pytest.raises(ValueError, match=f"multiples of 32 px, found height {height}, width {width}"):
        tiny()(torch.zeros(1, 3, height, width))


def test_own_batch_norm_settings_and_first_parameter():
    model = edgevit_xxs()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}
    assert next(model.parameters()).shape == (36, 3, 4, 4), (
        "the first parameter must be the stem's: others read ch there"
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_other_input_channels(channels):
    assert tiny(in_chans=channels)(torch.zeros(1, channels, 32, 32))[0].shape == (1, 8, 8, 8)


def test_half_precision_and_trace():
    model = tiny().eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        reference = model(image)
        traced = torch.jit.trace(model, image, check_trace=False)(image)
        low = copy.deepcopy(model).bfloat16()(image.bfloat16())
    for a, b, c in zip(reference, traced, low):
        torch.testing.assert_close(a, b)
        assert relative_error(c.float(), a) < 0.1
