"""Validation as a plain loop: batches of like shape are read, predicted, suppressed; pycocotools gives the AP.

python -m bench.plain.val_loop DATA WEIGHTS SIZE BATCH prints mAP50-95 of the val split of the dataset YAML DATA.
The protocol is that of val.py: pictures in the order of their aspect, padded to the least rectangle of their batch and
half a stride, confidence 0.001, IoU 0.6, at most 300 boxes of a picture, each box for every class that passes.
"""

import math
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from bench.plain.coco import annotations, coco_ap
from bench.plain.data import read_labels
from bench.plain.nms import plain_nms
from models.load import attempt_load

CONF_THRES, IOU_THRES, MAX_DET, MAX_CANDIDATES = 0.001, 0.6, 300, 30_000
STRIDE, PAD_STRIDES = 32, 0.5


def resized(image, size):
    """Resize the picture to `size` as its longer side."""
    h, w = image.shape[:2]
    ratio = size / max(h, w)
    if ratio == 1:
        return image
    new_wh = min(math.ceil(w * ratio), size), min(math.ceil(h * ratio), size)
    return cv2.resize(image, new_wh, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)


def batch_shape(aspects, size):
    """Height and width that hold every picture of a batch; aspects: their heights / widths."""
    height, width = 1.0, 1.0
    if max(aspects) < 1:
        height = max(aspects)
    elif min(aspects) > 1:
        width = 1 / min(aspects)
    return [math.ceil(side * size / STRIDE + PAD_STRIDES) * STRIDE for side in (height, width)]


def padded(image, shape_hw):
    """Return (picture in the middle of a grey one of this shape, left, top)."""
    pad_h, pad_w = shape_hw[0] - image.shape[0], shape_hw[1] - image.shape[1]
    top, left = pad_h // 2, pad_w // 2
    borders = top, pad_h - top, left, pad_w - left
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=(114,) * 3), left, top


def predict_batch(model, images, size):
    """Return boxes [n, 6] of each picture, in its own pixels; `images` are as they are in the files."""
    small = [resized(image, size) for image in images]
    shape_hw = batch_shape([image.shape[0] / image.shape[1] for image in images], size)
    placed = [padded(image, shape_hw) for image in small]
    tensor = np.stack([np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)) for image, _, _ in placed])
    with torch.no_grad():
        predictions = model(torch.from_numpy(tensor).float() / 255)[0]
    results = []
    for prediction, image, resized_image, (_, left, top) in zip(predictions, images, small, placed):
        boxes = plain_nms(prediction, CONF_THRES, IOU_THRES, MAX_DET, MAX_CANDIDATES).numpy()
        (h, w), (small_h, small_w) = image.shape[:2], resized_image.shape[:2]
        boxes[:, [0, 2]] = ((boxes[:, [0, 2]] - left) / (small_w / w)).clip(0, w)
        boxes[:, [1, 3]] = ((boxes[:, [1, 3]] - top) / (small_h / h)).clip(0, h)
        results.append(boxes)
    return results


def main(data, weights, size, batch):
    config = yaml.safe_load(Path(data).read_text())
    model = attempt_load(weights)
    files = sorted(Path(config["path"], config["val"]).glob("*.jpg"))
    shapes = np.array([cv2.imread(str(file)).shape[:2] for file in files])
    # which of several pictures of one aspect fall into which batch depends on the sort, and their padding on that
    files = [files[i] for i in (shapes[:, 0] / shapes[:, 1]).argsort(kind="heapsort")]
    truth, found = [], []
    for start in range(0, len(files), int(batch)):
        chosen = files[start : start + int(batch)]
        images = [cv2.imread(str(file)) for file in chosen]
        boxes_per_image = predict_batch(model, images, int(size))
        for image_id, (file, image, boxes) in enumerate(zip(chosen, images, boxes_per_image), start):
            h, w = image.shape[:2]
            labels = read_labels(file)
            corners = np.concatenate([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2], 1)
            truth += annotations((corners * [w, h, w, h]).clip(0, [w, h, w, h]), labels[:, 0], image_id)
            found += annotations(boxes[:, :4], boxes[:, 5], image_id, boxes[:, 4])
    print(np.nanmean(coco_ap(truth, found, len(files), len(config["names"]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
