"""What a client does with a file's tensors: each layout back into raw predictions or final boxes, in numpy.

Each function takes the tensors (float32) and a Setting. Layouts before NMS give raw predictions [B, N, 5 + nc] as
models.heads.Detect has them, with an objectness of 1 where the file has multiplied it in; those with NMS give boxes
[B, n, 6]: xyxy in px, confidence, class, then rows of zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.boxes import xyxy2xywh


@dataclass(frozen=True)
class Setting:
    """What a client is told about the file besides its tensors."""

    imgsz_hw: tuple[int, int]  # px
    nc: int
    as_fractions: bool = False  # of the boxes
    anchors_px: tuple = ()  # for each map w, h, w, h ...
    strides: tuple = ()  # px
    activated: bool = True  # maps are after the sigmoid
    max_det: int = 100

    @property
    def channels(self) -> int:
        """Those of each map."""
        return len(self.anchors_px[0]) // 2 * (5 + self.nc)

    @property
    def scale_xyxy(self) -> np.ndarray:
        """What the boxes are multiplied with."""
        height, width = self.imgsz_hw if self.as_fractions else (1, 1)
        return np.float32([width, height, width, height])


def v5(tensors: list, setting: Setting) -> np.ndarray:
    return np.concatenate([tensors[0][..., :4] * setting.scale_xyxy, tensors[0][..., 4:]], 2)


def scored(tensors: list, setting: Setting) -> np.ndarray:
    rows = v5(tensors, setting)
    rows[..., 4] = 1
    return rows


def v8(tensors: list, setting: Setting) -> np.ndarray:
    rows = tensors[0].transpose(0, 2, 1)
    return np.concatenate([rows[..., :4] * setting.scale_xyxy, np.ones_like(rows[..., :1]), rows[..., 4:]], 2)


def rows6(tensors: list, setting: Setting) -> np.ndarray:
    """Return raw predictions whose classes but the best one have a score of 0."""
    rows = tensors[0]
    boxes = xyxy2xywh((rows[..., :4] * setting.scale_xyxy).reshape(-1, 4)).reshape(*rows.shape[:2], 4)
    scores = rows[..., 4:5] * (rows[..., 5:6] == np.arange(setting.nc))
    return np.concatenate([boxes, np.ones_like(rows[..., :1]), scores], 2)


def heads(tensors: list, setting: Setting) -> np.ndarray:
    """Return the rows of all maps [B, na * (5 + nc), h, w]: anchors, then rows, then columns of each."""
    decoded = []
    for y, stride, anchors in zip(sorted(tensors, key=lambda y: -y.shape[2]), setting.strides, setting.anchors_px):
        batch, _, height, width = y.shape
        pairs = np.float32(anchors).reshape(-1, 2)
        y = y.reshape(batch, len(pairs), 5 + setting.nc, height, width).transpose(0, 1, 3, 4, 2)
        y = y if setting.activated else 1 / (1 + np.exp(-y))
        cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
        xy = (y[..., :2] * 2 - 0.5 + cells) * np.float32(stride)
        wh = (y[..., 2:4] * 2) ** 2 * pairs[None, :, None, None]
        decoded.append(np.concatenate([xy, wh, y[..., 4:]], -1).reshape(batch, -1, 5 + setting.nc))
    return np.concatenate(decoded, 1)


def e2e(tensors: list, setting: Setting) -> np.ndarray:
    return np.concatenate([tensors[0][..., :4] * setting.scale_xyxy, tensors[0][..., 4:]], 2)


def flat7(tensors: list, setting: Setting, batch: int = 1) -> np.ndarray:
    boxes = np.zeros((batch, setting.max_det, 6), np.float32)
    for image in range(batch):
        rows = tensors[0][tensors[0][:, 0] == image, 1:]
        boxes[image, : len(rows)] = rows
    boxes[..., :4] *= setting.scale_xyxy
    return boxes


def split(tensors: list, setting: Setting) -> np.ndarray:
    location, category, score = tensors
    return np.concatenate([location * setting.scale_xyxy, score[..., None], category[..., None]], 2)


DECODERS: dict[str, Callable] = {f.__name__: f for f in (v5, scored, v8, rows6, heads, e2e, flat7, split)}
