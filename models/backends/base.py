"""The interface of every runtime for val.py, detect.py and hubconf.py. Imports numpy alone: not all need torch."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from models.backends.metadata import OUTPUT_DIMS, Metadata
from models.backends.thresholds import Thresholds
from utils.data.ahead import prefetch
from utils.logger import LOGGER

MOST_AT_ONCE = 4  # pictures that go through a model side by side on a CPU; beyond it Python's lock is the limit
EXPECTED_OUTPUTS = {
    "detect": "an output [B, N, 5 + {classes}]",
    "segment": "outputs [B, N, 5 + {classes} + masks] and [B, masks, H / 4, W / 4]",
    "classify": "an output [B, {classes}]",
}
# flags that not every runtime has -> why they are not used
UNUSED_FLAGS = {
    "--device": "files of this format run on the CPU here",
    "--half": "the precision of a file is chosen when it is exported, and this one is {precision}",
    "--dnn": "it is for ONNX files",
}


@dataclass(frozen=True)
class ExportSpec:
    """The options of a backend file's export(); the fields are flags of export.py."""

    imgsz: tuple  # height, width in pixels
    batch: int = 1
    dynamic: bool = False
    half: bool = False
    int8: bool = False
    simplify: bool = False
    opset: int | None = None  # None: the backend's own default
    nms: bool = False
    embed: bool = False
    agnostic_nms: bool = False
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 100  # boxes of an image that come out of NMS in the file
    workspace_gb: int = 4
    verbose: bool = False
    device: str = "cpu"
    calibration: Callable | None = None  # () -> iterator of float32 RGB images [1, 3, H, W], 0 to 1, for int8

    @property
    def precision(self) -> str:
        return "int8" if self.int8 else "fp16" if self.half else "fp32"

    @property
    def output(self) -> str:
        """As in Metadata."""
        return "image" if self.embed else "boxes" if self.nms else "raw"


class Backend:
    """A model file, opened by its runtime and ready for inference.

    names     {class number: name}
    task      "detect", "segment" or "classify": what forward() gives
    stride    pixels; the image's height and width must be multiples of it
    imgsz     image size in pixels that the model was made for (one number, or [height, width]), or None
    fixed_hw  (height, width) if the runtime takes no other size, else None
    end2end   True if forward() gives [B, max_det, 6]: xyxy in pixels, confidence, class, with zeros where there are
              fewer boxes; then there is no NMS to be done
    fp16      True if the runtime computes in half precision and takes images in it
    bf16      True if it computes in bfloat16; images and results are float32
    device    where it computes
    output_classes  number of classes by the width of the output, 0 if it does not tell; for files without names
    thresholds  the model's own Thresholds, None where nobody has written any
    yaml      the content of its model file, {} where that is not known
    """

    names: dict
    task: str = "detect"
    stride: int = 32
    imgsz: Any = None
    fixed_hw: tuple | None = None
    end2end: bool = False
    fp16: bool = False
    bf16: bool = False
    device = "cpu"
    output_classes: int = 0
    thresholds: Thresholds | None = None
    yaml: Mapping = MappingProxyType({})

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def prepare(self, images: np.ndarray):
        """Return the runtime's input (RGB, 0 to 1, [B, 3, H, W]) from uint8 RGB images [B, H, W, 3]."""
        raise NotImplementedError

    def forward(self, images, augment: bool = False, visualize=False):
        """Return the output for prepared images: an array or, of a segmentation model, a tuple of two; see Metadata.

        augment: test-time augmentation. visualize: a folder for pictures of the feature maps, or False.
        """
        raise NotImplementedError

    def predict(self, images: np.ndarray, augment: bool = False, visualize=False):
        """Return forward() of prepare(), for uint8 RGB images [B, H, W, 3]."""
        return self.forward(self.prepare(images), augment, visualize)

    def parallel_map(self, function, items):
        """Yield function(item) for each item, in order, as many at once as is fastest where it calls predict()."""
        return map(function, items)

    def warmup(self, imgsz=(1, 3, 640, 640)) -> None:
        """Do whatever the first forward of this shape would do once; by default nothing."""


