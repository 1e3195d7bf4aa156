"""The gate of export.py: a written file must give what the PyTorch model gives, on real images, or it is rejected.

Both see the same letterboxed images and go through the same NMS. Where the file gives raw predictions these are
compared as well, row by row, so that a model that finds nothing (an untrained one) is compared too. Of a segmentation
model the masks are compared as well; of a classifier the probabilities, on the middle of each image.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.augmentations import letterboxed_rgb
from utils.boxes import box_iou, scale_boxes, xywh2xyxy
from utils.nms import as_float32, final_boxes

TOP_ROWS = 300  # raw predictions of an image whose boxes are compared, by confidence
SAME_OBJECT_IOU = 0.5
GROWTH_PX = np.float32([-0.5, -0.5, 0.5, 0.5])  # before boxes are paired: the IoU of one without width is all rounding
DYNAMIC_BATCH = 2  # images together, where the file takes any number
CONF_THRES, IOU_THRES, MAX_DET = 0.25, 0.45, 300  # as detect.py's, where the file has no NMS of its own
MASKED_ROWS = 8  # raw predictions whose masks are compared in an image without boxes
MASKS_AT_ONCE = 16
ROUNDED_PX = 2  # pixels in which two equal masks may differ: those where the chance is 0.5


class Tolerance(NamedTuple):
    """The most that may differ. unmatched: boxes without a partner, as a share of all. mask_iou: least of any mask."""

    box_px: float
    score: float
    unmatched: float
    mask_iou: float


TOLERANCES = {
    "fp32": Tolerance(0.5, 1e-3, 0.0, 0.99),
    "fp16": Tolerance(4.0, 0.02, 0.02, 0.9),
    "int8": Tolerance(32.0, 0.5, 0.25, 0.5),
}


@dataclass
class Parity:
    """The things compared and the largest differences; it goes into the file's metadata."""

    images: int = 0
    boxes: int = 0  # the PyTorch model's, after NMS
    box_px: float = 0.0
    score: float = 0.0  # a box's; a classifier's probability of a class
    unmatched: int = 0  # boxes of either side without a partner, but for those at the very confidence threshold
    masks: int = 0
    mask_iou: float = 1.0  # mean
    mask_iou_least: float = 1.0
    top1_changed: int | None = None  # for a classifier: images with another most probable class, but for ties

    def update(self, other: "Parity") -> None:
        self.images += other.images
        self.boxes += other.boxes
        self.unmatched += other.unmatched
        self.box_px, self.score = max(self.box_px, other.box_px), max(self.score, other.score)
        self.masks += other.masks
        self.mask_iou += (other.mask_iou - self.mask_iou) * other.masks / max(self.masks, 1)
        self.mask_iou_least = min(self.mask_iou_least, other.mask_iou_least)
        if other.top1_changed is not None:
            self.top1_changed = (self.top1_changed or 0) + other.top1_changed

    def to_dict(self) -> dict:
        """Without the figures of other tasks."""
        values = {key: value for key, value in asdict(self).items() if self.masks or not key.startswith("mask")}
        return {key: round(value, 9) for key, value in values.items() if value is not None}

    def describe(self) -> str:
        if self.top1_changed is not None:
            changed = f"{self.top1_changed} of {self.images} images"
            return f"probabilities within {self.score:.2g}, another most probable class in {changed}"
        text = f"boxes within {self.box_px:.2g} px, scores within {self.score:.2g}, "
        text += f"{self.unmatched} of {self.boxes} boxes unmatched in {self.images} images"
        if self.masks:
            text += f", {self.masks} masks with an IoU of {self.mask_iou:.4f}, at least {self.mask_iou_least:.4f}"
        return text

    def problem(self, tolerance: Tolerance) -> str:
        """Return what is beyond the tolerance, or ''."""
        found = []
        if not self.box_px <= tolerance.box_px:
            found.append(f"boxes differ by {self.box_px:.3g} px, at most {tolerance.box_px:g} expected")
        if not self.score <= tolerance.score:
            found.append(f"scores differ by {self.score:.3g}, at most {tolerance.score:g} expected")
        if self.unmatched > tolerance.unmatched * max(self.boxes, 1):
            found.append(f"{self.unmatched} of {self.boxes} boxes have no partner")
        if not self.mask_iou_least >= tolerance.mask_iou:
            found.append(f"a mask has an IoU of {self.mask_iou_least:.3g}, at least {tolerance.mask_iou:g} expected")
        if self.top1_changed and self.top1_changed > tolerance.unmatched * self.images:
            found.append(f"{self.top1_changed} of {self.images} images have another most probable class")
        return "; ".join(found)


