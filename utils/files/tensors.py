"""The reader of files that torch.save wrote: tensors and plain data.

Every number that a file claims is held against its size before memory or time is spent on it.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.extras import load_extra
from utils.files.pickles import Machine, Named, PlainDict, Storage, UnsafeCheckpointError

MAX_VALUES = 1_000_000  # in the result, each as often as something refers to it
MAX_DEPTH = 50  # values inside each other
SPARE_BYTES = 64 << 20  # that tensors, which are views of storages, may claim beyond twice the file's size
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


def _find_object(module: str, name: str) -> Any:
    return load_extra("official.pickle_reader").find(module, name)


class TensorFile:
    """The names that the pickles of one file may use, and its storages. `objects`: it names more than plain data."""

    def __init__(self, size: int, read_storage: Callable[[str, int], bytearray], find_object: Callable = _find_object):
        self.objects = False
        self.free_bytes = 2 * size + SPARE_BYTES
        self.size = size
        self.read_storage, self.find_object = read_storage, find_object
        self.storages: dict[str, torch.Tensor] = {}
        self.names = {
            ("collections", "OrderedDict"): PlainDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            **{("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()},
        }

    def find(self, module: str, name: str) -> Named:
        if (module, name) in self.names:
            return Named(f"{module}.{name}", self.names[module, name])
        self.objects = True
        return self.find_object(module, name)

    def storage(self, pid: Any) -> torch.Tensor:
        """Return the storage for a persistent id: ("storage", its type, key, device, number of elements ...)."""
        kind, dtype, key, _, count, *_ = (*pid, *[None] * 5)
        dtype = dtype.value if isinstance(dtype, Named) else None
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int:
            raise ValueError("expected a tensor storage")
        if key not in self.storages:
            size = count * dtype.itemsize
            if not 0 <= size <= self.size:
                raise ValueError(f"tensor storage {key}: claims {size:,} bytes, the file has {self.size:,}")
            data = self.read_storage(str(key), size)
            if len(data) != size:
                raise ValueError(f"tensor storage {key}: expected {size} bytes, found {len(data)}")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        if self.storages[key].dtype != dtype:
            raise ValueError(f"tensor storage {key}: expected {self.storages[key].dtype}, found {dtype}")
        return self.storages[key]

    def _tensor(self, storage: Storage, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
        """Return the strided part of a storage as a view; ValueError if it reaches beyond its end."""
        elements = storage.tensor
        size, stride, offset = [int(n) for n in size], [int(n) for n in stride], int(offset)
        if not len(size) == len(stride) <= MAX_DEPTH:
            raise ValueError(f"tensor of {len(size)} sizes and {len(stride)} strides exceeds its storage")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        least = min([offset, *size, *stride])
        if least < 0 or len(size) != len(stride) or (0 not in size and last >= len(elements)):
            raise ValueError(
                f"tensor of size {size} and stride {stride} at {offset} exceeds its {len(elements)} elements"
            )
        count = 1
        for n in size:
            count *= n
        self.free_bytes -= count * elements.dtype.itemsize
        if self.free_bytes < 0:
            raise ValueError(f"its tensors, the last of size {size}, claim far more bytes than the file has")
        return torch.as_strided(elements, size, stride, offset)


def read_torch_file(path: Path) -> tuple[Any, bool]:
    """Return the value in a file of torch.save, and whether it names more than tensors and plain data.

    UnsafeCheckpointError for a name outside the allow-list, ValueError for a file that is none, is broken or claims
    more than it has; both name the file.
    """
    is_zip, found = _look_at(path)
    try:
        content, objects = _read_zip(path) if is_zip else _read_legacy(path)
        if not objects:
            check_tree(content)
        return content, objects
    except UnsafeCheckpointError as error:
        if is_zip:
            raise UnsafeCheckpointError(f"{path}: {error}. Nothing in it was run") from None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged checkpoint: {error}") from None
    except (OSError, ImportError):
        raise
    except Exception as error:  # A damaged pickle can fail in any way.
        if is_zip:
            reason = _reason(error) if isinstance(error, ValueError) else "its pickle is damaged"
            raise ValueError(f"{path}: not a readable checkpoint: {reason}") from error
    raise ValueError(f"{path}: expected a checkpoint, found {found}")


def _reason(error: Exception) -> str:
    """Return one line of at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _look_at(path: Path) -> tuple[bool, str]:
    """Return whether this is a zip file, and else words for what it seems to be. ValueError if the zip is damaged."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: damaged or incomplete checkpoint: {_reason(error)}") from None
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError(f"{path}: expected a checkpoint, found a TorchScript model")
        return True, ""
    for beginning, found in (
        (b"\x80", "a pickle in the format before torch 1.6; save it again with a newer torch"),
        (b"<", "an HTML or XML page, perhaps of a failed download"),
        (b"version https://git-lfs", "a Git LFS pointer; run 'git lfs pull'"),
    ):
        if start.startswith(beginning):
            return False, found
    return False, "something else" if start else "an empty file"


def _read_zip(path: Path) -> tuple[Any, bool]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        main = next((name for name in infos if name.endswith("/data.pkl") and name.count("/") == 1), None)
        if main is None:
            raise ValueError("the zip file holds no data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
            raise ValueError("torch.save does not compress, but this file is compressed")
        claimed = sum(info.file_size for info in archive.infolist())
        if claimed > size:
            raise ValueError(f"its entries claim {claimed:,} bytes, the file has {size:,}")
        folder = main[: -len("data.pkl")]
        file = TensorFile(size, lambda key, _: bytearray(_member(archive, f"{folder}data/{key}")))
        return Machine(file.find, file.storage).run(io.BytesIO(_member(archive, main))), file.objects


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise ValueError(f"there is no item named {name[:80]!r} in it") from None
    except zipfile.BadZipFile as error:
        what = "wrong checksum of" if "CRC" in str(error) else "no readable header of"
        raise zipfile.BadZipFile(f"{what} {name}") from None


def _read_legacy(path: Path) -> tuple[Any, bool]:
    """Read the format before torch 1.6: pickles one behind the other, then the bytes of the storages."""
    with open(path, "rb") as stream:
        buffers: dict[str, bytearray] = {}
        file = TensorFile(path.stat().st_size, lambda key, size: buffers.setdefault(key, bytearray(size)))
        machine = Machine(file.find, file.storage)
        for _ in range(3):  # the magic number, the protocol and the system that wrote it
            machine.run(stream)
        content = machine.run(stream)
        for key in machine.run(stream):
            stream.read(8)  # the number of elements, which the pickle has said
            if stream.readinto(buffers[key]) != len(buffers[key]):
                raise ValueError(f"tensor storage {key} is not complete")
        return content, file.objects


def check_tree(value: Any, parts: Callable[[Any], Any] = lambda value: None) -> None:
    """Raise ValueError if a value has more than MAX_VALUES parts or is deeper than MAX_DEPTH; each part counts again.

    parts(leaf) returns the values inside what is no dict, list, tuple or set, or None.
    """
    todo, count = [(value, 0)], 0
    while todo:
        value, depth = todo.pop()
        inside = value.values() if isinstance(value, dict) else value
        inside = inside if isinstance(value, (dict, list, tuple, set)) else parts(value)
        if not inside:
            continue
        count += len(inside)
        if depth == MAX_DEPTH:
            raise ValueError(f"values nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values inside each other")
        todo.extend([(item, depth + 1) for item in inside])
