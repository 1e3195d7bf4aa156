"""Save, load, convert and strip checkpoints: tensors and plain data, never code.

    python -m utils.checkpoint convert yolov5n.pt mine.pt     an official YOLOv5 checkpoint into this project's format
    python -m utils.checkpoint info mine.pt                   what is inside
    python -m utils.checkpoint strip last.pt small.pt         drop the training state, halve the precision

The file is torch.save of one dict. It holds no date and no path of its own, so equal content gives equal bytes.
"""

import argparse
import hashlib
import io
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.console.guard import main_guard
from utils.console.text import brief
from utils.extras import load_extra
from utils.files import open_regular, write_atomic
from utils.files.pickles import UnsafeCheckpointError
from utils.files.tensors import read_torch_file
from utils.files.values import problem_of, same_kind, unusable_tensors
from utils.general import VERSION, file_size, with_pt
from utils.logger import LOGGER, setup_logging

__all__ = ["Checkpoint", "UnsafeCheckpointError", "load_checkpoint", "save_checkpoint"]

FORMAT = "yolov5-edgevit 1"
MAX_HEADER_BYTES = 2 << 20  # of a .safetensors file: some 20,000 tensors
WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")  # keys that hold the weights


@dataclass
class Checkpoint:
    """A model and what is needed to use it or to go on training it.

    `state_dict` has the weights for inference (the EMA's) in the precision in which they are stored. `train_state` is
    the trainer's, None when training is over. `meta` has strings and numbers such as licence, version and data set.
    """

    yaml: dict
    names: dict
    nc: int
    stride: list  # each detection layer's, in pixels
    state_dict: dict
    imgsz: int | None = None
    hyp: dict | None = None
    opt: dict | None = None
    task: str = "detect"
    epoch: int = -1
    best_fitness: float | None = None
    train_state: dict | None = None
    meta: dict = field(default_factory=dict)


def save_checkpoint(path, ckpt: Checkpoint) -> None:
    """Write `ckpt` in one step: `path` holds the old file or all of the new one, whatever happens.

    Tensors are stored on the CPU. TypeError, with its key, for a value that is neither a tensor nor plain data.
    """
    content = {"format": FORMAT, **{f.name: getattr(ckpt, f.name) for f in fields(Checkpoint)}}
    buffer = io.BytesIO()  # torch.save would store a file's name inside the file
    torch.save(_canonical(content, "checkpoint"), buffer)
    write_atomic(path, buffer.getvalue())


