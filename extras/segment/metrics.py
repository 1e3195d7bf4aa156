"""Segmentation metrics: those of detection twice, for boxes and for masks.

Masks are those of the original image, as bool [n, h, w] or as the run lengths of encode_rle(); only
run lengths are kept. A target without a mask (has_mask False) is ignored by the mask scores: it is never missed, and
what is predicted there is not wrong. COCO treats its crowds so; the box takes the place of the mask.
"""

from dataclasses import dataclass

import numpy as np

from extras.segment.masks import encode_rle, polygons_to_rle
from utils.metrics import DetectionMetrics, DetectionResult
from utils.plots.curves import IOU_THRESHOLDS, match_by_iou


@dataclass
class SegmentResult:
    """The result of SegmentMetrics.compute(). `masks` has the scores of the masks under the names of those of boxes."""

    boxes: DetectionResult
    masks: DetectionResult

    @property
    def fitness(self) -> float:
        return self.boxes.fitness + self.masks.fitness

    @property
    def means(self) -> tuple:
        """Precision, recall, mAP50, mAP50-95 of the boxes, then of the masks."""
        parts = self.boxes, self.masks
        return tuple(value for part in parts for value in (part.precision, part.recall, part.map50, part.map))

    @property
    def maps(self) -> np.ndarray:
        """[nc] AP of boxes and masks by class number, added."""
        return self.boxes.maps + self.masks.maps


class SegmentMetrics:
    """Collects predictions and targets image by image, then scores boxes and masks."""

    def __init__(self, nc: int):
        self.boxes, self.masks = DetectionMetrics(nc), MaskMetrics(nc)

    def __len__(self) -> int:
        """Images seen."""
        return len(self.boxes)

    def reset(self) -> None:
        self.boxes.reset()
        self.masks.reset()

    def update(self, predictions, masks, targets, target_masks, has_mask=None) -> None:
        """Add one image: predictions [n, 6] with n masks, targets [m, 5] with m masks; either may be empty.

        has_mask: bool [m], by default all True; what stands in the place of a missing mask is not looked at.
        """
        self.boxes.update(predictions, targets)
        self.masks.update(predictions, masks, targets, target_masks, has_mask)

    def compute(self) -> SegmentResult:
        return SegmentResult(self.boxes.compute(), self.masks.compute())


@dataclass
class ImageMasks:
    """One image in COCO's evaluation; predictions by falling confidence."""

    predictions: np.ndarray  # [n, 6]
    targets: np.ndarray  # [m, 5]
    found: list  # counts of the n run lengths
    true: list  # the m true ones'
    ignored: np.ndarray  # bool [m]
    size: list  # height, width


class MaskMetrics(DetectionMetrics):
    """DetectionMetrics of masks: they are matched and scored by the IoU of their pixels."""

    def reset(self) -> None:
        super().reset()
        self._images = []

    def update(self, predictions, masks, targets, target_masks, has_mask=None) -> None:
        """Add one image, as SegmentMetrics does."""
        predictions = np.asarray(predictions, dtype=np.float64).reshape(-1, 6)
        targets = np.asarray(targets, dtype=np.float64).reshape(-1, 5)
        has_mask = np.ones(len(targets), bool) if has_mask is None else np.asarray(has_mask, bool)
        found, true = _codes(masks), _codes(target_masks)
        for name, rows, codes in (("predictions", predictions, found), ("targets", targets, true)):
            if len(rows) != len(codes):
                raise ValueError(f"expected a mask for each of {len(rows)} {name}, found {len(codes)}")
        order = np.argsort(-predictions[:, 4], kind="stable")
        predictions, found = predictions[order], [found[i] for i in order]
        if len(predictions) == 0:  # Ignored objects matter only where something is predicted.
            targets, true, has_mask = targets[has_mask], [true[i] for i in np.flatnonzero(has_mask)], has_mask[has_mask]
        size = (found or true or [{"size": [0, 0]}])[0]["size"]
        true = [code if known else _box_code(box, size) for code, known, box in zip(true, has_mask, targets[:, 1:])]

        iou = mask_overlap(found, true, ~has_mask)
        iou[predictions[:, 5:6] != targets[None, :, 0]] = 0
        correct = match_by_iou(iou[:, has_mask])
        excused = ~correct[:, 0] & (iou[:, ~has_mask].max(1, initial=0) >= IOU_THRESHOLDS[0])
        self._predictions.append(predictions[~excused])
        self._targets.append(targets[has_mask])
        self._correct.append(correct[~excused])
        counts = ([code["counts"] for code in codes] for codes in (found, true))
        self._images.append(ImageMasks(predictions, targets, *counts, ~has_mask, size))

    def average_precision(self, *boxes_and_classes) -> np.ndarray:
        return mask_ap(self._images, boxes_and_classes[-1])


