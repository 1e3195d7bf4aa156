"""Bounds on the time and memory of a model file's rows. It may lie in a checkpoint that somebody else has written.

Rows are built on torch's meta device first, where tensors have shapes and no memory. While the model's first image runs
through them, each layer that can make a map larger is looked at before it does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

MAX_ROWS = 1000  # YOLOv5x6 has 33
MAX_REPEATS = 300  # all rows together; YOLOv5x6 has about 80
MAX_CHANNELS = 1 << 20
MAX_VALUES = 1 << 29  # 2 GiB of float32; YOLOv5x6 has 141 million
MAX_MAP_VALUES = 1 << 26  # in a map for one image of 256 px; YOLOv5's largest have less than 2 million
MAX_WINDOW_VALUES = 1 << 33  # that a pooling looks at, each as often as it does
MAX_TOKENS = 1 << 14  # that all look at each other
SPARE_VALUES = 1 << 20  # beyond a checkpoint's own: a model that is a little too large gets a message about its tensors
PADS = (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
ADAPTIVE_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_most_values = ContextVar("most_values", default=MAX_VALUES)  # for the model that is being built
WATCHED = (nn.Conv2d, nn.ConvTranspose2d, nn.Upsample, nn.MultiheadAttention, *PADS, *POOLS, *ADAPTIVE_POOLS)


class ModelTooLargeError(ValueError):
    """The rows of a model file take more memory or time than any model does."""


class Meter:
    """The values and repeats that rows take, added up."""

    def __init__(self):
        self.most = self.left = _most_values.get()
        self.repeats = 0

    def try_row(self, build: Callable[[], tuple[nn.Module, dict]]) -> None:
        """Build a row on the meta device, and count it; build() returns it, and the channels at each of its indices.

        ModelTooLargeError if it is too much. Any other error is left to the build of the real row.
        """
        try:
            with torch.device("meta"):
                layer, _ = build()
        except ModelTooLargeError:
            raise
        except ValueError:
            return
        values = values_of(layer)
        if values > self.left:
            raise ModelTooLargeError(f"takes {values:,} values, {self.left:,} of at most {self.most:,} are left for it")
        self.left -= values
        self.repeats += layer.repeats
        if self.repeats > MAX_REPEATS:
            raise ModelTooLargeError(f"expected at most {MAX_REPEATS} repeats in all rows, found {self.repeats}")


def values_of(module: nn.Module) -> int:
    """Return the number of values in a module's parameters and buffers."""
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))


def check_size(build: Callable[[], nn.Module]) -> None:
    """Raise ModelTooLargeError if the network that build() returns has more values than a model may have here."""
    most = _most_values.get()
    try:
        with torch.device("meta"):
            values = values_of(build())
    except (RuntimeError, TypeError, ValueError):  # The real build says what is wrong.
        return
    if values > most:
        raise ModelTooLargeError(f"the network takes {values:,} values, expected at most {most:,}")


@contextmanager
def limited_to(state_dict: dict) -> Iterator[None]:
    """Build models inside that have hardly more values than these tensors, those of a checkpoint."""
    values = sum(tensor.numel() for tensor in state_dict.values())
    token = _most_values.set(min(MAX_VALUES, values + SPARE_VALUES))
    try:
        yield
    finally:
        _most_values.reset(token)


@contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Raise ModelTooLargeError inside, before a layer of the model makes a map that no model has."""
    modules = [module for module in model.modules() if isinstance(module, WATCHED)]
    hooks = [module.register_forward_pre_hook(_check_map) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_map(module: nn.Module, inputs: tuple) -> None:
    x = inputs[0]
    if isinstance(module, nn.MultiheadAttention):
        tokens = x.shape[1]
        if tokens > MAX_TOKENS:
            raise ModelTooLargeError(f"attention between {tokens:,} tokens of a small image, expected {MAX_TOKENS:,}")
        return
    values, window = _output(module, x)
    if values > MAX_MAP_VALUES or values * window > MAX_WINDOW_VALUES:
        raise ModelTooLargeError(f"makes a map of {values:,} values of a small image, expected far less")


def _output(module: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Return about how many values a layer makes, and how many of its input a pooling looks at for each."""
    channels, (height, width) = x.shape[1], x.shape[2:]
    if isinstance(module, nn.ConvTranspose2d):
        (sy, sx), (ky, kx) = module.stride, module.kernel_size
        return module.out_channels * (height * sy + ky) * (width * sx + kx), 1
    if isinstance(module, nn.Conv2d):
        (sy, sx), (py, px) = module.stride, _pair(module.padding) if module.padding != "same" else (0, 0)
        return max(module.out_channels // (sy * sx), channels) * (height + 2 * py) * (width + 2 * px), 1
    if isinstance(module, nn.Upsample):
        gain_y, gain_x = _pair(module.scale_factor or 1)
        size_y, size_x = _pair(module.size or (height * gain_y, width * gain_x))
        return int(channels * size_y * size_x), 1
    if isinstance(module, ADAPTIVE_POOLS):
        size_y, size_x = _pair(module.output_size)
        return channels * (size_y or height) * (size_x or width), 1
    if isinstance(module, POOLS):
        (ky, kx), (sy, sx) = _pair(module.kernel_size), _pair(module.stride)
        return channels * height * width // (sy * sx), ky * kx
    left, right, top, bottom = module.padding
    return channels * (height + top + bottom) * (width + left + right), 1


def _pair(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
