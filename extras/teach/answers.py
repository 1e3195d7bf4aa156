"""A detector's answers about pictures, in the terms of one student: classes and strides that both have."""

from collections.abc import Sequence

import numpy as np
import torch

from extras.teach.loss import SoftBoxes
from extras.teach.teacher import open_detector
from models.yolo import DetectionModel
from utils.boxes import xyxy2xywhn
from utils.logger import LOGGER
from utils.nms import non_max_suppression

LEAST_CONFIDENCE = 0.1  # a teacher's box that is less sure says nothing
SOFT_IOU = 0.7  # boxes of a teacher that overlap more are one
MAX_BOXES = 100  # in a picture, the surest
LABEL_CONFIDENCE, LABEL_IOU = 0.5, 0.5  # for a box that becomes the label of an image without labels
LEVELS = 2  # whose features are compared: the coarsest, as all of them would take much more space on the disk


class Answers:
    """A detector's boxes and feature maps of pictures, as records that a TeacherCache keeps.

    Args:
        path: a detector's checkpoint.
        student: the model to be trained, with its class names.
        gains: the hyperparameters distill and distill_features; 0 leaves the detections or the features out.
        imgsz: largest side of a picture in px.

    ValueError if the file holds no detector, or nothing that the student could learn.
    """

    def __init__(self, path: str, student: DetectionModel, gains: tuple[float, float], imgsz: int):
        self.path = path
        self.detector, names = open_detector(str(path))
        self.sha256 = self.detector.description["teacher sha256"]
        self.one_class = student.head.nc == 1
        numbers = {name.strip().casefold(): number for number, name in reversed(names.items())}
        shared = {i: numbers[key] for i, name in student.names.items() if (key := name.strip().casefold()) in numbers}
        self.student_classes, self.classes = list(shared), list(shared.values())  # numbers of the shared classes
        self.names = [student.names[number] for number in shared]
        self.has_boxes = bool(shared) and gains[0] > 0
        self.pairs = shared_levels(student.stride.tolist(), self.detector.strides)[-LEVELS:] if gains[1] > 0 else []
        self.channels = [(student.head.m[i].in_channels, self.detector.channels[j]) for i, j in self.pairs]
        self.cells = [round(imgsz / self.detector.strides[j]) ** 2 for _, j in self.pairs]
        known = ", ".join(self.names[:10]) + (" ..." if len(shared) > 10 else "")
        strides = ", ".join(f"{self.detector.strides[j]:g}" for _, j in self.pairs) or "none"
        LOGGER.info(
            f"teacher {path}: {len(shared)} of {student.head.nc} classes matched{f': {known}' if known else ''}; "
            f"features compared at strides: {strides}"
        )
        if not self.has_boxes and not self.pairs:
            raise ValueError(
                f"--teacher {path}: nothing to learn from it: {len(shared)} classes and {len(self.pairs)} map strides "
                f"are shared, distill is {gains[0]:g} and distill_features {gains[1]:g}"
            )

    @property
    def dtype(self) -> np.dtype:
        """A record: boxes xywh normalised; scores confidence, objectness, shared classes; feature maps, flat.

        A row of confidence 0 is none. For a picture smaller than imgsz x imgsz the maps' end stays empty.
        """
        fields = []
        if self.has_boxes:
            fields = [("boxes", "<f4", (MAX_BOXES, 4)), ("scores", "<f2", (MAX_BOXES, 2 + len(self.classes)))]
        for number, ((_, channels), cells) in enumerate(zip(self.channels, self.cells)):
            fields.append((f"features{number}", "<f2", (channels * cells,)))
        return np.dtype(fields)

    def _look(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the teacher's compared maps, and its boxes [B, N, no], for images uint8 [B, 3, H, W]."""
        weight = next(self.detector.parameters())
        maps, boxes = self.detector.detect(images.to(weight.device).to(weight.dtype).div_(255))
        return [maps[j] for _, j in self.pairs], boxes

    def records(self, images: torch.Tensor) -> np.ndarray:
        """Return records [B] of self.dtype for images uint8 [B, 3, H, W]."""
        maps, predictions = self._look(images)
        records = np.zeros(len(images), self.dtype)
        if self.has_boxes:
            for record, rows in zip(records, predictions):
                found = self._soft_rows(rows)
                record["boxes"][: len(found)] = xyxy2xywhn(found[:, :4], images.shape[3], images.shape[2])
                record["scores"][: len(found)] = found[:, [4, *range(6, found.shape[1])]]
        for number, made in enumerate(maps):
            flat = made.flatten(1).cpu().numpy()
            records[f"features{number}"][:, : flat.shape[1]] = flat
        return records

    def _soft_rows(self, rows: torch.Tensor) -> np.ndarray:
        """Return rows [n, 7 + shared] of boxes [N, no]: xyxy px, confidence, class, objectness, shared classes.

        Objectness is reduced where the box is rather one of a class that the student does not know. A student of one
        class does not learn class scores, so its objectness follows the whole confidence.
        """
        rows = rows[rows[:, 4] > LEAST_CONFIDENCE]
        scores = rows[:, 5:]
        shared = scores[:, self.classes]
        best = shared.amax(1, keepdim=True)
        objectness = rows[:, 4:5] * (best if self.one_class else best / scores.amax(1, keepdim=True))
        candidates = torch.cat([rows[:, :5], shared, objectness, shared], 1).cpu().numpy()
        return non_max_suppression(
            candidates[None], LEAST_CONFIDENCE, SOFT_IOU, agnostic=True, max_det=MAX_BOXES, nm=1 + len(self.classes)
        )[0]

    def labels(self, images: torch.Tensor) -> list[np.ndarray]:
        """Return the sure boxes of images uint8 [B, 3, H, W]: for each [n, 5] class number of the student, xyxy px."""
        numbers = np.array(self.student_classes, np.float32)
        _, predictions = self._look(images)
        shared = torch.cat([predictions[..., :5], predictions[..., 5:][..., self.classes]], -1).cpu().numpy()
        found = non_max_suppression(shared, LABEL_CONFIDENCE, LABEL_IOU, max_det=MAX_BOXES)
        return [np.concatenate([numbers[boxes[:, 5].astype(int)][:, None], boxes[:, :4]], 1) for boxes in found]

    def soft_boxes(self, records: np.ndarray, device) -> SoftBoxes:
        """Return the boxes of a batch's records [B]."""
        scores = records["scores"].astype(np.float32)
        image, row = np.nonzero(scores[..., 0])
        arrays = image, records["boxes"][image, row], scores[image, row]
        image, boxes, scores = (torch.from_numpy(array).to(device) for array in arrays)
        return SoftBoxes(image, boxes, scores[:, 0], scores[:, 1], scores[:, 2:])

    def feature_maps(self, records: np.ndarray, image_hw: Sequence[int], device) -> list[torch.Tensor]:
        """Return float32 [B, C, h, w] of each compared level, for pictures of image_hw px."""
        maps = []
        for number, (_, j) in enumerate(self.pairs):
            h, w = (round(side / self.detector.strides[j]) for side in image_hw)
            channels = self.detector.channels[j]
            values = records[f"features{number}"][:, : channels * h * w].reshape(-1, channels, h, w)
            maps.append(torch.from_numpy(values).to(device).float())
        return maps


def shared_levels(student_px: list[float], teacher_px: list[float]) -> list[tuple[int, int]]:
    """Return (level of the student, level of the teacher) of each stride in px that both have, finest first."""
    theirs = {stride: j for j, stride in enumerate(teacher_px)}
    return [(i, theirs[stride]) for stride, i in sorted(zip(student_px, range(len(student_px)))) if stride in theirs]
