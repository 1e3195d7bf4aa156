"""The predictions of val.py --tile: from the original pictures, in the pixels of the loader's."""

import numpy as np
import torch

from extras.tile.tiler import Tiler
from utils.data.images import read_image


class TiledPredictions:
    """A function (paths, shapes) -> boxes [B, n, 6] with zeros at the end, as a model with its own NMS gives them."""

    def __init__(self, tiler: Tiler):
        self.tiler = tiler

    def __call__(self, paths, shapes) -> torch.Tensor:
        """Find the boxes of a batch; shapes: of each image, as a loader of utils/dataloaders.py gives them."""
        found = [self._boxes(path, *shape) for path, shape in zip(paths, shapes)]
        output = np.zeros((len(found), max(map(len, found), default=0), 6), np.float32)
        for row, boxes in zip(output, found):
            row[: len(boxes)] = boxes
        return torch.from_numpy(output)

    def _boxes(self, path, native_hw, ratio_pad) -> np.ndarray:
        image = np.ascontiguousarray(read_image(path)[..., ::-1])
        boxes = self.tiler.find_boxes(image)
        (ratio_h, ratio_w), (pad_w, pad_h) = ratio_pad
        scale = np.array([ratio_w, ratio_h, ratio_w, ratio_h], np.float32)
        boxes[:, :4] = boxes[:, :4] * scale + np.array([pad_w, pad_h, pad_w, pad_h], np.float32)
        return boxes
