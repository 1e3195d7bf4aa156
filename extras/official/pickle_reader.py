"""A reader of the pickles inside official YOLOv5 checkpoints: plain data comes out, no class of the file is imported.

A pickle names what it wants called. This reader answers a fixed list of names with functions of its own, the names of
network layers with empty shells that only keep their state, and refuses every other name. Whatever it hands to the
pickle cannot be altered by it. This is the one place of the project that uses pickle.
"""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch

from utils.checkpoint import UnsafeCheckpointError

SHELL_MODULES = ("models.common", "models.yolo", "models.experimental")
SHELL_PACKAGE = "torch.nn.modules."
MAX_DEPTH = 50  # of values inside each other: stops a file whose objects contain themselves
STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TORCH_DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


class Shell:
    """A substitute for an object of a class that is never imported; `state` is what the pickle stored for it."""

    name = ""

    def __new__(cls, *args, **kwargs):  # pickle may skip __init__
        shell = super().__new__(cls)
        shell.state = {}
        return shell

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        if isinstance(state, tuple):  # (__dict__, __slots__)
            state = {**(state[0] or {}), **(state[1] or {})}
        if not isinstance(state, dict):
            raise ValueError(f"expected a dict as the state of {self.name}, found {type(state).__name__}")
        self.state = state


class _Dict(dict):
    """An OrderedDict of the file, without the attributes that it may carry."""

    def __setstate__(self, state):
        pass


class _Sealed:
    """A function or tensor that the pickle may use but not alter: setting its state is refused."""

    __slots__ = ("name", "value")

    def __init__(self, name, value):
        self.name, self.value = name, value

    def __call__(self, *args):
        return self.value(*args)

    def __setstate__(self, state):
        raise UnsafeCheckpointError(f"refused: the pickle tries to alter {self.name}")


class _NumpyDtype:
    """A numpy.dtype as pickled: a type code such as f8, then a state whose second entry is the byte order."""

    def __init__(self, code="", *_):
        self.code, self.order = str(code), "="

    def __setstate__(self, state):
        self.order = state[1] if state[1] in "<>=" else "="

    def build(self) -> np.dtype:
        if self.code[:1] not in "biufcSU":
            raise ValueError(f"numpy dtype {self.code!r} in a checkpoint: expected a number or a string")
        return np.dtype(self.order + self.code)


class _NumpyArray:
    """A numpy.ndarray as pickled: an empty array, then a state (version, shape, dtype, fortran order, bytes)."""

    def __init__(self, *_):
        self.array = np.zeros(0)

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.array = np.frombuffer(data, dtype.build()).reshape(shape, order="F" if fortran else "C")


def _numpy_scalar(dtype, data):
    return np.frombuffer(data, dtype.build())[0].item()


def _encode(text, encoding):
    if encoding != "latin1":  # the only one with which pickle stores bytes
        raise ValueError(f"expected latin1 as the encoding of bytes, found {encoding!r}")
    return text.encode("latin1")


def _rebuild_tensor(storage, offset, size, stride, *_):
    """Return a copy of the strided part of a sealed 1-D `storage`; ValueError if it reaches beyond its end."""
    storage = storage.value
    size, stride = [int(n) for n in size], [int(n) for n in stride]
    last = int(offset) + sum((n - 1) * step for n, step in zip(size, stride))
    if min([int(offset), *size, *stride]) < 0 or len(size) != len(stride) or (0 not in size and last >= len(storage)):
        raise ValueError(f"tensor of size {size} and stride {stride} at {offset} exceeds its {len(storage)} elements")
    return _Sealed("a tensor", torch.as_strided(storage, size, stride, int(offset)).clone())


def _path(*parts):
    return "/".join(str(part) for part in parts).replace("//", "/")


def _allowed_names() -> dict:
    """Return {(module, name) as written in the pickle: the object that answers to it}."""
    names: dict = {
        ("collections", "OrderedDict"): _Dict,
        ("_codecs", "encode"): _encode,
        ("torch", "Size"): tuple,
        ("torch", "device"): lambda *parts: ":".join(str(part) for part in parts),
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("numpy", "dtype"): _NumpyDtype,
        ("numpy", "ndarray"): _NumpyArray,
        ("argparse", "Namespace"): Shell,
    }
    names.update({("torch", storage): dtype for storage, dtype in STORAGE_DTYPES.items()})
    names.update({("torch", dtype): dtype for dtype in TORCH_DTYPES})
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _NumpyArray
        names[core, "scalar"] = _numpy_scalar
    for kind in (set, frozenset, slice, complex, bytearray, list, dict):
        names["builtins", kind.__name__] = names["__builtin__", kind.__name__] = kind
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"):
            names[module, name] = _path
    return names


class _Reader(pickle.Unpickler):
    """Unpickler of data.pkl; `read_storage(key)` gives the bytes of a tensor storage."""

    def __init__(self, data: bytes, read_storage):
        super().__init__(io.BytesIO(data))
        self.read_storage = read_storage
        self.names = _allowed_names()
        self.shells: dict = {}
        self.storages: dict = {}

    def find_class(self, module, name):
        if (module, name) in self.names:
            value = self.names[module, name]
            if value is Shell:
                return self._shell(module, name)
            return _Sealed(f"{module}.{name}", value) if callable(value) else value
        if (module in SHELL_MODULES or module.startswith(SHELL_PACKAGE)) and name.isidentifier():
            return self._shell(module, name)
        raise UnsafeCheckpointError(f"refused: the pickle names {module}.{name}, which no YOLOv5 checkpoint needs")

    def _shell(self, module, name):
        full_name = f"{module}.{name}"
        if full_name not in self.shells:
            self.shells[full_name] = type(name, (Shell,), {"name": full_name})
        return self.shells[full_name]

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"expected a tensor storage, found {pid!r}")
        if key not in self.storages:
            data = self.read_storage(key)
            size = count * dtype.itemsize
            if len(data) != size:
                raise ValueError(f"tensor storage {key}: expected {size} bytes, found {len(data)}")
            storage = torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
            self.storages[key] = _Sealed("a tensor storage", storage)
        return self.storages[key]


def read_pickle(path) -> dict:
    """Return the dict in a zip file written by torch.save, with a Shell for each object; `plain` unpacks the values.

    UnsafeCheckpointError if it names anything outside the allow-list, ValueError if it is broken.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            main = next((name for name in infos if name.endswith("/data.pkl") and name.count("/") == 1), None)
            if main is None:
                raise ValueError("the zip file holds no data.pkl")
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
                raise ValueError("torch.save does not compress, but this file is compressed")
            folder = main[: -len("data.pkl")]
            content = _Reader(archive.read(main), lambda key: archive.read(f"{folder}data/{key}")).load()
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path}: {error}. Nothing in it was run") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{path}: not a readable checkpoint: {error or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict in the checkpoint, found {type(content).__name__}")
    return dict(content)


def plain(value, depth: int = 0):
    """Return a `value` of read_pickle as dicts, lists, values, tensors: a Namespace as dict, other shells by name."""
    if depth > MAX_DEPTH:
        raise ValueError(f"values nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {k if isinstance(k, (str, int, float)) else str(k): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v, depth + 1) for v in value]
    if isinstance(value, Shell):
        return plain(value.state, depth + 1) if value.name == "argparse.Namespace" else value.name
    if isinstance(value, _NumpyArray):
        return value.array.tolist()  # a number for an array without dimensions
    if isinstance(value, _Sealed):
        return value.value if isinstance(value.value, torch.Tensor) else value.name
    return value if isinstance(value, (torch.Tensor, str, int, float, type(None))) else str(value)
