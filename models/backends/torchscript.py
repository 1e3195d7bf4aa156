"""TorchScript: a trace of the model that runs in any program with libtorch, without this project's Python code."""

import copy
import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.ops import nms  # importing it also makes the operator known to files that hold it

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple
from models.backends.metadata import OUTPUT_DIMS, Metadata, read_member
from models.backends.pytorch import PyTorchBackend
from models.backends.quiet import quiet
from models.backends.torchscript_check import checked_copy
from models.exportable import example_images
from models.heads import Detect
from utils.files import write_atomic
from utils.files.pickles import UnsafeCheckpointError
from utils.nms import MAX_CANDIDATES
from utils.torch_utils import select_device

ENTRY = "config.txt"  # YOLOv5's name for the metadata in the file
CHANNELS_LAST = torch.channels_last  # CPUs convolve a fifth faster
MAX_CELLS = 16384  # along a map's side: 131,072 px at stride 8
CLASS_GAP_PX = 2.0**17  # more than the boxes of an image may lie apart


def export(model: nn.Module, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write a .torchscript file. Its graph takes other sizes and batches, of multiples of the stride, in any case.

    With spec.half weights and arithmetic are float16, also on a CPU; images and predictions stay float32.
    """
    write_trace(Traceable(model, spec).eval(), example_images(spec.batch, spec.imgsz), file, metadata)


def write_trace(module: nn.Module, images: torch.Tensor, file: Path, metadata: Metadata) -> None:
    """Trace `module` with `images` into the TorchScript file `file`."""
    if not hasattr(torch.jit, "trace"):
        raise ValueError(f"{file}: TorchScript needs torch.jit.trace, which torch {torch.__version__} no longer has")
    with quiet(), torch.no_grad():
        _save(torch.jit.trace(module, images, check_trace=False), file, metadata)


def write_metadata(file: Path, metadata: Metadata) -> None:
    module, _ = _load(file, torch.device("cpu"), trusted=True)  # It was written a moment ago.
    with quiet():
        _save(module, file, metadata)


def _save(module, file: Path, metadata: Metadata) -> None:
    buffer = io.BytesIO()  # on a full disk torch's own writer of files ends the whole process
    torch.jit.save(module, buffer, _extra_files={ENTRY: metadata.to_json()})
    write_atomic(file, buffer.getvalue())


def _load(file: Path, device: torch.device, trusted: bool = False):
    """Return the module, and its metadata as a dict, {} if the file has none."""
    try:
        program = str(file) if trusted else checked_copy(Path(file))
        with quiet():
            module = torch.jit.load(program, map_location=device)
        values = json.loads(read_member(file, f"/extra/{ENTRY}") or "{}")
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{file}: {error}. No file of export.py does, so it is not run. "
            "If you trust whoever made it: --trust-torchscript"
        ) from None
    except OSError:
        raise
    except Exception as error:  # A damaged file can fail in any way.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{file}: expected a TorchScript file with JSON in {ENTRY}, found: {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: {ENTRY}: expected a JSON object, found {type(values).__name__}")
    return module, values


class Traceable(nn.Module):
    """The exported form of a detector with what the spec adds to it."""

    def __init__(self, model: nn.Module, spec: ExportSpec):
        super().__init__()
        self.dtype = torch.float16 if spec.half else torch.float32
        self.model = copy.deepcopy(model).to(self.dtype, memory_format=CHANNELS_LAST)
        self.nms = InModelNms(spec) if spec.nms else nn.Identity()
        for head in self.model.modules():
            if isinstance(head, Detect):  # a trace's arange() stays on one device for ever, a buffer goes with the file
                head.register_buffer("ramp", torch.arange(float(MAX_CELLS)))
                head._cells = partial(_cells, head)

    def forward(self, images: torch.Tensor):
        output = self.model(images.to(self.dtype, memory_format=CHANNELS_LAST))
        if isinstance(output, tuple):
            return tuple(tensor.float() for tensor in output)
        return self.nms(output.float())


def _cells(head: Detect, ny, nx, device) -> torch.Tensor:
    """Return Detect._cells from the head's ramp: [1, 1, 2, ny * nx], corner of every cell less 0.5."""
    x = head.ramp[:nx].expand(ny, nx)
    y = head.ramp[:ny, None].expand(ny, nx)
    return torch.stack((x.reshape(-1), y.reshape(-1)))[None, None] - 0.5


class InModelNms(nn.Module):
    """[B, N, 5 + nc] -> [B, max_det, 6]: xyxy in px, confidence, class, by falling confidence; then zero rows.

    What utils.nms.non_max_suppression does with multi_label=False, for a whole batch at once: a trace has no loops.
    torchvision's nms gets the boxes of every image and class moved to a region of their own, in float64, where that
    costs no precision that float32 boxes have.
    """

    def __init__(self, spec: ExportSpec):
        super().__init__()
        self.conf_thres, self.iou_thres = spec.conf_thres, spec.iou_thres
        self.max_det, self.agnostic = spec.max_det, spec.agnostic_nms
        self.register_buffer("zeros", torch.zeros(1, spec.max_det + 1, 6))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        conf, cls = (y[..., 5:] * y[..., 4:5]).max(2)
        conf = conf * (y[..., 4] > self.conf_thres)
        conf, order = conf.sort(dim=1, descending=True, stable=True)
        conf, order = conf[:, :MAX_CANDIDATES], order[:, :MAX_CANDIDATES]
        image, column = (conf > self.conf_thres).nonzero().unbind(1)
        row = order[image, column]
        centre, half = y[image, row, 0:2], y[image, row, 2:4] / 2
        conf, cls = conf[image, column], cls[image, row].to(y.dtype)
        boxes = torch.cat((centre - half, centre + half), 1)
        group = image.double() if self.agnostic else image.double() * (y.shape[2] - 5) + cls
        kept = nms(boxes.double() + (group * CLASS_GAP_PX)[:, None], conf.double(), self.iou_thres)
        found = torch.cat((boxes, conf[:, None], cls[:, None]), 1)[kept]
        return self._table(image[kept], found, y.shape[0])

    def _table(self, image: torch.Tensor, found: torch.Tensor, images) -> torch.Tensor:
        """Return the rows `found` [n, 6], of which `image` [n] tells the image, as [images, max_det, 6]."""
        image, order = image.sort(stable=True)
        rank = (image * 0 + 1).cumsum(0) - 1 - torch.searchsorted(image, image)
        rank = rank.clamp(max=self.max_det)  # Boxes beyond max_det go into a row that is cut off.
        return self.zeros.repeat(images, 1, 1).index_put((image, rank), found[order])[:, : self.max_det]


class TorchScriptBackend(ExportedBackend):
    """A .torchscript file of export.py, or of YOLOv5 itself.

    Such a file is a program. It is run if it is a trace of known tensor operators, or if it is `trusted`.
    """

    def __init__(self, path, device="", fp16: bool = False, dnn: bool = False, threads: int = 0, trusted: bool = False):
        self.device = device if isinstance(device, torch.device) else select_device(device)
        if threads:
            torch.set_num_threads(threads)
        self.model, values = _load(Path(path), self.device, trusted)
        if "shape" in values:  # YOLOv5's files: [batch, 3, height, width]
            batch, _, *imgsz = values["shape"]
            values = {"imgsz": imgsz, "batch": batch, **values}
        super().__init__(path, Metadata.from_dict(values, path))
        self.warn_of_unused(fp16=fp16, dnn=dnn)

    @torch.inference_mode()
    def run(self, images: np.ndarray):
        try:
            output = self.model(torch.from_numpy(images).to(self.device))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise ValueError(
                f"{self.path}: its program fails for a picture of {list(images.shape)}: {reason}"
            ) from None
        outputs = output if isinstance(output, (list, tuple)) else [output]  # YOLOv5's own files give a tuple always
        return one_or_tuple([tensor.float().cpu().numpy() for tensor in outputs[: len(OUTPUT_DIMS[self.task])]])

    parallel_map = PyTorchBackend.parallel_map
