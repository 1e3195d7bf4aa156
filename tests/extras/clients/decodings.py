"""What programs that cannot be installed here do with a file's tensors, written from their documentation.

Each function gives boxes [n, 6]: xyxy in pixels of the input, confidence, class.
"""

import cv2
import numpy as np


def frigate(outputs: list, size_px: int) -> np.ndarray:
    """Frigate's model_type yolo-generic with one output: at most 20 boxes above 0.4.

    Its suppression takes corners for a corner and a size, so that boxes suppress each other more than they should.
    """
    rows = outputs[0].squeeze()
    rows = rows.T if rows.shape[0] < rows.shape[1] else rows
    boxes = np.hstack([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2])
    scores, classes = rows[:, 4:].max(1), rows[:, 4:].argmax(1)
    sure = scores > 0.4
    found = np.column_stack([boxes, scores, classes])[sure]
    kept = cv2.dnn.NMSBoxes(found[:, :4], found[:, 4], 0.4, 0.4)
    yxyx = found[np.asarray(kept, int)[:20]][:, [1, 0, 3, 2]] / size_px  # as it hands them on
    return np.column_stack([yxyx[:, [1, 0, 3, 2]] * size_px, found[np.asarray(kept, int)[:20], 4:]])


def frigate_yolonas(outputs: list) -> np.ndarray:
    """Frigate's model_type yolonas: the first 20 rows until a class below 0."""
    rows = [row for row in outputs[0][:20] if row[6] >= 0]
    return np.float32(rows)[:, 1:]


def deepstream(outputs: list, size_px: int, conf: float, iou: float) -> np.ndarray:
    """DeepStream-Yolo's parser, then DeepStream's suppression within a class; boxes are cut to the picture."""
    rows = outputs[0][0]
    rows = rows[rows[:, 4] >= conf]
    rows[:, :4] = rows[:, :4].clip(0, size_px)
    rows = rows[(rows[:, 2] - rows[:, 0] >= 1) & (rows[:, 3] - rows[:, 1] >= 1)]
    return greedy(rows, iou)


def nnstreamer(outputs: list, size_px: int, is_scaled: int, conf: float, iou: float) -> np.ndarray:
    """NNStreamer's decoder mode yolov5, before it cuts to whole pixels; suppression over all classes."""
    rows = outputs[0].reshape(-1, outputs[0].shape[-1])
    scores, classes = rows[:, 5:].max(1) * rows[:, 4], rows[:, 5:].argmax(1)
    boxes = rows[:, :4] if is_scaled else rows[:, :4] * size_px
    boxes = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    return greedy(np.column_stack([boxes, scores, classes])[scores > conf], iou, agnostic=True)


def rknn(outputs: list, anchor_text: str, size_px: int, conf: float, iou: float, activated: bool = True) -> np.ndarray:
    """The RKNN model zoo's YOLOv5: anchors of a text file, strides by the maps' sizes."""
    anchors = np.float32(anchor_text.split()).reshape(len(outputs), -1, 2)
    found = []
    for y, pairs in zip(outputs, anchors):
        y = y.reshape(len(pairs), -1, *y.shape[2:])
        y = y if activated else 1 / (1 + np.exp(-y))
        height, width = y.shape[2:]
        column, row = np.meshgrid(np.arange(width), np.arange(height))
        centre = (y[:, :2] * 2 - 0.5 + np.stack([column, row])) * (size_px / width)
        half = (y[:, 2:4] * 2) ** 2 * pairs[:, :, None, None] / 2
        score = y[:, 4:5] * y[:, 5:].max(1, keepdims=True)
        parts = [centre - half, centre + half, score, y[:, 5:].argmax(1)[:, None]]
        found.append(np.concatenate(parts, 1).transpose(0, 2, 3, 1).reshape(-1, 6))
    rows = np.concatenate(found)
    return greedy(rows[rows[:, 4] >= conf], iou)


def viam(outputs: list, size_px: int, conf: float) -> np.ndarray:
    """Viam's mlmodel detector with xmin_ymin_xmax_ymax_order [0, 1, 2, 3]; it has no suppression of its own."""
    location, category, score = (output[0] for output in outputs)
    return np.column_stack([location * size_px, score, category])[score >= conf]


def greedy(rows: np.ndarray, iou: float, agnostic: bool = False) -> np.ndarray:
    """Textbook suppression of [n, 6] by falling confidence."""
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    kept = []
    for row in rows:
        if all(overlap(row, other) <= iou for other in kept if agnostic or other[5] == row[5]):
            kept.append(row)
    return np.array(kept)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    common = sides.clip(0).prod()
    return common / ((a[2:4] - a[:2]).prod() + (b[2:4] - b[:2]).prod() - common)
