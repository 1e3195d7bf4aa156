"""Changes of pictures that YOLOv5 has and this project's training does not use."""

import cv2
import numpy as np

from utils.boxes import bbox_ioa
from utils.data.images import GREY

IMAGENET_MEAN = 0.485, 0.456, 0.406
IMAGENET_STD = 0.229, 0.224, 0.225
HIDDEN_SHARE = 0.6  # From this share of an object on, a cutout takes its label.


def normalize(x, mean=IMAGENET_MEAN, std=IMAGENET_STD, inplace: bool = False):
    """Return images [..., 3, H, W] of 0 to 1 less the mean and divided by the deviation of each channel."""
    x = x if inplace else x.clone()
    return x.sub_(x.new_tensor(mean).view(-1, 1, 1)).div_(x.new_tensor(std).view(-1, 1, 1))


def denormalize(x, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Undo normalize(); returns a new tensor."""
    return x * x.new_tensor(std).view(-1, 1, 1) + x.new_tensor(mean).view(-1, 1, 1)


def hist_equalize(im: np.ndarray, clahe: bool = True, bgr: bool = False) -> np.ndarray:
    """Return uint8 [H, W, 3], BGR or RGB, with its brightness spread; `clahe`: in each region by itself."""
    to_yuv, back = (cv2.COLOR_BGR2YUV, cv2.COLOR_YUV2BGR) if bgr else (cv2.COLOR_RGB2YUV, cv2.COLOR_YUV2RGB)
    yuv = cv2.cvtColor(im, to_yuv)
    light = np.ascontiguousarray(yuv[..., 0])
    yuv[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(light) if clahe else cv2.equalizeHist(light)
    return cv2.cvtColor(yuv, back)


def replicate(im: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paste the smaller half of the objects, labels [n, 5] class, xyxy in pixels, at random places, in place."""
    height, width = im.shape[:2]
    rng = np.random.default_rng()
    sides = (labels[:, 3:5] - labels[:, 1:3]).mean(1)
    for i in sides.argsort()[: round(len(sides) * 0.5)]:
        x1, y1, x2, y2 = labels[i, 1:].astype(int)
        w, h = x2 - x1, y2 - y1
        x, y = int(rng.uniform(0, max(width - w, 1))), int(rng.uniform(0, max(height - h, 1)))
        im[y : y + h, x : x + w] = im[y1 : y1 + h, x1 : x1 + w][: height - y, : width - x].copy()
        labels = np.append(labels, [[labels[i, 0], x, y, x + w, y + h]], axis=0)
    return im, labels


def cutout(im: np.ndarray, labels: np.ndarray, p: float = 0.5) -> np.ndarray:
    """Cover random parts of an image in place, with probability p (arXiv 1708.04552).

    labels [n, 5] class, xyxy in pixels; returns those whose object is not mostly hidden.
    """
    rng = np.random.default_rng()
    if rng.random() >= p:
        return labels
    height, width = im.shape[:2]
    for scale in [0.5] + [0.25] * 2 + [0.125] * 4 + [0.0625] * 8 + [0.03125] * 16:
        h, w = (
            int(rng.integers(1, max(int(height * scale), 1) + 1)),
            int(rng.integers(1, max(int(width * scale), 1) + 1)),
        )
        x, y = max(int(rng.integers(width)) - w // 2, 0), max(int(rng.integers(height)) - h // 2, 0)
        im[y : y + h, x : x + w] = GREY
        if len(labels) and scale > 0.03:
            covered = bbox_ioa(np.float32([x, y, x + w, y + h]), labels[:, 1:5])
            labels = labels[covered < HIDDEN_SHARE]
    return labels