class Gate:
    """Compares a written file with the model that it was made from, both as DetectMultiBackend."""

    def __init__(self, reference, exported, imgsz, precision: str = "fp32"):
        metadata = exported.backend.metadata
        self.reference, self.exported, self.imgsz = reference, exported, tuple(imgsz)
        self.output, self.task = metadata.output, metadata.task
        self.limits = metadata.limits or {"conf_thres": CONF_THRES, "iou_thres": IOU_THRES, "max_det": MAX_DET}
        self.score_error = TOLERANCES[precision].score
        self.borderline = self.limits["conf_thres"] + self.score_error
        self.batch = metadata.batch if exported.fixed_hw else DYNAMIC_BATCH
        self.letterbox = exported.fixed_hw is None, exported.stride

    def between(self, reference: Any, other: Any) -> "Gate":
        """Return a gate for two other models, the file itself or such that give raw predictions, on the same images."""
        gate = copy.copy(self)
        gate.reference, gate.exported = reference, other
        gate.output = self.output if other is self.exported else "raw"
        return gate

    def run(self, images: list) -> Parity:
        """Compare on images, uint8 BGR [H, W, 3]. ValueError if there is nothing to compare."""
        parity = Parity()
        compare = {"detect": self._boxes, "segment": self._masks, "classify": self._probabilities}[self.task]
        for batch in self.batches(images):
            parity.images += len(batch)
            for part in compare(np.stack([image for image, _, _ in batch]), batch):
                parity.update(part)
        if self.output != "raw" and parity.boxes == 0:
            raise ValueError(
                f"the model finds no object above confidence {self.limits['conf_thres']} in {parity.images} images, so "
                "there is nothing to compare: give --data with images of its classes, or a lower --conf-thres"
            )
        return parity

    def batches(self, images):
        """Yield lists of (RGB as the model takes it, original RGB, ratio_pad), of one shape, as long as a batch."""
        groups = {}
        for image in images:
            prepared, ratio_pad = self._prepared(image)
            original = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            groups.setdefault(prepared.shape, []).append((prepared, original, ratio_pad))
        for group in groups.values():
            yield from (group[i : i + self.batch] for i in range(0, len(group), self.batch))

    def _prepared(self, image) -> tuple:
        """Return the image as RGB, letterboxed, or its middle for a classifier; and its ratio_pad for scale_boxes()."""
        if self.task == "classify":
            from extras.classify.transforms import center_crop

            return cv2.cvtColor(center_crop(image, self.imgsz), cv2.COLOR_BGR2RGB), None
        return letterboxed_rgb(image, self.imgsz, *self.letterbox)

    def _boxes(self, padded: np.ndarray, batch):
        """Parity figures of a batch of detections, of which `padded` are the images."""
        raw = as_float32(self.reference.predict(padded))
        expected = final_boxes(raw, False, **self.limits)
        if self.output == "image":
            for boxes, (image, original, ratio_pad) in zip(expected, batch):
                scale_boxes(image.shape[:2], boxes[:, :4], original.shape[:2], ratio_pad)
            outputs = [as_float32(self.exported.predict(original[None]))[0] for _, original, _ in batch]
        else:
            outputs = as_float32(self.exported.predict(padded))
        found = final_boxes(outputs, self.output != "raw", **self.limits)
        if self.output == "raw":
            yield from compare_raw(expected, found, self.borderline)
            yield self._compare_rows(raw, outputs)
        else:
            yield from (matched(boxes, others, self.borderline) for boxes, others in zip(expected, found))

    def _compare_rows(self, expected: np.ndarray, found: np.ndarray) -> Parity:
        return compare_rows(expected, found)

    def _masks(self, padded: np.ndarray, batch):
        (raw, protos), (others, other_protos) = (
            [as_float32(output) for output in model.predict(padded)] for model in (self.reference, self.exported)
        )
        nm = protos.shape[1]
        yield compare_rows(raw, others, nm)
        # NMS hands the number of the row on as it does mask coefficients
        numbers = np.broadcast_to(np.arange(raw.shape[1], dtype=np.float32)[None, :, None], (*raw.shape[:2], 1))
        expected = final_boxes(np.concatenate([raw, numbers], 2), False, **self.limits, nm=nm + 1)
        yield from compare_raw(expected, final_boxes(others, False, **self.limits, nm=nm), self.borderline)
        for i, boxes in enumerate(expected):
            best = np.argsort(-raw[i, :, 4])[:MASKED_ROWS]
            rows = boxes[:, -1].astype(int) if len(boxes) else best
            ours, theirs = (raw[i, rows, -nm:], protos[i]), (others[i, rows, -nm:], other_protos[i])
            yield compare_masks(xywh2xyxy(raw[i, rows, :4]), ours, theirs, padded.shape[1:3], self.score_error)

    def _probabilities(self, padded: np.ndarray, batch):
        expected, found = (as_float32(model.predict(padded)) for model in (self.reference, self.exported))
        yield compare_logits(expected, found, 2 * self.score_error)