def _codes(masks) -> list:
    return encode_rle(masks) if isinstance(masks, np.ndarray) and masks.ndim == 3 else list(masks)


def _box_code(box_xyxy, size) -> dict:
    """Return the rectangle as the run lengths of an image of this size (height, width)."""
    x1, y1, x2, y2 = box_xyxy
    return polygons_to_rle([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], size)[0]


def mask_overlap(found, true, ignored) -> np.ndarray:
    """IoU [n, m] of run lengths; for the targets that are `ignored` [m] the share of the prediction that they cover."""
    from faster_coco_eval.core.mask import iou

    if not found or not true:
        return np.zeros((len(found), len(true)))
    return np.array(iou(found, true, ignored.astype(int).tolist()))


def mask_ap(images, classes) -> np.ndarray:
    """AP [10, k, 4] of the masks of a list of ImageMasks, as utils.metrics.coco_ap() gives it for boxes.

    The areas are those of the masks. The same figures as pycocotools'.
    """
    if len(classes) == 0:
        return np.full((len(IOU_THRESHOLDS), 0, 4), np.nan)
    truth = [
        (i, code, cls, {"iscrowd": ignored})
        for i, image in enumerate(images)
        for code, cls, ignored in zip(image.true, image.targets[:, 0].tolist(), image.ignored.astype(int).tolist())
    ]
    found = [
        (i, code, cls, {"score": score})
        for i, image in enumerate(images)
        for code, score, cls in zip(image.found, *image.predictions[:, 4:].T.tolist())
    ]
    return _coco_evaluation(*(_coco_dict(images, classes, masks) for masks in (truth, found)))


def _coco_evaluation(truth: dict, found: dict) -> np.ndarray:
    """Return the AP [10 IoU thresholds, k classes, 4 areas] of the masks of two data sets in COCO's format."""
    from faster_coco_eval import COCO, COCOeval_faster

    quiet = {"print_function": lambda *_: None}
    evaluation = COCOeval_faster(COCO(truth, **quiet), COCO(found, **quiet), "segm", **quiet)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1].copy()  # [10, 101 recalls, k, 4]; -1 where there is no target
    precision[precision < 0] = np.nan
    return precision.mean(1)


def _coco_dict(images, classes, masks) -> dict:
    """Return a data set in COCO's format; masks: (image number, counts, class, further keys) of each."""
    from faster_coco_eval.core.mask import area

    sizes = [image.size for image in images]
    known = set(classes.tolist())
    masks = [
        (i, {"size": sizes[i], "counts": counts}, int(cls), more) for i, counts, cls, more in masks if cls in known
    ]
    areas = area([code for _, code, _, _ in masks]).tolist() if masks else []
    return {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
        "categories": [{"id": int(c)} for c in classes],
        "annotations": [
            {"id": number, "image_id": i, "category_id": cls, "segmentation": code, "area": pixels, **more}
            for number, ((i, code, cls, more), pixels) in enumerate(zip(masks, areas), 1)
        ],
    }