def _canonical(value, key: str):
    """Return a copy of `value` whose pickle depends on its content alone.

    Pickle stores the second use of an object otherwise than an equal object, so equal strings become one object,
    and everything else, tensor storages too, becomes an object of its own.
    """
    if isinstance(value, dict):
        return {_canonical(k, key): _canonical(v, f"{key}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_canonical(v, f"{key}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, Path)):
        return sys.intern(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise TypeError(f"{key}: expected a tensor or plain data, found {type(value).__name__}")


def load_checkpoint(path, device="cpu") -> Checkpoint:
    """Read a checkpoint of this project or an official YOLOv5 one; tensors come to `device`.

    A name of a YOLOv5 release that is no local file is downloaded. ValueError if it is no checkpoint,
    UnsafeCheckpointError if it names anything that would have to be run.
    """
    path = _existing(path)
    content, shells = _read(path)
    if shells:
        try:
            ckpt = load_extra("official.yolov5").from_yolov5(content, path.name)
        except (ValueError, TypeError, AttributeError) as error:  # values of another kind than YOLOv5's
            raise ValueError(f"{path}: {error}") from error
    elif content.get("format") == FORMAT:
        ckpt = _from_own(content, path)
    elif "format" in content:
        raise ValueError(f"{path}: expected format '{FORMAT}', found '{content['format']}'")
    else:
        keys = ", ".join(str(key)[:80] for key in list(content)[:5])
        raise ValueError(f"{path}: expected a checkpoint with its model YAML, found weights alone: {keys} ...")
    problem = problem_of(vars(ckpt))
    if problem:
        raise ValueError(f"{path}: {problem}")
    ckpt.state_dict = {k: v.to(device) for k, v in ckpt.state_dict.items()}
    return ckpt


def _from_own(content: dict, path: Path) -> Checkpoint:
    names = [f.name for f in fields(Checkpoint)]
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return Checkpoint(**{name: content[name] for name in names})


def _existing(path) -> Path:
    path = Path(with_pt(path))
    if path.is_dir():
        raise ValueError(f"{path}: expected a checkpoint file, found a folder")
    if path.is_file():
        return path
    try:
        return load_extra("download.files").attempt_download(path)
    except ImportError as error:
        raise FileNotFoundError(f"weights '{path}' not found, and {error}") from None


def _read(path: Path) -> tuple[dict, bool]:
    """Return the dict in a file, and whether it holds objects of classes."""
    content, holds_objects = read_torch_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict in the checkpoint, found {type(content).__name__}")
    return dict(content), holds_objects


def load_state_dict_file(path) -> dict:
    """Name -> tensor of a weights file (.pt, .pth, .safetensors), also where it lies under 'model' or 'state_dict'."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file '{path}' not found")
    if path.suffix == ".safetensors":
        return _usable(_read_safetensors(path), path)
    content, holds_objects = _read(path)
    content = load_extra("official.yolov5").without_shells(content, WRAPPERS) if holds_objects else content
    while (inner := next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)) is not None:
        content = inner
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path}: expected named tensors, found {', '.join(str(key) for key in list(content)[:5])}")
    return _usable(tensors, path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open_regular(path) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise ValueError(f"{path}: its header claims {header:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable .safetensors file: {str(error)[:200]}") from None
    if not tensors:
        raise ValueError(f"{path}: expected named tensors, found none")
    return tensors


def _usable(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    if problem := unusable_tensors(tensors):
        raise ValueError(f"{path}: {problem}")
    return tensors


def intersect_dicts(a: dict, b: dict, exclude=()) -> dict:
    """Return the entries of state dict `a` that `b` has in the same shape, but for names with a string of `exclude`."""
    shared = {name: value for name, value in a.items() if name in b and not any(part in name for part in exclude)}
    return {name: v for name, v in shared.items() if v.shape == b[name].shape and same_kind(v, b[name])}


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """Return it as float16, unless a value is too large for it, as batch-norm variances can be; integers stay."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if torch.isfinite(half).all() else tensor


def without_folders(value: Any) -> Any:
    """Return plain data in which of every absolute path, and of those below the home folder, the last part is left."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_folders(item) for item in value)
    is_path = isinstance(value, str) and (value.startswith(("/", "~", "\\")) or value[1:3] in (":/", ":\\"))
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else value


def strip_optimizer(path, out=None) -> None:
    """Drop the training state and halve the precision of the checkpoint `path`, in place or into `out`.

    What is left is passed on, so of the paths of the machine that made it the last parts stay.
    """
    ckpt = load_checkpoint(path)
    ckpt.train_state = None
    ckpt.opt, ckpt.meta, ckpt.yaml = (without_folders(value) for value in (ckpt.opt, ckpt.meta, ckpt.yaml))
    ckpt.state_dict = {name: halved(tensor) for name, tensor in ckpt.state_dict.items()}
    save_checkpoint(out or path, ckpt)
    LOGGER.info(
        f"Training state stripped from {path}{f', saved as {out}' if out else ''}, {file_size(out or path):.1f} MB"
    )


def state_sha256(state_dict: dict) -> str:
    """Hex SHA-256 over names, types, shapes and bytes of the tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe(path) -> str:
    """Return lines of text about the checkpoint `path`."""
    ckpt = load_checkpoint(path)
    tensors = ckpt.state_dict.values()
    rows = {
        "task": ckpt.task,
        "classes": f"{ckpt.nc} ({', '.join(ckpt.names.values())})",
        "strides": ", ".join(f"{s:g}" for s in ckpt.stride),
        "image size": ckpt.imgsz or "not stored",
        "values": f"{sum(t.numel() for t in tensors):,} in {len(tensors)} tensors, "
        + ", ".join(sorted({str(t.dtype).replace("torch.", "") for t in tensors})),
        "epoch": ckpt.epoch,
        "best fitness": ckpt.best_fitness,
        "training state": "yes, --resume can go on" if ckpt.train_state else "no",
        "sha256 of weights": state_sha256(ckpt.state_dict),
        **{key: brief(value) if isinstance(value, dict) else value for key, value in ckpt.meta.items()},
    }
    return "\n".join([f"{path}: {file_size(path):.1f} MB", *(f"  {key:<18}{value}" for key, value in rows.items())])


def parse_opt(argv=None) -> argparse.Namespace:
    about = "Convert, strip or show a checkpoint."
    parser = argparse.ArgumentParser(prog="python -m utils.checkpoint", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{convert,info,strip}")
    for name, help in (
        ("convert", "write an official YOLOv5 checkpoint in this project's format"),
        ("strip", "drop the training state and halve the precision"),
    ):
        command = commands.add_parser(name, help=help)
        command.add_argument("source", help="checkpoint to read")
        command.add_argument("target", help="checkpoint to write")
    commands.add_parser("info", help="say what is inside").add_argument("source", help="checkpoint to read")
    return parser.parse_args(argv)


def main(opt: argparse.Namespace) -> None:
    setup_logging()
    if opt.command == "info":
        LOGGER.info(describe(opt.source))
    elif opt.command == "strip":
        strip_optimizer(opt.source, opt.target)
    else:
        ckpt = load_checkpoint(opt.source)
        ckpt.meta.setdefault("version", VERSION)
        save_checkpoint(opt.target, ckpt)
        LOGGER.info(describe(opt.target))


if __name__ == "__main__":
    sys.exit(main_guard(main, parse_opt()))
