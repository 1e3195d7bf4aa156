"""The true boxes and masks of a batch, and masks from polygons."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from utils.data.polygons import Polygons

FINE = 4  # polygons are drawn at this many times the masks' size, the input's own with the usual --mask-ratio 4
OUTLINE, INSIDE = 127, 254  # levels of pixels on the outline, which is half inside, and within it
FAR_PX = 1e6  # perspective may throw points to infinity; OpenCV needs integers


@dataclass
class MaskTargets:
    """The true objects of B images: their boxes and, where their label is a polygon, their masks.

    boxes: float32 [n, 6] image, class, xywh normalised; the rows of an image follow each other.
    masks: with `overlap` uint8 or int16 [B, h, w], in which k > 0 marks the pixels of the k-th row of the image, and of
    two objects the smaller one is on top; else uint8 [n, h, w] of 0 and 1, the mask of each row.
    has_mask: bool [n], False for a row whose label is a box: it has no pixel.
    polygons: for each image, in validation, the rows' outlines in pixels of the original image; else None.
    """

    boxes: torch.Tensor
    masks: torch.Tensor
    overlap: bool
    has_mask: torch.Tensor
    polygons: list[Polygons] | None = None

    @classmethod
    def from_polygons(cls, boxes, polygons: list[Polygons], shape_hw, ratio=4, overlap=True, originals=None):
        """Return the targets of boxes [n, 6] as above and of each image's polygons, in pixels of shape_hw."""
        if overlap:
            most = max(len(p.counts) for p in polygons)
            dtype = np.uint8 if most < 256 else np.int16
            masks = np.stack([polygons_to_index_map(p, shape_hw, ratio).astype(dtype) for p in polygons])
        else:
            masks = np.concatenate([polygons_to_masks(p, shape_hw, ratio) for p in polygons])
        has_mask = np.concatenate([p.counts > 0 for p in polygons])
        return cls(boxes, torch.from_numpy(masks), overlap, torch.from_numpy(has_mask), originals)

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device, non_blocking: bool = False) -> MaskTargets:
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MaskTargets:
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change) -> MaskTargets:
        return replace(self, boxes=change(self.boxes), masks=change(self.masks), has_mask=change(self.has_mask))

    def image_masks(self, i: int) -> torch.Tensor:
        """Return the masks bool [n_i, h, w] of image i's rows; with `overlap` smaller objects hide larger ones."""
        rows = self.boxes[:, 0] == i
        if not self.overlap:
            return self.masks[rows].bool()
        numbers = torch.arange(1, int(rows.sum()) + 1, device=self.masks.device)
        return self.masks[i] == numbers[:, None, None]


def polygons_to_masks(polygons: Polygons, shape_hw, ratio: int = 1) -> np.ndarray:
    """Return masks uint8 [n, height // ratio, width // ratio] of polygons in pixels of an image of shape_hw.

    A pixel is 1 where the polygon covers half of it or more. A polygon that is in the image but covers half of no pixel
    has the one that it covers most. All zeros for a row without a polygon.
    """
    masks = np.zeros((len(polygons.counts), *_mask_shape(shape_hw, ratio)), np.uint8)
    for row, region, inside in _drawn(polygons, shape_hw, masks.shape[1:]):
        masks[row][region] = inside
    return masks


def polygons_to_index_map(polygons: Polygons, shape_hw, ratio: int = 1) -> np.ndarray:
    """Return the masks in one map int16 [h, w] of 1 + row; smaller ones lie on top of larger ones."""
    index_map = np.zeros(_mask_shape(shape_hw, ratio), np.int16)
    for row, region, inside in sorted(_drawn(polygons, shape_hw, index_map.shape), key=lambda drawn: -drawn[2].sum()):
        index_map[region][inside] = row + 1
    return index_map


def _mask_shape(shape_hw, ratio: int) -> tuple[int, int]:
    if not isinstance(ratio, int) or isinstance(ratio, bool) or not 1 <= ratio <= min(shape_hw):
        raise ValueError(
            f"mask ratio: expected an integer from 1 to {min(shape_hw)}, the image's side, found {ratio!r}"
        )
    return shape_hw[0] // ratio, shape_hw[1] // ratio


def _drawn(polygons: Polygons, shape_hw, mask_hw):
    """Yield (row, region, bool mask of the region) of every polygon that is, at least in part, in the image.

    OpenCV fills the pixels that the outline touches as well, which makes small objects grow by a fifth at the input's
    size, and to twice their area at a quarter of it. So they are drawn large, and the outline counts half.
    """
    h, w = mask_hw
    scale = np.array([w / shape_hw[1], h / shape_hw[0]])
    for row, points in enumerate(polygons.to_list()):
        if len(points) == 0:
            continue
        points = np.nan_to_num(points * scale).clip(-FAR_PX, FAR_PX)
        x1, y1 = np.floor(points.min(0)).astype(int).clip(0, (w, h)).tolist()
        x2, y2 = np.ceil(points.max(0)).astype(int).clip(0, (w, h)).tolist()
        if x1 == x2 or y1 == y2:
            continue
        # the middle of a pixel is 0.5 for a polygon, and 0 for OpenCV
        outline = ((points - (x1, y1)) * FINE - 0.5).round().astype(np.int32)
        canvas = np.zeros(((y2 - y1) * FINE, (x2 - x1) * FINE), np.uint8)
        cv2.fillPoly(canvas, [outline], INSIDE)
        cv2.polylines(canvas, [outline], True, OUTLINE)
        cover = cv2.resize(canvas, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
        most = cover.max()
        if most:
            yield row, np.s_[y1:y2, x1:x2], cover >= min(most, INSIDE // 2)
