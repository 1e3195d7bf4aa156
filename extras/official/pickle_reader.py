"""The names that pickles in official YOLOv5 checkpoints may use: a fixed list of functions of ours, and empty shells.

A shell keeps the state of an object, mostly a network layer, whose class is never imported. Every other name is
refused.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.files.pickles import Named, Rebuilt, UnsafeCheckpointError, scalar_set
from utils.files.tensors import MAX_VALUES, check_tree, read_torch_file

# Classifiers that YOLOv5 trained hold the steps before them (utils.augmentations), and may be torchvision's networks.
SHELL_MODULES = ("models.common", "models.yolo", "models.experimental", "utils.augmentations")
SHELL_PACKAGES = ("torch.nn.modules.", "torchvision.models.", "torchvision.ops.", "torchvision.transforms.")
TORCH_DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


class Shell(Rebuilt):
    """A substitute for an object of a class that is never imported; `state` is what the pickle stored for it."""

    def __init__(self, name: str):
        self.name = name
        self.state: dict = {}

    def set_state(self, state: Any) -> None:
        if isinstance(state, tuple):  # (__dict__, __slots__)
            state = {**(state[0] or {}), **(state[1] or {})}
        if not isinstance(state, dict):
            raise ValueError(f"expected a dict as the state of {self.name}, found {type(state).__name__}")
        self.state = state


class NumpyDtype(Rebuilt):
    """A numpy.dtype as pickled: a type code such as f8, then a state whose second entry is the byte order."""

    def __init__(self, code: str = "", *_):
        self.code, self.order = str(code), "="

    def set_state(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">", "=") else "="

    def build(self) -> np.dtype:
        if self.code[:1] not in "biufcSU":
            raise ValueError(f"numpy dtype {self.code[:20]!r} in a checkpoint: expected a number or a string")
        return np.dtype(self.order + self.code)


class NumpyArray(Rebuilt):
    """A numpy.ndarray as pickled: an empty array, then a state (version, shape, dtype, fortran order, bytes)."""

    def __init__(self, *_):
        self.array = np.zeros(0)

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if max([*shape, len(data)]) > MAX_VALUES:
            raise ValueError(f"a numpy array of shape {shape} in a checkpoint: expected a few numbers")
        self.array = np.frombuffer(data, dtype.build()).reshape(shape, order="F" if fortran else "C")


def _numpy_scalar(dtype: NumpyDtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.build())[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # the only one with which pickle stores bytes
        raise ValueError(f"expected latin1 as the encoding of bytes, found {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _bytes(data: bytes = b"") -> bytes:
    """Answer to bytearray, which with a number would take as many bytes."""
    if not isinstance(data, bytes):
        raise ValueError(f"expected bytes for a bytearray, found {type(data).__name__}")
    return data


def _path(*parts) -> str:
    return "/".join(str(part) for part in parts).replace("//", "/")


def _allowed_names() -> dict:
    """Return {(module, name) as written in the pickle: the object that answers to it}."""
    names: dict = {
        ("_codecs", "encode"): _encode,
        ("torch", "device"): lambda *parts: ":".join(str(part) for part in parts),
        ("numpy", "dtype"): NumpyDtype,
        ("numpy", "ndarray"): NumpyArray,
        ("argparse", "Namespace"): lambda *_: Shell("argparse.Namespace"),
    }
    names.update({("torch", dtype): dtype for dtype in TORCH_DTYPES})
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = NumpyArray
        names[core, "scalar"] = _numpy_scalar
    builtins = {"set": scalar_set, "frozenset": scalar_set, "bytearray": _bytes, "complex": complex}
    builtins |= {"slice": slice, "list": list, "dict": dict}
    for name, value in builtins.items():
        names["builtins", name] = names["__builtin__", name] = value
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"):
            names[module, name] = _path
    return names


NAMES = _allowed_names()


def find(module: str, name: str) -> Any:
    """Return what answers to a name in a pickle; UnsafeCheckpointError for one that is not on the list."""
    full_name = f"{module}.{name}"
    if (module, name) in NAMES:
        value = NAMES[module, name]
        return Named(full_name, value) if callable(value) else value
    if (module in SHELL_MODULES or module.startswith(SHELL_PACKAGES)) and name.isidentifier():
        return Named(full_name, lambda *_: Shell(full_name))
    full_name = full_name if len(full_name) < 100 else f"{full_name[:100]}..."
    raise UnsafeCheckpointError(f"refused: the pickle names {full_name}, which no YOLOv5 checkpoint needs")


def read_pickle(path: Path | str) -> dict:
    """Return the dict in a file of torch.save, with a Shell for each object; `plain` unpacks the values.

    UnsafeCheckpointError if it names anything outside the allow-list, ValueError if it is broken.
    """
    content, _ = read_torch_file(Path(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict in the checkpoint, found {type(content).__name__}")
    return dict(content)


def plain(value: Any) -> Any:
    """Return a `value` of read_pickle as dicts, lists, values, tensors: a Namespace as dict, other shells by name.

    ValueError if it is deeper or larger than a checkpoint's values are.
    """
    check_tree(value, lambda leaf: leaf.state.values() if _is_namespace(leaf) else None)
    return _plain(value)


def _is_namespace(value: Any) -> bool:
    return isinstance(value, Shell) and value.name == "argparse.Namespace"


def _plain(value: Any) -> Any:
    if _is_namespace(value):
        value = value.state
    if isinstance(value, dict):
        return {k if isinstance(k, (str, int, float)) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, (Shell, Named)):
        return value.name
    if isinstance(value, NumpyArray):
        return value.array.tolist()  # a number for an array without dimensions
    return value if isinstance(value, (torch.Tensor, str, int, float, type(None))) else str(value)
