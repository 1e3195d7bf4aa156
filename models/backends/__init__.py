"""Runtimes by file suffix: the FORMATS table, and DetectMultiBackend, one class that opens any of them.

One file per runtime holds its inference class (a Backend, see base.py). It is imported when a file of its kind is
opened, so that a runtime that is not installed costs nothing.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from models.backends.base import Backend

__all__ = ["FORMATS", "Backend", "DetectMultiBackend", "Format", "format_of"]


@dataclass(frozen=True)
class Format:
    """A kind of model file. `key` is also the name of DetectMultiBackend's flag for it."""

    title: str
    key: str
    suffixes: tuple
    module: str  # the file in this folder
    backend: str  # its Backend class


FORMATS = (Format("PyTorch", "pt", (".pt", ".pth"), "pytorch", "PyTorchBackend"),)


def format_of(weights) -> Format:
    """The row of FORMATS for a model file, by its suffix; ValueError if there is none."""
    suffix = Path(str(weights)).suffix.lower()
    for row in FORMATS:
        if suffix in row.suffixes:
            return row
    known = ", ".join(f"{row.title} ({' '.join(row.suffixes)})" for row in FORMATS)
    raise ValueError(
        f"{weights}: expected a model file of {known}, found suffix '{suffix}'; "
        "export and other runtimes are not part of this version yet"
    )


class DetectMultiBackend:
    """A detector from a model file of any of the FORMATS, or an ensemble from a list of .pt files.

    `data` is a dataset YAML whose names are used where the model has none. fp16 is ignored, with a warning, where
    the runtime cannot compute in half precision. Call it as forward(); .names .stride .nc .imgsz .fp16 .device are
    the runtime's (see Backend), and exactly one of .pt .jit .onnx .engine ... tells the format.
    """

    def __init__(self, weights, device="cpu", dnn: bool = False, data=None, fp16: bool = False, fuse: bool = True):
        files = list(weights) if isinstance(weights, (list, tuple)) else [weights]
        if not files:
            raise ValueError("weights: expected at least one model file, found an empty list")
        rows = [format_of(file) for file in files]
        if len(files) > 1 and any(row.key != "pt" for row in rows):
            raise ValueError(f"an ensemble takes .pt files only, found {', '.join(map(str, files))}")
        module = importlib.import_module(f"models.backends.{rows[0].module}")
        opened = files if len(files) > 1 else files[0]
        self.format = rows[0]
        self.backend: Backend = getattr(module, rows[0].backend)(opened, device=device, fp16=fp16, fuse=fuse, dnn=dnn)
        if data and not self.backend.names:
            self.backend.names = names_of(data)
        for key in {"jit", "onnx", "engine"} | {row.key for row in FORMATS}:
            setattr(self, key, key == self.format.key)

    def __getattr__(self, name: str):
        if name in ("names", "stride", "nc", "imgsz", "fp16", "device", "model", "parallel_map"):
            return getattr(self.backend, name)
        raise AttributeError(f"DetectMultiBackend has no attribute '{name}'")

    def forward(self, im, augment: bool = False, visualize=False):
        """Predictions [B, N, 5 + nc] of RGB images [B, 3, H, W] in 0 to 1: xywh in pixels, objectness, class scores."""
        return self.backend.forward(im, augment=augment, visualize=visualize)

    __call__ = forward

    def predict(self, images, augment: bool = False, visualize=False):
        """Predictions [B, N, 5 + nc], without gradients, of uint8 RGB images [B, H, W, 3]."""
        return self.backend.predict(images, augment=augment, visualize=visualize)

    def eval(self):
        """This object: a runtime always is in inference mode. For scripts that call it as they would a module's."""
        return self

    def warmup(self, imgsz=(1, 3, 640, 640)) -> None:
        """Spend the one-time costs of the first forward of this shape now."""
        self.backend.warmup(imgsz)


def names_of(data) -> dict:
    """{number: name} from a dataset YAML (a path or bare name)."""
    from utils.general import check_yaml, load_yaml

    names = load_yaml(check_yaml(data)).get("names", {})
    return dict(names) if isinstance(names, dict) else dict(enumerate(names))
