"""The gate of export.py: a written file must give what the PyTorch model gives, on real images, or it is rejected.

Both see the same letterboxed images and go through the same NMS. Where the file gives raw predictions these are
compared as well, row by row, so that a model that finds nothing (an untrained one) is compared too.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.boxes import box_iou, scale_boxes, xywh2xyxy
from utils.nms import as_float32, final_boxes

TOP_ROWS = 300  # raw predictions of an image whose boxes are compared, by confidence
SAME_OBJECT_IOU = 0.5
DYNAMIC_BATCH = 2  # images together, where the file takes any number
CONF_THRES, IOU_THRES, MAX_DET = 0.25, 0.45, 300  # as detect.py's, where the file has no NMS of its own


class Tolerance(NamedTuple):
    """The most that may differ. unmatched: boxes without a partner, as a share of all."""

    box_px: float
    score: float
    unmatched: float


TOLERANCES = {"fp32": Tolerance(0.5, 1e-3, 0.0), "fp16": Tolerance(4.0, 0.02, 0.02), "int8": Tolerance(32.0, 0.5, 0.25)}


@dataclass
class Parity:
    """What was compared and the largest differences; goes into the file's metadata."""

    images: int = 0
    boxes: int = 0  # of the PyTorch model, after NMS
    box_px: float = 0.0
    score: float = 0.0
    unmatched: int = 0  # boxes of either side without a partner, but for those at the very confidence threshold

    def update(self, other: "Parity") -> None:
        self.images += other.images
        self.boxes += other.boxes
        self.unmatched += other.unmatched
        self.box_px, self.score = max(self.box_px, other.box_px), max(self.score, other.score)

    def to_dict(self) -> dict:
        return {key: round(value, 6) for key, value in asdict(self).items()}

    def problem(self, tolerance: Tolerance) -> str:
        """What is beyond the tolerance, or ''."""
        found = []
        if not self.box_px <= tolerance.box_px:
            found.append(f"boxes differ by {self.box_px:.3g} px, at most {tolerance.box_px:g} expected")
        if not self.score <= tolerance.score:
            found.append(f"scores differ by {self.score:.3g}, at most {tolerance.score:g} expected")
        if self.unmatched > tolerance.unmatched * max(self.boxes, 1):
            found.append(f"{self.unmatched} of {self.boxes} boxes have no partner")
        return "; ".join(found)


class Gate:
    """Compares a written file with the model that it was made from, both as DetectMultiBackend."""

    def __init__(self, reference, exported, imgsz, precision: str = "fp32"):
        metadata = exported.backend.metadata
        self.reference, self.exported, self.imgsz = reference, exported, tuple(imgsz)
        self.output = metadata.output
        self.limits = metadata.limits or {"conf_thres": CONF_THRES, "iou_thres": IOU_THRES, "max_det": MAX_DET}
        self.borderline = self.limits["conf_thres"] + TOLERANCES[precision].score
        self.batch = metadata.batch if exported.fixed_hw else DYNAMIC_BATCH

    def run(self, images: list) -> Parity:
        """images: uint8 BGR [H, W, 3]. ValueError if there is nothing to compare."""
        parity = Parity()
        for batch in self._batches(images):
            parity.update(self._compare(batch))
        if self.output != "raw" and parity.boxes == 0:
            raise ValueError(
                f"the model finds no object above confidence {self.limits['conf_thres']} in {parity.images} images, so "
                "there is nothing to compare: give --data with images of its classes, or a lower --conf-thres"
            )
        return parity

    def _batches(self, images):
        """Lists of (letterboxed RGB, original RGB, ratio_pad), of one shape, as long as the file's batch."""
        groups = {}
        auto = self.exported.fixed_hw is None
        for image in images:
            padded, ratio_wh, pad_wh = letterbox(image, self.imgsz, stride=self.exported.stride, auto=auto)
            pair = [cv2.cvtColor(x, cv2.COLOR_BGR2RGB) for x in (padded, image)]
            groups.setdefault(padded.shape, []).append((*pair, (ratio_wh[::-1], pad_wh)))
        for group in groups.values():
            yield from (group[i : i + self.batch] for i in range(0, len(group), self.batch))

    def _compare(self, batch) -> Parity:
        padded = np.stack([image for image, _, _ in batch])
        raw = as_float32(self.reference.predict(padded))
        expected = final_boxes(raw, False, **self.limits)
        parity = Parity(images=len(batch))
        if self.output == "image":
            for boxes, (image, original, ratio_pad) in zip(expected, batch):
                scale_boxes(image.shape[:2], boxes[:, :4], original.shape[:2], ratio_pad)
            outputs = [as_float32(self.exported.predict(original[None]))[0] for _, original, _ in batch]
        else:
            outputs = as_float32(self.exported.predict(padded))
        found = final_boxes(outputs, self.output != "raw", **self.limits)
        for boxes, others in zip(expected, found):
            pair = matched(boxes, others, self.borderline)
            if self.output == "raw":  # the rows tell; of two nearly equal boxes NMS may keep the other
                pair.box_px = pair.score = 0.0
            parity.update(pair)
        if self.output == "raw":
            parity.update(compare_rows(raw, outputs))
        return parity


def compare_rows(expected: np.ndarray, found: np.ndarray) -> Parity:
    """Raw predictions [B, N, 5 + nc]: the boxes of the TOP_ROWS most confident rows, the scores of all."""
    if expected.shape != found.shape:
        raise ValueError(f"expected raw predictions of shape {list(expected.shape)}, found {list(found.shape)}")
    scores, others = (rows[..., 5:] * rows[..., 4:5] for rows in (expected, found))
    top = np.argsort(-scores.max(-1), axis=1)[:, :TOP_ROWS, None]
    boxes, rivals = (xywh2xyxy(np.take_along_axis(rows[..., :4], top, 1)) for rows in (expected, found))
    return Parity(box_px=_largest(boxes - rivals), score=_largest(scores - others))


def matched(boxes: np.ndarray, others: np.ndarray, borderline: float) -> Parity:
    """The boxes [n, 6] and [m, 6] of an image, xyxy px, confidence, class: pairs of one class by falling IoU.

    A box without a partner counts if its confidence is above `borderline`: below it the partner may have missed the
    threshold.
    """
    iou = box_iou(boxes[:, :4], others[:, :4]) * (boxes[:, None, 5] == others[None, :, 5])
    pairs = []
    while iou.size and iou.max() > SAME_OBJECT_IOU:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        pairs.append((i, j))
        iou[i], iou[:, j] = 0, 0
    rows, columns = ([pair[k] for pair in pairs] for k in (0, 1))
    alone = np.concatenate([np.delete(boxes[:, 4], rows), np.delete(others[:, 4], columns)])
    difference = boxes[rows, :5] - others[columns, :5]
    unmatched = int((alone > borderline).sum())
    return Parity(0, len(boxes), _largest(difference[:, :4]), _largest(difference[:, 4]), unmatched)


def _largest(differences: np.ndarray) -> float:
    """The largest absolute value, 0 of nothing; infinity where a number is none."""
    largest = float(np.abs(differences).max(initial=0))
    return largest if np.isfinite(largest) else float("inf")