def compare_raw(expected: list, found: list, borderline: float):
    """Return matched() of each image of raw predictions, without differences, which the rows tell.

    Of two nearly equal boxes NMS may keep the other.
    """
    for boxes, others in zip(expected, found):
        pair = matched(boxes, others, borderline)
        pair.box_px = pair.score = 0.0
        yield pair


def compare_rows(expected: np.ndarray, found: np.ndarray, nm: int = 0) -> Parity:
    """Raw predictions [B, N, 5 + nc + nm]: the boxes of the TOP_ROWS most confident rows, the scores of all."""
    if expected.shape != found.shape:
        raise ValueError(f"expected raw predictions of shape {list(expected.shape)}, found {list(found.shape)}")
    scores, others = (rows[..., 5 : rows.shape[2] - nm] * rows[..., 4:5] for rows in (expected, found))
    top = np.argsort(-scores.max(-1), axis=1)[:, :TOP_ROWS, None]
    boxes, rivals = (xywh2xyxy(np.take_along_axis(rows[..., :4], top, 1)) for rows in (expected, found))
    return Parity(box_px=_largest(boxes - rivals), score=_largest(scores - others))


def compare_masks(
    boxes: np.ndarray, expected: tuple, found: tuple, shape_hw: tuple, rounding: float = TOLERANCES["fp32"].score
) -> Parity:
    """Return the masks in an image's boxes [n, 4], xyxy px, pair by pair, at the size shape_hw of the model's input.

    expected, found: the boxes' mask coefficients [n, nm], and prototypes [nm, h, w]. Both are cut to the same boxes:
    an edge that is rounded otherwise would move over a whole row of pixels. A pixel of `expected` counts where its sum
    of products is further from 0, the edge of the mask, than `rounding` times the sum of their sizes.
    """
    from extras.segment.masks import process_mask

    ious = []
    for start in range(0, len(boxes), MASKS_AT_ONCE):
        part = slice(start, start + MASKS_AT_ONCE)
        coefficients, protos = expected[0][part], expected[1]
        sizes = np.concatenate([protos, np.abs(protos)]), -rounding * np.abs(coefficients)
        ours, theirs, inside, outside = (
            process_mask(maps, factors, boxes[part], shape_hw, upsample=True)
            for maps, factors in (
                (protos, coefficients),
                (found[1], found[0][part]),
                (sizes[0], np.concatenate([coefficients, sizes[1]], 1)),
                (sizes[0], np.concatenate([-coefficients, sizes[1]], 1)),
            )
        )
        different = np.count_nonzero(np.where(theirs, outside, inside), (1, 2))
        together = np.count_nonzero(ours | theirs, (1, 2))
        ious += [1 - d / t if d > ROUNDED_PX else 1.0 for d, t in zip(different, together)]
    mean = float(np.mean(ious)) if ious else 1.0
    return Parity(masks=len(ious), mask_iou=mean, mask_iou_least=float(min(ious, default=1.0)))


def compare_logits(expected: np.ndarray, found: np.ndarray, tie: float) -> Parity:
    """Compare the probabilities of logits [B, nc], and which is the largest; those within `tie` are equal."""
    from extras.classify.metrics import softmax

    if expected.shape != found.shape:
        raise ValueError(f"expected logits of shape {list(expected.shape)}, found {list(found.shape)}")
    ours, theirs = (softmax(logits) for logits in (expected, found))
    lost = ours.max(1) - np.take_along_axis(ours, theirs.argmax(1)[:, None], 1)[:, 0]
    return Parity(score=_largest(ours - theirs), top1_changed=int((lost > tie).sum()))


def matched(boxes: np.ndarray, others: np.ndarray, borderline: float) -> Parity:
    """Return the boxes [n, 6+] and [m, 6+] of an image, xyxy px, confidence, class: pairs of one class by falling IoU.

    A box without a partner counts if its confidence is above `borderline`: below it the partner may have missed the
    threshold.
    """
    iou = box_iou(boxes[:, :4] + GROWTH_PX, others[:, :4] + GROWTH_PX) * (boxes[:, None, 5] == others[None, :, 5])
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
    """Return the largest absolute value, 0 of nothing; infinity where a number is none."""
    largest = float(np.abs(differences).max(initial=0))
    return largest if np.isfinite(largest) else float("inf")
