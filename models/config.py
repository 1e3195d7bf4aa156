"""Model files: their keys, and the values that hold for all of their rows."""

import ast
import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.limits import MAX_CHANNELS, MAX_REPEATS, MAX_ROWS, ModelTooLargeError
from utils.console.text import brief, did_you_mean
from utils.files.yaml import load_yaml
from utils.general import check_yaml, make_divisible
from utils.logger import LOGGER

MODEL_KEYS = (
    "nc ch names anchors depth_multiple width_multiple channel_multiple activation inplace backbone head".split()
)
MAX_NUMBER = 2**53  # Whole numbers up to it are exact as floats; infinity and nan are beyond it.
MAX_TEXT = 1000  # characters of an argument: Python's parser takes much memory for deep brackets
ACTIVATIONS = (
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU ReLU ReLU6 RReLU "
    "SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
).split()


def load_cfg(cfg) -> dict:
    """Return a model file's content, as an independent dict. `cfg`: path, bare name, or the dict itself.

    An unknown key is a warning, a missing one a ValueError.
    """
    source = "model dict" if isinstance(cfg, dict) else str(cfg)
    content = copy.deepcopy(cfg) if isinstance(cfg, dict) else load_yaml(check_yaml(cfg))
    for key in content:
        if key not in MODEL_KEYS:
            LOGGER.warning(f"{source}: unknown key '{key}' is not used{did_you_mean(key, MODEL_KEYS)}")
    for key in ("nc", "backbone", "head"):
        if key not in content:
            raise ValueError(f"{source}: key '{key}' is missing; found {', '.join(map(str, content))}")
    for key in ("anchors", "backbone", "head"):
        check_numbers(content.get(key), f"{source}: {key}")
    for key in ("backbone", "head"):
        if not isinstance(content[key], list):
            raise ValueError(f"{source}: '{key}' must be a list of rows, found {brief(content[key])}")
    if not content["backbone"] + content["head"]:
        raise ValueError(f"{source}: expected at least one row in 'backbone' and 'head', found none")
    if (rows := len(content["backbone"] + content["head"])) > MAX_ROWS:
        raise ValueError(f"{source}: expected at most {MAX_ROWS} rows, found {rows:,}")
    if type(ch := content.get("ch", 3)) is not int or not 0 < ch <= MAX_CHANNELS:
        raise ValueError(f"{source}: ch: expected a number of channels, found {brief(ch)}")
    return content


def check_numbers(value: Any, where: str) -> None:
    """Raise a ValueError that begins with `where` for a number in nested lists and mappings that no model can mean."""
    if isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{where}: expected numbers up to {MAX_NUMBER:g}, found {brief(value)}")
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    for part in parts if isinstance(parts, (list, tuple)) else ():
        check_numbers(part, where)


@dataclass(frozen=True)
class ModelSettings:
    """The values of a model file that its rows need."""

    nc: int
    anchors: Any
    depth_multiple: float = 1.0
    width_multiple: float = 1.0
    channel_multiple: int = 8
    activation: Any = None  # nn.Module, or None for each layer's own default

    @classmethod
    def of(cls, cfg: dict) -> "ModelSettings":
        """Return the checked settings of a model dict."""
        scales = {key: cfg[key] for key in ("depth_multiple", "width_multiple", "channel_multiple") if cfg.get(key)}
        for key, value in {"nc": cfg["nc"], **scales}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{key}: expected a positive number, found {brief(value)}")
            if key == "channel_multiple" and value != int(value):
                raise ValueError(f"{key}: expected a whole number, found {brief(value)}")
            if value > MAX_CHANNELS:
                raise ModelTooLargeError(f"{key}: expected at most {MAX_CHANNELS}, found {brief(value)}")
        activation = parse_activation(cfg["activation"]) if cfg.get("activation") else None
        return cls(cfg["nc"], cfg.get("anchors"), activation=activation, **scales)

    def width(self, channels, argument: str = "first") -> int:
        """Return the scaled channels that a row's argument gives; errors call it the `argument` one."""
        if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
            raise ValueError(
                f"expected a positive number of channels as the {argument} argument, found {brief(channels)}"
            )
        if channels * self.width_multiple > MAX_CHANNELS:
            raise ModelTooLargeError(f"{channels:,} x width_multiple {self.width_multiple:g} is no number of channels")
        return make_divisible(channels * self.width_multiple, self.channel_multiple)

    def depth(self, repeats: int) -> int:
        """Return the scaled repeats of a row; a single one is never scaled."""
        scaled = max(round(repeats * self.depth_multiple), 1) if repeats > 1 else repeats
        if scaled > MAX_REPEATS:
            raise ModelTooLargeError(f"expected at most {MAX_REPEATS} repeats, found {scaled:,}")
        return scaled


def checked_row(row) -> tuple:
    """Return (from, number, module, args) of a row of a model file. ValueError if it has another form."""
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        raise ValueError("expected [from, number, module, args]")
    if not isinstance(row[1], int) or row[1] < 1:
        raise ValueError(f"expected a positive number of repeats, found {brief(row[1])}")
    if not isinstance(row[3], (list, tuple)):
        raise ValueError(f"expected a list of arguments, found {brief(row[3])}")
    return tuple(row)


def parse_activation(text) -> nn.Module:
    """Return the module that 'nn.LeakyReLU(0.1)' names: an ACTIVATIONS class of torch.nn, with literal arguments."""
    if len(str(text)) > MAX_TEXT:
        raise ValueError(f"activation: expected a call such as nn.LeakyReLU(0.1), found {brief(text)}")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        name = ast.unparse(call.func).removeprefix("torch.").removeprefix("nn.")
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (AttributeError, SyntaxError, ValueError):
        raise ValueError(f"activation: expected a call such as nn.LeakyReLU(0.1), found {brief(text)}") from None
    if name not in ACTIVATIONS:
        hint = did_you_mean(name, ACTIVATIONS, n=3) or f"; known are {', '.join(ACTIVATIONS)}"
        raise ValueError(f"unknown activation '{name}' in {brief(text)}{hint}")
    try:
        return getattr(nn, name)(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"activation {brief(text)}: {error}") from None
