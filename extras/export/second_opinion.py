"""The verdict on a file that differs from PyTorch: which of the two is nearer to the model in double precision.

Float32 itself rounds: where a model's numbers are large, as they are after a training of one epoch, two sound programs
differ by more than any fixed tolerance.
"""

import copy
from typing import Any

import numpy as np
import torch

from extras.export.parity import Gate, Parity, Tolerance
from models.backends.base import one_or_tuple
from models.backends.metadata import OUTPUT_DIMS
from utils.logger import LOGGER
from utils.nms import as_float32

FLOAT32_ROUNDINGS = 4  # A file may be this many times as far from float64 as PyTorch's float32 is.
LEAST_ERROR = 1e-6  # as a part of the largest number: nothing in float32 is nearer
LEAST_MASK_IOU = 0.5  # however far off float32 is


class Exact:
    """A PyTorch model in float64, which answers as a DetectMultiBackend does."""

    def __init__(self, model: torch.nn.Module, task: str):
        self.model, self.outputs = copy.deepcopy(model).cpu().double(), len(OUTPUT_DIMS[task])

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> Any:
        """Return predictions for uint8 RGB images [B, H, W, 3], one tensor or a tuple of two."""
        output = self.model(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255)
        return one_or_tuple((output if isinstance(output, (list, tuple)) else [output])[: self.outputs])


def problem(gate: Gate, images: list[np.ndarray], parity: Parity, tolerance: Tolerance) -> str:
    """Return '' where the file passes, else what is wrong. `parity` is the gate's, on the same uint8 BGR images."""
    if not parity.problem(tolerance):
        return ""
    exact = Exact(gate.reference.model, gate.task)
    own = gate.between(exact, gate.reference).run(images)
    found = gate.between(exact, gate.exported).run(images).problem(widened(tolerance, own))
    if found and gate.output == "raw" and gate.task != "classify" and is_as_near(gate, exact, images):
        found = ""  # What NMS and the edges of masks make of such numbers differs from run to run.
    if not found:
        LOGGER.info(
            f"PyTorch's float32 itself rounds that much: it is {own.box_px:.2g} px and {own.score:.2g} off float64"
        )
    return found


def is_as_near(gate: Gate, exact: Exact, images: list[np.ndarray]) -> bool:
    """Tell whether all numbers of a file of raw predictions are as near to float64's as those of PyTorch's float32."""
    own, file = [], []
    for batch in gate.batches(images):
        padded = np.stack([image for image, _, _ in batch])
        truth = _parts(exact.predict(padded))
        for errors, model in ((own, gate.reference), (file, gate.exported)):
            errors.append([_relative_error(*pair) for pair in zip(_parts(model.predict(padded)), truth)])
    own_worst, file_worst = np.max(own, axis=0), np.max(file, axis=0)
    return bool(np.isfinite(own_worst).all() and (file_worst <= FLOAT32_ROUNDINGS * own_worst + LEAST_ERROR).all())


def _parts(output: Any) -> list[np.ndarray]:
    """Return boxes, scores and, of a segmentation, mask coefficients and prototypes: each has a scale of its own."""
    rows, *protos = [as_float32(array) for array in (output if isinstance(output, (list, tuple)) else [output])]
    masks = protos[0].shape[1] if protos else 0
    return [part for part in np.split(rows, [4, rows.shape[2] - masks], axis=2) if part.size] + protos


def _relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the largest difference as a part of the largest true number."""
    return float(np.abs(found - truth).max() / max(np.abs(truth).max(), np.finfo(np.float32).tiny))


def widened(tolerance: Tolerance, own: Parity) -> Tolerance:
    """Return the tolerance, but where `own` (float32 against float64) is worse, a few times its figures."""
    figures = (own.box_px, own.score, own.unmatched / max(own.boxes, 1), 1 - own.mask_iou_least)
    most = [FLOAT32_ROUNDINGS * figure if np.isfinite(figure) else 0.0 for figure in figures]
    *limits, mask_iou = tolerance
    return Tolerance(*map(max, limits, most[:3]), mask_iou=max(min(mask_iou, 1 - most[3]), LEAST_MASK_IOU))
