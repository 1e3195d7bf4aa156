"""Every layer of the zoo: shapes, finite outputs, gradients, fusing, activations; and what single layers promise."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models import common, experimental, heads, registry
from models.common import (
    C3,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    C3Ghost,
    Concat,
    Conv,
    DWConv,
    DWConvTranspose2d,
    Focus,
    GhostBottleneck,
    GhostConv,
    TransformerBlock,
    TransformerLayer,
    autopad,
)
from models.experimental import C3x, Contract, CrossConv, Expand, MixConv2d, Sum, split_channels
from models.heads import Classify, Proto
from models.yolo import DetectionModel

OWN_MODULES = (common, experimental, heads)
MAP = (2, 8, 8, 12)
# id: (layer, input shape or list of shapes, output shape); every layer of the zoo stands here
LAYERS = {
    "Conv": (lambda **k: Conv(8, 16, 3, 2, **k), MAP, (2, 16, 4, 6)),
    "Conv with padding, groups and dilation": (lambda **k: Conv(8, 16, 3, 1, None, 4, 2, **k), MAP, (2, 16, 8, 12)),
    "Conv with given padding": (lambda **k: Conv(8, 16, 6, 2, 2, **k), MAP, (2, 16, 4, 6)),
    "DWConv": (lambda **k: DWConv(8, 12, 3, 1, **k), MAP, (2, 12, 8, 12)),
    "DWConvTranspose2d": (lambda: DWConvTranspose2d(8, 8, 3, 2, 1, 1), MAP, (2, 8, 16, 24)),
    "TransformerLayer": (lambda: TransformerLayer(8, 2), (2, 10, 8), (2, 10, 8)),
    "TransformerBlock": (lambda: TransformerBlock(8, 8, 2, 2), MAP, MAP),
    "TransformerBlock of other width": (lambda **k: TransformerBlock(8, 16, 4, 1, **k), MAP, (2, 16, 8, 12)),
    "Bottleneck": (lambda **k: Bottleneck(8, 8, **k), MAP, MAP),
    "Bottleneck without shortcut": (lambda **k: Bottleneck(8, 16, **k), MAP, (2, 16, 8, 12)),
    "BottleneckCSP": (lambda **k: BottleneckCSP(8, 16, 2, **k), MAP, (2, 16, 8, 12)),
    "CrossConv": (lambda **k: CrossConv(8, 8, 3, 1, 1, 1.0, True, **k), MAP, MAP),
    "C3": (lambda **k: C3(8, 16, 2, **k), MAP, (2, 16, 8, 12)),
    "C3x": (lambda **k: C3x(8, 16, 2, **k), MAP, (2, 16, 8, 12)),
    "C3TR": (lambda **k: C3TR(8, 16, 2, **k), MAP, (2, 16, 8, 12)),
    "C3SPP": (lambda **k: C3SPP(8, 16, (3, 5), **k), MAP, (2, 16, 8, 12)),
    "C3Ghost": (lambda **k: C3Ghost(8, 16, 2, **k), MAP, (2, 16, 8, 12)),
    "SPP": (lambda **k: SPP(8, 16, **k), MAP, (2, 16, 8, 12)),
    "SPPF": (lambda **k: SPPF(8, 16, **k), MAP, (2, 16, 8, 12)),
    "Focus": (lambda **k: Focus(8, 16, 3, **k), MAP, (2, 16, 4, 6)),
    "GhostConv": (lambda **k: GhostConv(8, 16, 3, 2, **k), MAP, (2, 16, 4, 6)),
    "GhostBottleneck": (lambda **k: GhostBottleneck(8, 8, **k), MAP, MAP),
    "GhostBottleneck of stride 2": (lambda **k: GhostBottleneck(8, 16, 3, 2, **k), MAP, (2, 16, 4, 6)),
    "Contract": (lambda: Contract(2), MAP, (2, 32, 4, 6)),
    "Expand": (lambda: Expand(2), MAP, (2, 2, 16, 24)),
    "Concat": (lambda: Concat(1), [MAP, (2, 4, 8, 12)], (2, 12, 8, 12)),
    "Classify": (lambda **k: Classify(8, 5, **k), MAP, (2, 5)),
    "Classify of a list": (lambda **k: Classify(16, 5, **k), [MAP, MAP], (2, 5)),
    "Proto": (lambda **k: Proto(8, 16, 4, **k), MAP, (2, 4, 16, 24)),
    "Sum": (lambda: Sum(3), [MAP, MAP, MAP], MAP),
    "Sum with weights": (lambda: Sum(3, True), [MAP, MAP, MAP], MAP),
    "MixConv2d": (lambda **k: MixConv2d(8, 16, (1, 3, 5), **k), MAP, (2, 16, 8, 12)),
    "MixConv2d of equal weights": (lambda **k: MixConv2d(8, 32, (1, 3), 2, False, **k), MAP, (2, 32, 4, 6)),
}
ACTIVATED = [name for name, (layer, *_) in LAYERS.items() if layer.__code__.co_flags & 0x08]  # those that take act=
with_layers = pytest.mark.parametrize("name", LAYERS)


def build(name, **kwargs):
    """The layer with random batch-norm statistics, and an input for it."""
    torch.manual_seed(0)
    layer, shapes, _ = LAYERS[name]
    layer = layer(**kwargs)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    x = [torch.randn(shape) for shape in shapes] if isinstance(shapes, list) else torch.randn(shapes)
    return layer, x


def batch_norms(module):
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_every_layer_of_the_zoo_is_tested_and_registered():
    """A layer that is added without a row in LAYERS, or without a name for model files, fails here."""
    classes = {
        name
        for module in OWN_MODULES
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    assert classes - {"Detect", "Segment"} == {name.split()[0] for name in LAYERS}
    assert classes <= set(registry.LAYERS)


def test_common_imports_torch_the_standard_library_and_utils_alone():
    tree = ast.parse(Path(common.__file__).read_text())
    imports = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    imports |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imports} <= {"torch", "copy", "math", "utils"}


@with_layers
def test_forward_and_gradients(name):
    """The documented shape, no NaN, and a gradient for every parameter and for the input, that is not all zero."""
    layer, x = build(name)
    inputs = x if isinstance(x, list) else [x]
    for tensor in inputs:
        tensor.requires_grad_()
    y = layer(x)
    assert tuple(y.shape) == LAYERS[name][2]
    assert y.isfinite().all()
    (y * torch.randn_like(y)).sum().backward()
    for tensor_name, tensor in [*layer.named_parameters(), *((f"input {i}", t) for i, t in enumerate(inputs))]:
        assert tensor.grad is not None and tensor.grad.isfinite().all(), tensor_name
        assert tensor.grad.any(), tensor_name


@with_layers
def test_fuse_is_exact_and_leaves_no_batchnorm(name):
    layer, x = build(name)
    layer.eval()
    with torch.no_grad():
        expected = layer(copy.deepcopy(x))
        for module in layer.modules():
            if hasattr(module, "fuse"):
                module.fuse()
                module.fuse()  # a second call changes nothing
        fused = layer(x)
    assert not batch_norms(layer)
    assert (fused - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ACTIVATED)
def test_act_replaces_every_activation(name):
    """act=module reaches every inner layer as separate copies; act=False leaves none."""
    given = nn.PReLU(init=0.1)
    layer, x = build(name, act=given)
    replaced = [m for m in layer.modules() if isinstance(m, nn.PReLU)]
    assert len(replaced) >= 1 and not any(isinstance(m, nn.SiLU) for m in layer.modules())
    assert len({id(m) for m in [given, *replaced]}) == len(replaced) + 1
    assert layer(x).isfinite().all()
    plain, _ = build(name, act=False)
    assert not any(isinstance(m, (nn.SiLU, nn.PReLU)) for m in plain.modules())


def test_act_of_another_kind_is_an_error():
    with pytest.raises(TypeError, match=r"nn\.Module, found 'relu'"):
        Conv(8, 8, act="relu")


CHECKPOINT_NAMES = [  # names in the state dicts of YOLOv5 checkpoints
    (Conv(4, 4), {"conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"}),
    (DWConvTranspose2d(4, 4), {"weight", "bias"}),
    (Focus(4, 4), {"conv.conv.weight", "conv.bn.weight"}),
    (C3(4, 4), {"cv1.conv.weight", "cv2.conv.weight", "cv3.conv.weight", "m.0.cv1.conv.weight", "m.0.cv2.bn.bias"}),
    (C3x(4, 4), {"m.0.cv1.conv.weight", "m.0.cv2.conv.weight"}),
    (C3SPP(4, 4), {"m.cv1.conv.weight", "m.cv2.conv.weight"}),
    (C3Ghost(16, 16), {"m.0.conv.0.cv1.conv.weight", "m.0.conv.2.cv2.bn.weight"}),
    (BottleneckCSP(4, 4), {"cv1.conv.weight", "cv2.weight", "cv3.weight", "cv4.conv.weight", "bn.weight"}),
    (C3TR(8, 8), {"m.linear.weight", "m.tr.0.q.weight", "m.tr.0.ma.in_proj_weight", "m.tr.0.fc2.weight"}),
    (TransformerBlock(4, 8, 4, 1), {"conv.conv.weight", "tr.0.ma.out_proj.bias"}),
    (GhostBottleneck(4, 4, 3, 2), {"conv.1.conv.weight", "shortcut.0.conv.weight", "shortcut.1.bn.weight"}),
    (Proto(4), {"cv1.conv.weight", "cv2.conv.weight", "cv3.conv.weight"}),
    (Classify(4, 2), {"conv.conv.weight", "linear.weight", "linear.bias"}),
    (MixConv2d(4, 4), {"m.0.weight", "m.1.weight", "bn.weight"}),
    (Sum(3, True), {"w"}),
]


@pytest.mark.parametrize("layer, names", CHECKPOINT_NAMES, ids=lambda value: type(value).__name__)
def test_state_dict_names_are_those_of_checkpoints(layer, names):
    assert names <= set(layer.state_dict())


def test_batchnorms_have_yolo_settings():
    assert {(bn.eps, bn.momentum) for name in LAYERS for bn in batch_norms(build(name)[0])} == {(1e-3, 0.03)}


def test_focus_orders_pixels_column_by_column():
    """The order of checkpoints: (row 0, column 0), (1, 0), (0, 1), (1, 1)."""
    seen = []
    layer = Focus(1, 4).eval()
    layer.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]))
    assert seen[0].flatten().tolist() == [0, 2, 1, 3]


def test_contract_orders_channels_row_column_channel():
    x = torch.arange(8.0).view(1, 2, 2, 2)  # channel * 4 + row * 2 + column
    assert Contract(2)(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@settings(max_examples=30, deadline=None)
@given(c=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4), gain=st.integers(1, 3))
def test_expand_inverts_contract(c, h, w, gain):
    x = torch.rand(2, c, h * gain, w * gain)
    assert torch.equal(Expand(gain)(Contract(gain)(x)), x)


def test_sppf_equals_spp():
    """SPPF with k = 5 is SPP with 5, 9, 13 and the same weights."""
    spp, sppf = SPP(8, 16, (5, 9, 13)).eval(), SPPF(8, 16, 5).eval()
    sppf.load_state_dict(spp.state_dict())
    x = torch.randn(MAP)
    torch.testing.assert_close(sppf(x), spp(x), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(k=st.sampled_from([1, 3, 5, 7]), d=st.integers(1, 3), size=st.integers(8, 20))
def test_autopad_keeps_the_size(k, d, size):
    x = torch.zeros(1, 1, size, size)
    assert nn.functional.conv2d(x, torch.zeros(1, 1, k, k), padding=autopad(k, None, d), dilation=d).shape == x.shape


def test_autopad_of_lists_and_given_padding():
    assert autopad((1, 5)) == [0, 2]
    assert autopad(3, 0) == 0


def test_transformer_tokens_keep_their_place():
    """With attention and feed-forward silenced, only x + linear(x) is left, at the same pixel."""
    block = TransformerBlock(4, 4, 2, 1)
    for parameter in [block.tr[0].ma.out_proj.weight, block.tr[0].ma.out_proj.bias, block.tr[0].fc2.weight]:
        nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 3, 5)
    expected = x + block.linear(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(block(x), expected)


@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=5), extra=st.integers(0, 60))
def test_split_channels_is_complete(shares, extra):
    channels = split_channels(len(shares) + extra, shares)
    assert sum(channels) == len(shares) + extra and min(channels) >= 1 and len(channels) == len(shares)


SPLITS = [  # channels, kernels, equal_ch, expected
    (16, (1, 3), True, [8, 8]),
    (7, (1, 3, 5), True, [2, 3, 2]),
    (10, (1, 3), False, [9, 1]),  # 1 * 9 weights = 9 * 1 weights
    (59, (1, 3, 5), False, [51, 6, 2]),
]


@pytest.mark.parametrize("c2, kernels, equal_ch, expected", SPLITS)
def test_mixconv_channels(c2, kernels, equal_ch, expected):
    assert [conv.out_channels for conv in MixConv2d(1, c2, kernels, 1, equal_ch).m] == expected


def test_mixconv_with_fewer_channels_than_kernels_is_an_error():
    with pytest.raises(ValueError, match="2 output channels cannot be split over 3 kernels"):
        MixConv2d(4, 2, (1, 3, 5))


def test_sum_of_another_number_of_maps_is_an_error():
    with pytest.raises(ValueError, match="built for 3 maps, found 2"):
        Sum(3)([torch.zeros(1), torch.zeros(1)])


def test_sum_adds():
    maps = [torch.full((1, 1), value) for value in (1.0, 2.0, 4.0)]
    assert Sum(3)(maps).item() == 7
    weighted = Sum(3, True)
    weighted.w.data.zero_()  # sigmoid(0) * 2 = 1
    assert weighted(maps).item() == 7
    assert maps[0].item() == 1  # inputs are left alone


def test_old_import_paths():
    from extras.hub import autoshape
    from models import backends

    assert common.AutoShape is autoshape.AutoShape and common.Detections is autoshape.Detections
    assert common.DetectMultiBackend is backends.DetectMultiBackend
    with pytest.raises(AttributeError, match="no attribute 'NoSuchLayer'"):
        common.NoSuchLayer  # noqa: B018


# (from, arguments) of a row of a model file; the map before it has 16 channels
ROWS = {
    **dict.fromkeys(["Conv", "DWConv", "CrossConv", "Focus", "GhostConv"], (-1, [16, 3])),
    **dict.fromkeys(["Bottleneck", "BottleneckCSP", "C3", "C3x", "C3TR", "C3Ghost"], (-1, [16, False])),
    "C3SPP": (-1, [16, [3, 5]]),
    "SPP": (-1, [16, [5, 9, 13]]),
    "SPPF": (-1, [16, 5]),
    "MixConv2d": (-1, [16, [1, 3]]),
    "GhostBottleneck": (-1, [16]),
    "TransformerBlock": (-1, [16, 4, 1]),
    "DWConvTranspose2d": (-1, [16, 2, 2]),
    "Contract": (-1, [2]),
    "Expand": (-1, [2]),
    "Concat": ([-1, 2], [1]),
    "Sum": ([-1, 2], [2, True]),
    "Proto": (-1, [16, 8]),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("activation", [None, "nn.Hardswish()"])
def test_as_a_row_of_a_model_file(name, activation):
    """Each layer gives the channels that the registry says: the model runs, trains and fuses."""
    source, args = ROWS[name]
    cfg = {"nc": 2, "anchors": [[8, 8, 16, 16]], "backbone": [[-1, 1, "Conv", [16, 3, 2]]] * 3}
    cfg["head"] = [[source, 1, name, args], [-1, 1, "Conv", [8, 1]], [[-1], 1, "Detect", ["nc", "anchors"]]]
    torch.manual_seed(0)
    model = DetectionModel(cfg | ({"activation": activation} if activation else {}))
    x = torch.rand(2, 3, 64, 64)
    (model.train()(x)[0] ** 2).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        expected = model.eval()(x)[0]
        fused = model.fuse()(x)[0]
    assert not batch_norms(model) and (fused - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not (activation and any(isinstance(m, nn.SiLU) for m in model.modules()))


def test_every_registered_layer_has_a_row():
    """TransformerLayer (tokens) and Classify (no map) cannot stand before Detect."""
    modules = [module.__name__ for module in OWN_MODULES]
    zoo = {name for name, (cls, _) in registry.LAYERS.items() if getattr(cls, "__module__", "") in modules}
    assert zoo - {"TransformerLayer", "Classify", "Detect", "Segment"} == set(ROWS)


@pytest.mark.parametrize("name", [name for names in common.OWNERS.values() for name in names])
def test_names_of_other_modules_are_found_here_too(name):
    assert getattr(common, name).__name__ == name
