"""Names, arguments and channel rules of model files. Every registered layer is built and run."""

import pytest
import torch
from torch import nn

from models import common, registry
from models.config import ModelSettings, parse_activation
from models.registry import LAYERS, build, find_layer, resolve

SETTINGS = ModelSettings(nc=5, anchors=[[1, 2]])
# arguments for the layers whose own defaults do not say enough; the input is a [2, 8, 8, 8] map
ARGUMENTS = {
    "TransformerBlock": [16, 2, 1],
    "GhostBottleneck": [8],
    "nn.Conv2d": [16, 3],
    "nn.ConvTranspose2d": [16, 2, 2],
    "DWConvTranspose2d": [16, 2, 2],
    "nn.Upsample": [None, 2, "nearest"],
    "nn.UpsamplingNearest2d": [None, 2],
    "nn.UpsamplingBilinear2d": [None, 2],
    "nn.MaxPool2d": [2],
    "nn.AvgPool2d": [2],
    "nn.AdaptiveAvgPool2d": [1],
    "nn.AdaptiveMaxPool2d": [1],
    "nn.ZeroPad2d": [[0, 1, 0, 1]],
    "nn.ReflectionPad2d": [1],
    "nn.ReplicationPad2d": [1],
    "nn.Threshold": [0.1, 0.0],
    "Sum": [2],
    "Proto": [16, 24],
    "Classify": [7],
    "Detect": [5, [[8, 8, 16, 16]] * 2],
    "Segment": [5, [[8, 8, 16, 16]] * 2, 4, 8],
    "timm": ["resnet18"],
}
CHANNELS = {
    "Concat": 16,
    "GhostBottleneck": 8,
    "Sum": 8,
    "Contract": 32,
    "Expand": 2,
    "Proto": 24,
    "Classify": 7,
    "Detect": None,
    "Segment": None,
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_name_builds_runs_and_has_the_channels_that_its_rule_says(name):
    layer = find_layer(name)
    if name == "timm":
        pytest.importorskip("timm")
    if name == "TransformerLayer":  # works on tokens, [B, N, C]
        args, c_out, _ = layer.rule([2], [8], 1, SETTINGS)
        assert build(layer.cls, args, {}, SETTINGS)(torch.rand(2, 4, 8)).shape == (2, 4, c_out)
        return
    many = layer.rule in registry.MANY_INPUTS
    size = 64 if layer.rule is registry.backbone else 8
    image = torch.rand(2, 8, size, size)
    default = [16] if layer.rule in (registry.conv, registry.repeat) else []
    args, c_out, n = layer.rule(ARGUMENTS.get(name, default), [8, 8] if many else [8], 1, SETTINGS)
    module = build(layer.cls, args, {}, SETTINGS).eval()
    with torch.no_grad():
        y = module([image, image] if many else image)
    assert n == 1
    if layer.rule is registry.backbone:
        assert [m.shape[1] for m in y] == module.out_channels
        assert [size // m.shape[2] for m in y] == module.out_strides
    elif c_out is not None:  # a head gives no map
        assert y.shape[1] == c_out == CHANNELS.get(name, 16 if default or name in ARGUMENTS and c_out == 16 else 8)


@pytest.mark.parametrize("name", ["edgevit_xxs", "EdgeViT_XXS", "EdgeViT-XXS", "EDGEVIT_XXS", "edgevit.xxs"])
def test_backbone_names_in_any_spelling(name):
    assert find_layer(name) is LAYERS["edgevit_xxs"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("Convv", "unknown module 'Convv', did you mean Conv"),
        ("Upsample", "did you mean nn.Upsample"),  # the nn. is missing
        ("c3", "unknown module 'c3', did you mean C3"),  # only backbones may be spelt freely
        ("edgevit_xxl", "did you mean edgevit_xxs"),
        ("qqqqqqqq", "known names: Bottleneck, BottleneckCSP, C3"),  # nothing is close: all names
        (3, "expected a module name, found 3"),
    ],
)
def test_unknown_name(name, message):
    with pytest.raises(ValueError) as error:
        find_layer(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "value, expected",
    [
        ("nc", 5),
        ("anchors", [[1, 2]]),
        ("None", None),  # YAML has null, model files write None
        ("True", True),
        ("[1, 3]", [1, 3]),
        ("(1, 3)", (1, 3)),
        ("'nearest'", "nearest"),
        ("nearest", "nearest"),  # a plain word stays one
        ("weights/edge.pt", "weights/edge.pt"),
        ("2024_run/edge.pth", "2024_run/edge.pth"),  # a file name that starts like a number
        ("1e-3", 0.001),
        ("-1", -1),
        (7, 7),
        (None, None),
        ([1, "None", ["nc"]], [1, None, [5]]),
        ({"weights": "None"}, {"weights": None}),
        ("Conv", common.Conv),
        ("__import__('os').system('true')", "__import__('os').system('true')"),  # a string: nothing runs
    ],
)
def test_resolve(value, expected):
    assert resolve(value, SETTINGS) == expected


def test_resolve_activation():
    module = resolve("nn.LeakyReLU(0.1)", SETTINGS)
    assert isinstance(module, nn.LeakyReLU) and module.negative_slope == 0.1


@pytest.mark.parametrize("value", ["[1, 2", "(3,", "1..2", "{'a': 1", "'open", "3 +"])
def test_bad_literal(value):
    with pytest.raises(ValueError, match="is not a valid Python literal"):
        resolve(value, SETTINGS)


@pytest.mark.parametrize(
    "text, cls",
    [
        ("nn.SiLU()", nn.SiLU),
        ("torch.nn.ReLU6(inplace=True)", nn.ReLU6),
        ("LeakyReLU(0.1)", nn.LeakyReLU),
        ("nn.PReLU()", nn.PReLU),
    ],
)
def test_activation(text, cls):
    assert type(parse_activation(text)) is cls


@pytest.mark.parametrize(
    "text, message",
    [
        ("nn.SiLu()", "unknown activation 'SiLu' in 'nn.SiLu()', did you mean SiLU"),
        ("nn.Linear(1, 2)", "unknown activation 'Linear'"),  # not an activation
        ("os.system('true')", "unknown activation 'os.system'"),
        ("nn.SiLU", "expected a call such as nn.LeakyReLU(0.1), found 'nn.SiLU'"),
        ("nn.LeakyReLU(open('x'))", "expected a call"),  # arguments are literals
        ("nn.SiLU(", "expected a call"),
        (5, "expected a call"),
        ("nn.SiLU(1, 2, 3)", "activation 'nn.SiLU(1, 2, 3)'"),  # too many arguments
    ],
)
def test_wrong_activation(text, message):
    with pytest.raises(ValueError) as error:
        parse_activation(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "width, multiple, channels, expected",
    [(1.0, 8, 64, 64), (0.25, 8, 64, 16), (0.33, 8, 64, 24), (0.5, 8, 36, 24), (0.5, 4, 36, 20), (0.01, 8, 64, 8)],
)
def test_width(width, multiple, channels, expected):
    assert ModelSettings(1, 1, width_multiple=width, channel_multiple=multiple).width(channels) == expected


@pytest.mark.parametrize(
    "depth, repeats, expected",
    [(0.33, 3, 1), (0.33, 9, 3), (0.67, 6, 4), (1.33, 9, 12), (0.33, 1, 1), (2.0, 1, 1), (0.01, 3, 1)],
)
def test_depth(depth, repeats, expected):
    assert ModelSettings(1, 1, depth_multiple=depth).depth(repeats) == expected


@pytest.mark.parametrize("channels", [0, -8, "64", 64.0, None, True])
def test_wrong_output_channels(channels):
    with pytest.raises(ValueError, match="expected a positive number of channels as the first argument"):
        SETTINGS.width(channels)


def test_the_hidden_channels_of_segment_are_scaled():
    settings = ModelSettings(5, [], width_multiple=0.25)
    args, c_out, n = find_layer("Segment").rule([5, [[1, 2]], 32, 256], [64], 1, settings)
    assert (args, c_out, n) == ([5, [[1, 2]], 32, 64, [64]], None, 1)


@pytest.mark.parametrize(
    "name, args, inputs, message",
    [
        ("Conv", [], [8], "expected at least one argument"),
        ("Conv", [16], [8, 8], "takes one input, found 2"),
        ("Sum", [2], [8, 16], "equal channels, found [8, 16]"),
        ("Sum", [3], [8, 8], "expected 2, found 3"),
        ("Expand", [3], [8], "8 input channels cannot be divided by 3 * 3"),
        ("Proto", [16], [8], "expected two arguments"),
        ("Segment", [5, [[1, 2]]], [8], "expected four arguments, nc, anchors, masks and hidden channels, found [5, "),
        ("Segment", [5, [[1, 2]], 32, "wide"], [8], "number of channels as the fourth argument, found 'wide'"),
    ],
)
def test_rule_errors(name, args, inputs, message):
    with pytest.raises(ValueError) as error:
        find_layer(name).rule(args, inputs, 1, SETTINGS)
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["nc", "depth_multiple", "width_multiple", "channel_multiple"])
@pytest.mark.parametrize("value", [-1, "1", True, [1]])
def test_settings_are_checked(key, value):
    with pytest.raises(ValueError, match=f"{key}: expected a positive number, found"):
        ModelSettings.of({"nc": 3, **{key: value}})


def test_activation_of_the_file_reaches_only_what_takes_one():
    settings = ModelSettings(1, 1, activation=nn.Hardswish())
    assert isinstance(build(common.Conv, [4, 8], {}, settings).act, nn.Hardswish)
    assert isinstance(build(common.Conv, [4, 8], {"act": False}, settings).act, nn.Identity)
    assert isinstance(build(common.Conv, [4, 8], {}, SETTINGS).act, nn.SiLU), "no global state"
    build(nn.Conv2d, [4, 8, 1], {}, settings)
