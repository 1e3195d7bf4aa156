"""Every name that a model file may use: its class, and its channel rule. There is no eval anywhere.

A rule turns a row's arguments into the class's. It takes the row's arguments, the channels of its inputs, its repeats
and the file's ModelSettings; it returns the class's arguments, the output channels, and the number of modules in a row.
"""

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from models import common, experimental, heads
from models.backbone import BACKBONES, is_backbone
from models.config import ACTIVATIONS, MAX_TEXT, ModelSettings, check_numbers, parse_activation
from utils.console.text import brief, did_you_mean


class Layer(NamedTuple):
    cls: Callable
    rule: Callable


def one(channels: list) -> int:
    """Return the channels of the only input."""
    if len(channels) != 1:
        raise ValueError(f"takes one input, found {len(channels)}")
    return channels[0]


def first(args: list) -> Any:
    """Return the first argument."""
    if not args:
        raise ValueError("expected at least one argument, found none")
    return args[0]


def conv(args, channels, n, settings):
    """Return [c_out, ...] -> (c_in, c_out, ...)"""
    c_in, c_out = one(channels), settings.width(first(args))
    return [c_in, c_out, *args[1:]], c_out, n


def repeat(args, channels, n, settings):
    """Return [c_out, ...] -> (c_in, c_out, n, ...): the class repeats its inner part itself."""
    args, c_out, n = conv(args, channels, n, settings)
    return [*args[:2], n, *args[2:]], c_out, 1


def same(args, channels, n, settings):
    """Return [...] -> (...), as many channels as the input."""
    return args, one(channels), n


def norm(args, channels, n, settings):
    """Return [...] -> (c, ...), as many channels as the input."""
    return [one(channels), *args], one(channels), n


def concat(args, channels, n, settings):
    return args, sum(channels) if args in ([], [1]) else channels[0], n


def total(args, channels, n, settings):
    if len(set(channels)) != 1:
        raise ValueError(f"expected inputs of equal channels, found {channels}")
    if first(args) != len(channels):
        raise ValueError(
            f"the first argument is the number of inputs: expected {len(channels)}, found {brief(args[0])}"
        )
    return args, channels[0], n


def contract(args, channels, n, settings):
    gain = args[0] if args else 2
    return args, one(channels) * gain**2, n


def expand(args, channels, n, settings):
    gain = args[0] if args else 2
    if one(channels) % gain**2:
        raise ValueError(f"{channels[0]} input channels cannot be divided by {gain} * {gain}")
    return args, channels[0] // gain**2, n


def prototypes(args, channels, n, settings):
    """Turn [hidden, c_out] into (c_in, hidden, c_out)."""
    if len(args) != 2:
        raise ValueError(f"expected two arguments, hidden and output channels, found {args}")
    return [one(channels), settings.width(args[0]), args[1]], args[1], n


def classify(args, channels, n, settings):
    """Return [classes, ...] -> (c_in, classes, ...); takes several inputs of one size."""
    return [sum(channels), first(args), *args[1:]], args[0], n


def head(args, channels, n, settings):
    """Return [...] -> (..., channels of all inputs); gives no map to later rows."""
    return [*args, channels], None, n


def segment(args, channels, n, settings):
    """Turn [nc, anchors, masks, hidden] into these and the channels of all inputs; it is a head, too."""
    if len(args) != 4:
        raise ValueError(f"expected four arguments, nc, anchors, masks and hidden channels, found {args}")
    return [*args[:3], settings.width(args[3], "fourth"), channels], None, n


def backbone(args, channels, n, settings):
    """Return [...] -> (c, ...); the output channels are declared by the built module."""
    return [one(channels), *args], None, n


MANY_INPUTS = {concat, total, classify, head, segment}  # The layers of these rules take a list of maps.

