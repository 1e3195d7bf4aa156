"""The way of an image into a classifier: the same in validation, prediction and exports. Free of torch."""

import cv2
import numpy as np


def center_crop(image: np.ndarray, imgsz) -> np.ndarray:
    """Return the largest central part of uint8 [H, W, 3] of the shape `imgsz` (px; or height, width), resized."""
    target_h, target_w = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    h, w = image.shape[:2]
    ratio = max(target_h / h, target_w / w)
    crop_h, crop_w = max(min(round(target_h / ratio), h), 1), max(min(round(target_w / ratio), w), 1)
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    return resize(image[top : top + crop_h, left : left + crop_w], (target_w, target_h))


def resize(image: np.ndarray, size_wh: tuple) -> np.ndarray:
    """Return uint8 [H, W, 3] in this width and height; every pixel counts where it becomes smaller (antialiasing)."""
    h, w = image.shape[:2]
    if (w, h) == tuple(size_wh):
        return image
    shrinks = w > size_wh[0] or h > size_wh[1]
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
