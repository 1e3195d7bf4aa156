"""What every runtime offers to val.py, detect.py and hubconf.py. Imports numpy alone: not every runtime needs torch."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from models.backends.metadata import Metadata
from utils.parallel import prefetch


@dataclass(frozen=True)
class ExportSpec:
    """What is asked of a backend file's export(); the fields are flags of export.py."""

    imgsz: tuple  # height, width in pixels
    batch: int = 1
    dynamic: bool = False
    half: bool = False
    int8: bool = False
    simplify: bool = False
    opset: Optional[int] = None  # None: the backend's own default
    nms: bool = False
    embed: bool = False
    agnostic_nms: bool = False
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 100  # boxes of an image that come out of NMS in the file
    workspace_gb: int = 4
    verbose: bool = False
    device: str = "cpu"
    calibration: Optional[Callable] = None  # () -> iterator of float32 RGB images [1, 3, H, W], 0 to 1, for int8

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
    stride    pixels; the image's height and width must be multiples of it
    imgsz     image size in pixels that the model was made for (one number, or [height, width]), or None
    fixed_hw  (height, width) if the runtime takes no other size, else None
    end2end   True if forward() gives [B, max_det, 6]: xyxy in pixels, confidence, class, with zeros where there are
              fewer boxes; then there is no NMS to be done
    fp16      True if the runtime computes in half precision
    device    where it computes
    """

    names: dict
    stride: int = 32
    imgsz = None
    fixed_hw: Optional[tuple] = None
    end2end: bool = False
    fp16: bool = False
    device = "cpu"

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def prepare(self, images: np.ndarray):
        """The runtime's input (RGB, 0 to 1, [B, 3, H, W]) from uint8 RGB images [B, H, W, 3]."""
        raise NotImplementedError

    def forward(self, images, augment: bool = False, visualize=False):
        """Predictions [B, N, 5 + nc] of prepared images: xywh in input pixels, objectness, class scores.

        augment: test-time augmentation. visualize: a folder for pictures of the feature maps, or False.
        """
        raise NotImplementedError

    def predict(self, images: np.ndarray, augment: bool = False, visualize=False):
        """forward() of prepare(): predictions [B, N, 5 + nc] of uint8 RGB images [B, H, W, 3]."""
        return self.forward(self.prepare(images), augment, visualize)

    def parallel_map(self, function, items):
        """function(item) for each item, in order, with as many at once as is fastest where function calls predict()."""
        return map(function, items)

    def warmup(self, imgsz=(1, 3, 640, 640)) -> None:
        """Do whatever the first forward of this shape would do once; by default nothing."""


class ExportedBackend(Backend):
    """A file that export.py wrote. A runtime adds to it: __init__, which calls this one, and run().

    Arrays in, arrays out; a torch tensor is answered with a torch tensor on the same device. Where the batch is fixed,
    images go through in portions of that size, the last one filled up with zeros.
    """

    def __init__(self, path, metadata: Metadata):
        self.path = Path(path)
        self.metadata = metadata
        self.names = metadata.names
        self.stride = metadata.stride
        self.imgsz = list(metadata.imgsz) or None
        self.fixed_hw = None if metadata.dynamic or not metadata.imgsz else tuple(metadata.imgsz)
        self.batch = None if metadata.dynamic else metadata.batch
        self.end2end = metadata.output != "raw"
        self.fp16 = False  # files of half precision take and give float32 too

    def run(self, images: np.ndarray) -> np.ndarray:
        """The runtime's output, float32, for float32 RGB images [B, 3, H, W] of 0 to 1 and a size that it takes."""
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
        output = self._run_batches(np.ascontiguousarray(array, np.float32))
        return output if isinstance(images, np.ndarray) else sys.modules["torch"].from_numpy(output).to(images.device)

    def _run_batches(self, images: np.ndarray) -> np.ndarray:
        size = self.batch or max(len(images), 1)
        if len(images) == size:
            return self.run(images)
        outputs = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filler = np.zeros((size - len(part), *part.shape[1:]), np.float32)
            outputs.append(self.run(np.concatenate([part, filler]))[: len(part)])
        return np.concatenate(outputs)

    def parallel_map(self, function, items):
        """One at a time, while the caller uses the result before."""
        return prefetch(map(function, items), 1)


def require(package: str, extra: str, purpose: str):
    """The imported package; ImportError with the pip line of the project's extra where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'{purpose} needs {package} ({error}): pip install ".[{extra}]"') from None