class ExportedBackend(Backend):
    """A file that export.py wrote. A runtime adds to it: __init__, which calls this one, and run().

    Arrays in, arrays out; a torch tensor is answered with torch tensors on the same device. Where the batch is fixed,
    images go through in portions of that size, the last one filled up with zeros.
    """

    def __init__(self, path, metadata: Metadata):
        self.path = Path(path)
        self.metadata = metadata
        self.names, self.task = metadata.names, metadata.task
        self.stride = metadata.stride
        self.imgsz = list(metadata.imgsz) or None
        self.fixed_hw = None if metadata.dynamic or not metadata.imgsz else tuple(metadata.imgsz)
        self.batch = None if metadata.dynamic else metadata.batch
        self.end2end = metadata.output != "raw"
        self.thresholds, self.yaml = metadata.own_thresholds, metadata.model
        self.fp16 = False  # files of half precision take and give float32 too

    def warn_of_unused(self, device="", fp16: bool = False, dnn: bool = False) -> None:
        """Name those of the flags that are given, for a runtime that does not use them."""
        precision = self.metadata.precision
        given = (str(device).lower() not in ("", "cpu"), fp16 and precision != "fp16", dnn)
        for (flag, why), is_given in zip(UNUSED_FLAGS.items(), given):
            if is_given:
                LOGGER.warning(f"{self.path}: {flag} is not used: {why.format(precision=precision)}")

    def check_outputs(self, shapes: list) -> None:
        """Set output_classes by the outputs' shapes. In these, None is an unknown size, and [] a wholly unknown shape.

        ValueError if they are not those of the task, or not for as many classes as there are names.
        """
        if self.end2end:
            return
        dims = OUTPUT_DIMS[self.task]
        fits = len(shapes) == len(dims) and all(len(shape) in (0, n) for shape, n in zip(shapes, dims))
        if fits and all(shapes):
            other_columns = {"detect": [5], "segment": [5, shapes[-1][1]], "classify": [0]}[self.task]
            if shapes[0][-1] and None not in other_columns:
                self.output_classes = shapes[0][-1] - sum(other_columns)
                fits = self.output_classes == self.nc if self.names else self.output_classes > 0
        if not fits:
            expected = EXPECTED_OUTPUTS[self.task].format(classes=self.nc if self.names else "classes")
            raise ValueError(f"{self.path}: expected {expected}, found {', '.join(map(str, shapes))}")

    def run(self, images: np.ndarray):
        """Return the runtime's output, float32, for float32 RGB images [B, 3, H, W] of 0 to 1 and a size that it takes.

        A tuple where there are several.
        """
        raise NotImplementedError

    def prepare(self, images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)

    def forward(self, images, augment: bool = False, visualize=False):
        if augment or visualize:
            raise ValueError(f"{self.path}: --augment and --visualize need the .pt file, this one was exported from it")
        if self.fixed_hw and tuple(images.shape[2:]) != tuple(self.fixed_hw):
            found = "x".join(map(str, images.shape[2:]))
            raise ValueError(f"{self.path}: was exported for {'x'.join(map(str, self.fixed_hw))} px, found {found}")
        array = images if isinstance(images, np.ndarray) else images.detach().float().cpu().numpy()
        outputs = self._run_batches(np.ascontiguousarray(array, np.float32))
        if not isinstance(images, np.ndarray):
            outputs = [sys.modules["torch"].from_numpy(output).to(images.device) for output in outputs]
        return one_or_tuple(outputs)

    def _run_batches(self, images: np.ndarray) -> list:
        """Return all outputs, as a list."""
        size = self.batch or max(len(images), 1)
        if len(images) == size:
            return listed(self.run(images))
        parts = []
        for start in range(0, max(len(images), 1), size):
            part = images[start : start + size]
            filler = np.zeros((size - len(part), *part.shape[1:]), np.float32)
            parts.append([output[: len(part)] for output in listed(self.run(np.concatenate([part, filler])))])
        return [np.concatenate(outputs) for outputs in zip(*parts)]

    def parallel_map(self, function, items):
        """Compute one at a time, while the caller uses the result before."""
        return prefetch(map(function, items), 1)


def one_or_tuple(outputs):
    """Return the only one of a model's outputs, or a tuple of several."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def listed(output) -> list:
    """Return the reverse of one_or_tuple()."""
    return list(output) if isinstance(output, tuple) else [output]


def require(package: str, extra: str, purpose: str):
    """Return the imported package; ImportError with the pip line of the project's extra where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'{purpose} needs {package} ({error}): pip install ".[{extra}]"') from None
