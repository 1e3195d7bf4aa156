"""EdgeViT's modules in their export forms: equal numbers, four dimensions at most, no transposed convolution."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models.backbone import export as forms
from models.backbone.Edgevit import Attention, LocalProp, Mlp, SelfAttn, edgevit_xxs
from models.backbone.fast import ChannelNorm, PositionEmbed


class Recorder(TorchFunctionMode):
    """The names of the functions that are called, and the greatest number of dimensions of what they give."""

    def __init__(self):
        super().__init__()
        self.names, self.dimensions = set(), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(function.__name__)
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.dimensions = max(self.dimensions, tensor.ndim)
        return result


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomized(module: nn.Module) -> nn.Module:
    """With parameters that are neither zeros nor ones, so that none is forgotten."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module.eval()


def fused(module):
    module.fuse()
    return module


@pytest.mark.parametrize(
    ("module", "form"),
    [
        (lambda: ChannelNorm(24, eps=1e-5), forms.MapNorm),
        (lambda: Mlp(24, convolutions=True), forms.MapMlp),
        (lambda: Mlp(24, convolutions=False), forms.MapMlp),
        (lambda: Attention(24, 12, 1), forms.MapAttention),
        (lambda: Attention(24, 12, 2), forms.MapAttention),
        (lambda: fused(Attention(24, 8, 4)), forms.MapAttention),
        (lambda: PositionEmbed(24), nn.Conv2d),
        (lambda: fused(PositionEmbed(24)), nn.Conv2d),
        (lambda: SelfAttn(24, 8, 4), forms.MapSelfAttn),
        (lambda: fused(SelfAttn(24, 24, 1)), forms.MapSelfAttn),
    ],
)
def test_each_module_gives_the_same(module, form):
    module = randomized(module())
    holder = nn.Sequential(module)
    forms.to_export_form(holder)
    assert type(holder[0]) is form
    x = torch.randn(2, 24, 8, 12) * 2 + 1
    with torch.no_grad():
        expected = module(x)
        torch.testing.assert_close(holder(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("r", [2, 4])
def test_propagation_is_the_transposed_convolution(r):
    prop = randomized(LocalProp(6, r))
    x = torch.randn(2, 6, 3, 5)
    with torch.no_grad():
        expected = nn.ConvTranspose2d.forward(prop, x)
        torch.testing.assert_close(forms.Propagation(prop)(x), expected)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_as_onnx_has_it(affine):
    norm = ChannelNorm(24, eps=1e-6, elementwise_affine=affine)
    form = forms.MapNorm(randomized(norm))
    x = torch.randn(2, 24, 4, 6) * 3 - 2
    torch.testing.assert_close(form._as_operator(x), form(x), rtol=1e-5, atol=1e-5)


def test_the_whole_backbone_in_operators_that_every_runtime_has():
    backbone = randomized(edgevit_xxs())
    for module in list(backbone.modules()):
        if hasattr(module, "fuse"):
            module.fuse()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = backbone(x)
        backbone.export = True
        forms.to_export_form(backbone)
        with Recorder() as recorder:
            found = backbone(x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    assert recorder.dimensions == 4
    assert "conv2d" in recorder.names and "pixel_shuffle" in recorder.names
    assert not recorder.names & {"conv_transpose2d", "layer_norm", "permute", "linear", "scaled_dot_product_attention"}
