"""The masks of a picture without their empty surroundings: thousands of them take little memory. Without torch."""

from typing import NamedTuple

import cv2
import numpy as np

from extras.segment.masks import masks_to_polygons, process_mask, process_mask_native, scale_masks
from utils.boxes import scale_boxes

PIXELS_AT_A_TIME = 1 << 26  # in whole masks, a byte each, that are held before they are cropped


class CroppedMask(NamedTuple):
    """A mask that is False but for `pixels`, bool [h, w], whose upper left one is (x, y) of the picture."""

    x: int
    y: int
    pixels: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> "CroppedMask":
        """From a whole mask bool [H, W]."""
        x, y, w, h = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
        return cls(x, y, mask[y : y + h, x : x + w].copy())

    def whole(self, shape_hw) -> np.ndarray:
        """Return the mask bool [H, W] of a picture of that size."""
        mask = np.zeros(shape_hw[:2], bool)
        mask[self._region] = self.pixels
        return mask

    def polygon(self) -> np.ndarray:
        """Return the outline of its largest part, float32 [k, 2] x, y in the picture's pixels; [0, 2] if empty."""
        return masks_to_polygons([self.pixels])[0] + np.float32([self.x, self.y])

    def draw(self, image: np.ndarray, color, alpha: float = 0.5) -> None:
        """Tint its pixels of a uint8 image [H, W, 3], in place; color: three levels."""
        region = image[self._region]
        tinted = region[self.pixels] * (1 - alpha) + np.float32(color) * alpha
        region[self.pixels] = tinted.round().astype(np.uint8)

    @property
    def _region(self):
        h, w = self.pixels.shape
        return np.s_[self.y : self.y + h, self.x : self.x + w]


def cropped_masks(protos, coefficients, boxes_xyxy, input_hw, shape0_hw, ratio_pad, retina: bool = False) -> list:
    """Return the CroppedMask of each of n boxes, in pixels of the original picture of size shape0_hw.

    protos [nm, ph, pw], coefficients [n, nm], boxes [n, 4] in pixels of the letterboxed picture of size input_hw,
    ratio_pad as in utils.boxes.scale_boxes. The masks are decided at the letterboxed size and then enlarged; with
    `retina` at the original's, which costs more and has smooth edges.
    """
    masks, chunk = [], max(PIXELS_AT_A_TIME // int(np.prod(shape0_hw)), 1)
    for start in range(0, len(boxes_xyxy), chunk):
        part = slice(start, start + chunk)
        if retina:
            boxes = _to_original(boxes_xyxy[part], shape0_hw, ratio_pad)
            whole = process_mask_native(protos, coefficients[part], boxes, shape0_hw, ratio_pad)
        else:
            small = process_mask(protos, coefficients[part], boxes_xyxy[part], input_hw, upsample=True)
            whole = scale_masks(input_hw, small, shape0_hw, ratio_pad)
        masks += [CroppedMask.of(mask) for mask in whole]
    return masks


def _to_original(boxes_xyxy, shape0_hw, ratio_pad) -> np.ndarray:
    return scale_boxes((0, 0), np.array(boxes_xyxy, np.float32), shape0_hw, ratio_pad)
