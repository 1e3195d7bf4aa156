"""Runtimes by file suffix: the FORMATS table, and DetectMultiBackend, one class that opens any of them.

One file per runtime holds its export() and its inference class (a Backend, see base.py). It is imported when a file of
its kind is written or opened, so that a runtime that is not installed costs nothing. Free of torch.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

from models.backends.base import Backend
from models.backends.bfloat16 import judged
from utils.console.text import did_you_mean
from utils.general import EMBEDDED_WEIGHTS, chosen_weights, with_pt
from utils.logger import LOGGER

__all__ = ["FORMATS", "Backend", "DetectMultiBackend", "Format", "find_format", "format_of", "one_checkpoint"]


@dataclass(frozen=True)
class Format:
    """A kind of model file. The fields that are tuples are given as text with a blank between the items."""

    title: str
    key: str  # the name for export.py's --include
    flag: str  # DetectMultiBackend's attribute that tells it, YOLOv5's where that has one
    suffixes: tuple[str, ...]  # the first is what export.py writes; one that starts with "_" is a folder's
    backend: str  # its Backend class, which is in the file of this folder that is called as `key`
    options: tuple[str, ...] = ()  # export.py's flags that it has, besides --imgsz and --batch-size
    packages: tuple[str, ...] = ()  # imported to run it
    tools: tuple[str, ...] = ()  # imported to write it, besides
    extra: str = ""  # pip install ".[extra]" brings all of them
    aliases: tuple[str, ...] = ()  # further names for --include
    runs_on: str = ""  # where the file runs, if not here

    def __post_init__(self):
        for name in ("suffixes", "options", "packages", "tools", "aliases"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value.split()) if isinstance(value, str) else value)

    @property
    def exports(self) -> bool:
        return self.key != "pt"

    @property
    def module(self) -> ModuleType:
        """The file of this folder that has its export() and Backend class, imported."""
        return importlib.import_module(f"models.backends.{self.key if self.exports else 'pytorch'}")

    @property
    def pip_line(self) -> str:
        return f'pip install ".[{self.extra}]"' if self.extra else "pip install -r requirements.txt"

    def missing(self, tools: bool = True) -> list[str]:
        """Return the packages that are not installed here; with `tools` those for writing too."""
        return [name for name in (*self.packages, *(self.tools if tools else ())) if not installed(name)]


def installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # A dotted name's parent is missing.
        return False


# fmt: off
FORMATS = (
    Format("PyTorch", "pt", "pt", ".pt .pth", "PyTorchBackend", packages="torch"),
    Format("TorchScript", "torchscript", "jit", ".torchscript", "TorchScriptBackend", "dynamic half nms", "torch"),
    Format("ONNX", "onnx", "onnx", ".onnx", "OnnxBackend", "dynamic half int8 simplify opset nms embed",
           "onnxruntime", "torch onnx onnxscript", extra="onnx"),
    Format("OpenVINO", "openvino", "xml", "_openvino_model .xml", "OpenVinoBackend", "dynamic half int8 nms",
           "openvino", "torch onnx onnxscript nncf", extra="openvino"),
    Format("LiteRT", "litert", "tflite", ".tflite", "LiteRtBackend", "half int8",
           "ai_edge_litert", "torch litert_torch", extra="litert", aliases="tflite"),
    Format("ncnn", "ncnn", "ncnn", "_ncnn_model .param", "NcnnBackend", "half int8", "ncnn", "torch pnnx",
           extra="ncnn"),
    Format("ExecuTorch", "executorch", "pte", ".pte", "ExecuTorchBackend", packages="torch executorch",
           extra="executorch"),
    Format("CoreML", "coreml", "coreml", ".mlpackage", "CoreMlBackend", "half int8",
           "coremltools", "torch", extra="coreml", runs_on="macOS"),
    Format("TensorRT", "engine", "engine", ".engine", "TensorRtBackend", "dynamic half int8 simplify opset nms",
           "torch tensorrt", "onnx onnxscript", "tensorrt", "tensorrt", runs_on="a computer with an NVIDIA GPU"),
)
# fmt: on
# YOLOv5's formats that are not written here -> what replaces them
REPLACED = {
    "saved_model": "use litert: TensorFlow's mobile runtime reads .tflite, its server can serve ONNX",
    "pb": "use onnx: frozen graphs belong to TensorFlow 1",
    "tfjs": "use onnx: onnxruntime-web runs it in a browser, see examples/web",
    "edgetpu": "use litert with --int8; the head, and EdgeViT's norms and attention, stay on the CPU",
    "paddle": "use onnx: X2Paddle and PaddleLite read it",
}


def find_format(name: str) -> Format:
    """Return the row of FORMATS for a name of --include; ValueError, with what replaces it or is nearest, if none."""
    known = {key: row for row in FORMATS if row.exports for key in (row.key, *row.aliases)}
    if name in known:
        return known[name]
    if name in REPLACED:
        raise ValueError(f"--include {name}: this format is not written here; {REPLACED[name]}")
    raise ValueError(f"--include {name}: expected one of {', '.join(known)}{did_you_mean(name, known, ' ({})')}")


def format_of(weights) -> Format:
    """Return the row of FORMATS for a model file or folder, by its suffix; ValueError if there is none."""
    name = Path(str(weights)).name.lower()
    for row in FORMATS:
        if name.endswith(row.suffixes):
            return row
    known = ", ".join(f"{row.title} ({' '.join(row.suffixes)})" for row in FORMATS)
    raise ValueError(f"{weights}: expected a model file of {known}, found '{Path(str(weights)).suffix or name}'")


def one_checkpoint(weights, embedded: Path = EMBEDDED_WEIGHTS) -> Path:
    """Return the only file of --weights, or the default one; ValueError unless it is one .pt file."""
    files = chosen_weights(weights, embedded=embedded)
    if len(files) != 1:
        raise ValueError(f"--weights: expected one checkpoint, found {len(files)}: give them one by one")
    if (found := format_of(files[0])).exports:
        raise ValueError(f"{files[0]}: expected a checkpoint (.pt), found {found.title}")
    return Path(files[0])


OF_THE_BACKEND = (
    "task names nc stride imgsz fixed_hw end2end fp16 bf16 device thresholds yaml model parallel_map".split()
)


class DetectMultiBackend:
    """A model from a file of any of the FORMATS, or an ensemble of detectors from a list of .pt files.

    device is as the flag --device. `data` is a dataset YAML whose names are used where the model has none. fp16: half
    precision, on a CPU bfloat16; where the runtime cannot, or the boxes would differ (models/backends/bfloat16.py), a
    warning says so. threads: for the CPU, 0 chooses.
    trust_torchscript: run any such file, not only a trace of tensor operators. Call it as forward().
    OF_THE_BACKEND are the runtime's (see Backend), and exactly one of .pt .jit .onnx .engine ... tells the format.
    """

    saved_model = pb = edgetpu = tfjs = paddle = triton = nhwc = False  # YOLOv5's formats that are not here

    def __init__(
        self, weights, device="", dnn: bool = False, data=None, fp16: bool = False, fuse: bool = True, threads: int = 0,
        trust_torchscript: bool = False,
    ):  # fmt: skip
        files = [with_pt(file) for file in (weights if isinstance(weights, (list, tuple)) else [weights])]
        if not files:
            raise ValueError("weights: expected at least one model file, found an empty list")
        rows = [format_of(file) for file in files]
        if len(files) > 1 and any(row.key != "pt" for row in rows):
            raise ValueError(f"an ensemble takes .pt files only, found {', '.join(map(str, files))}")
        self.files, self.format = files, rows[0]
        if self.format.exports and not Path(files[0]).exists():
            raise FileNotFoundError(f"{files[0]}: no such file")
        by_opencv = dnn and self.format.key == "onnx"  # and OpenCV is always there
        if not by_opencv and (missing := self.format.missing(tools=False)):
            raise ImportError(f"{files[0]}: needs {', '.join(missing)}: {self.format.pip_line}")
        options = {"device": device, "fp16": fp16, "dnn": dnn, "threads": threads}
        options |= {"trusted": trust_torchscript} if self.format.key == "torchscript" else {"fuse": fuse}
        opened = files if len(files) > 1 else files[0]
        open_backend = partial(getattr(self.format.module, self.format.backend), opened, **options)
        self.backend: Backend = open_backend()
        if self.backend.bf16:
            self.backend = judged(self.backend, partial(open_backend, fp16=False))
        if not self.backend.names:
            self.backend.names = self._names_from(data)
        for row in FORMATS:
            setattr(self, row.flag, row is self.format)

    def _names_from(self, data) -> dict[int, str]:
        """Return the dataset YAML's names if there are as many as the model has classes, else the numbers as names."""
        names, count = names_of(data) if data else {}, self.backend.output_classes
        if not count or len(names) == count:
            return names
        if names:
            LOGGER.warning(f"{data} names {len(names)} classes and the model has {count}: numbers are used")
        return {i: str(i) for i in range(count)}

    def __getattr__(self, name: str):
        if name in OF_THE_BACKEND:
            return getattr(self.backend, name)
        raise AttributeError(f"DetectMultiBackend has no attribute '{name}'")

    def require_task(self, task: str) -> None:
        """Raise ValueError unless the model is for this task."""
        if self.task != task:
            files = ", ".join(map(str, self.files))
            raise ValueError(f"{files}: expected a model for '{task}', found one for '{self.task}'")

    def forward(self, im, augment: bool = False, visualize=False, val: bool = False):
        """Return what the model gives for RGB images [B, 3, H, W] in 0 to 1, by its task:

        detect    predictions [B, N, 5 + nc]: xywh in pixels, objectness, class scores; if .end2end, boxes
                  [B, max_det, 6]: xyxy in pixels, confidence, class
        segment   (predictions [B, N, 5 + nc + nm], prototypes [B, nm, H / 4, W / 4]), nm mask coefficients at the end
        classify  logits [B, nc]

        val: given by v6.1's scripts, not used.
        """
        return self.backend.forward(im, augment=augment, visualize=visualize)

    __call__ = forward

    def predict(self, images, augment: bool = False, visualize=False):
        """Do as forward(), without gradients, for uint8 RGB images [B, H, W, 3]."""
        return self.backend.predict(images, augment=augment, visualize=visualize)

    def from_numpy(self, x):
        """Return an array as a tensor on the model's device, and anything else as it is, as v7's scripts do."""
        import torch

        return torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    def eval(self):
        """Return this object: a runtime always is in inference mode. Scripts call it as they would a module's."""
        return self

    def warmup(self, imgsz=(1, 3, 640, 640), half: bool | None = None) -> None:
        """Spend the one-time costs of the first forward of this shape now. half: given by v6.0's scripts, not used."""
        self.backend.warmup(imgsz)


def names_of(data) -> dict[int, str]:
    """Return {number: name} from a dataset YAML (a path or bare name)."""
    from utils.files.yaml import load_yaml
    from utils.general import check_yaml

    names = load_yaml(check_yaml(data)).get("names", {})
    return dict(names) if isinstance(names, dict) else dict(enumerate(names))