BY_RULE = {
    conv: "Conv DWConv DWConvTranspose2d TransformerBlock Bottleneck CrossConv SPP SPPF C3SPP Focus GhostConv "
    "GhostBottleneck MixConv2d nn.Conv2d nn.ConvTranspose2d",
    repeat: "BottleneckCSP C3 C3x C3TR C3Ghost",
    norm: "TransformerLayer nn.BatchNorm2d nn.InstanceNorm2d",
    same: "nn.Upsample nn.UpsamplingNearest2d nn.UpsamplingBilinear2d nn.MaxPool2d nn.AvgPool2d nn.AdaptiveAvgPool2d "
    "nn.AdaptiveMaxPool2d nn.ZeroPad2d nn.ReflectionPad2d nn.ReplicationPad2d nn.Dropout nn.Dropout2d",
    concat: "Concat",
    total: "Sum",
    contract: "Contract",
    expand: "Expand",
    prototypes: "Proto",
    classify: "Classify",
    head: "Detect",
    segment: "Segment",
}


def _find_class(name: str) -> Callable:
    if name.startswith("nn."):
        return getattr(nn, name[3:])
    return next(vars(module)[name] for module in (common, experimental, heads) if name in vars(module))


LAYERS = {name: Layer(_find_class(name), rule) for rule, names in BY_RULE.items() for name in names.split()}
LAYERS.update({f"nn.{name}": Layer(getattr(nn, name), same) for name in ACTIVATIONS})
LAYERS.update({name: Layer(cls, backbone) for name, cls in BACKBONES.items()})


def _plain(name: str) -> str:
    """Return a backbone's name without case and separators: EdgeViT-XXS, EdgeViT_XXS and edgevit_xxs are one."""
    return re.sub(r"[-_. ]", "", name).lower()


_PLAIN_BACKBONES = {_plain(name): name for name in BACKBONES}


def find_layer(name) -> Layer:
    """Return the layer called `name` in a model file. ValueError with the closest names if there is none."""
    if not isinstance(name, str):
        raise ValueError(f"expected a module name, found {brief(name)}")
    known = name if name in LAYERS else _PLAIN_BACKBONES.get(_plain(name))
    if known is None:
        hint = did_you_mean(name, LAYERS, n=3, cutoff=0.5) or did_you_mean(f"nn.{name}", LAYERS, n=3)
        raise ValueError(f"unknown module '{name}'{hint or '; known names: ' + ', '.join(sorted(LAYERS))}")
    return LAYERS[known]


def resolve(value, settings: ModelSettings):
    """Return a row's argument as a Python value. A string may be nc, anchors, a layer name, an activation or a literal.

    Other plain words stay strings (mode names, file names). ValueError for what looks like a literal and is none.
    """
    if isinstance(value, list):
        return [resolve(item, settings) for item in value]
    if isinstance(value, dict):
        return {key: resolve(item, settings) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if len(value) > MAX_TEXT:
        raise ValueError(f"expected an argument of at most {MAX_TEXT} characters, found {len(value):,}")
    if value in ("nc", "anchors"):
        return getattr(settings, value)
    if value in LAYERS:
        return LAYERS[value].cls
    if re.fullmatch(r"nn\.\w+\(.*\)", value.strip()):
        return parse_activation(value)
    try:
        literal = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if re.match(r"""[\s\-+]*[\d(\[{'"]""", value) and not re.search(r"\.\w{2,}$", value):
            raise ValueError(f"argument {brief(value)} is not a valid Python literal") from None
        return value
    check_numbers(literal, "argument")
    return literal


def build(cls: Callable, args: list, keywords: dict, settings: ModelSettings) -> nn.Module:
    """Return cls(*args, **keywords), with the file's activation for what takes `act`.

    A backbone's `weights` are not loaded yet: the module has their path as `weights_file`. ValueError for a wrong
    number of arguments and for values that the class refuses.
    """
    signature = inspect.signature(cls)
    shown = ", ".join([*map(brief, args), *(f"{key}={brief(value)}" for key, value in keywords.items())])
    try:
        bound = signature.bind(*args, **keywords)
    except TypeError as error:
        raise ValueError(f"{error}: expected {signature}, found ({shown})") from None
    if settings.activation is not None and "act" in signature.parameters:
        bound.arguments.setdefault("act", settings.activation)
    weights = bound.arguments.pop("weights", None)
    try:
        module = cls(*bound.args, **bound.kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise ValueError(f"{error} (arguments {shown})") from error
    if is_backbone(module):
        module.weights_file = weights
    return module
