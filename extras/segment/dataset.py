"""The data set of images with masks: that of detection, whose polygons are kept to the end and drawn."""

from __future__ import annotations

import numpy as np

from extras.segment.targets import MaskTargets
from utils.data.polygons import Polygons
from utils.dataloaders import LoadImagesAndLabels, is_enlarged, merge_quad


class LoadImagesAndMasks(LoadImagesAndLabels):
    """As LoadImagesAndLabels, but an item has a fifth part: the rows' Polygons in pixels of the image.

    A batch is (images, MaskTargets, paths, shapes). mask_ratio: how much smaller than the images its masks are;
    overlap: one map per image, not one mask per object.
    """

    exact_polygons = True

    def __init__(self, *options, mask_ratio: int = 4, overlap: bool = True, **more_options):
        if not isinstance(mask_ratio, int) or isinstance(mask_ratio, bool) or mask_ratio < 1:
            raise ValueError(f"mask ratio: expected an integer of at least 1, found {mask_ratio!r}")
        super().__init__(*options, **more_options)
        self.mask_ratio, self.overlap = mask_ratio, overlap

    def __getitem__(self, key):
        with self.times("augmentation" if self.augment else "loading"):
            return self._item(key)

    def collate_fn(self, items):
        """Make a batch (images [B, 3, H, W], MaskTargets, paths, shapes)."""
        return self._collate(items, with_originals=not self.augment)

    def collate_fn4(self, items):
        """Make a batch of images of twice the size from four each, as in detection."""
        groups = [items[k : k + 4] for k in range(0, len(items), 4)]
        quads = [(*merge_quad([item[:4] for item in group]), _merge_polygons(group)) for group in groups]
        return self._collate(quads, with_originals=False)

    def _collate(self, items, with_originals: bool):
        images, boxes, paths, shapes = LoadImagesAndLabels.collate_fn([item[:4] for item in items])
        polygons = [item[4] for item in items]
        originals = [_in_original(*pair) for pair in zip(polygons, shapes)] if with_originals else None
        shape_hw = tuple(images.shape[2:])
        targets = MaskTargets.from_polygons(boxes, polygons, shape_hw, self.mask_ratio, self.overlap, originals)
        return images, targets, paths, shapes


def _in_original(polygons: Polygons, shapes) -> Polygons:
    """Return polygons of a letterboxed image in pixels of the original."""
    (ratio_h, ratio_w), (left, top) = shapes[1]
    return polygons.moved((polygons.points - np.float32([left, top])) / np.float32([ratio_w, ratio_h]))


def _merge_polygons(group) -> Polygons:
    """Return the polygons of the image that `merge_quad` makes of up to four items."""
    images, _, paths, _, polygons = zip(*group)
    h, w = images[0].shape[1:]
    if is_enlarged(paths):
        return polygons[0].moved(polygons[0].points * 2)
    corners = np.float32([(0, 0), (w, 0), (0, h), (w, h)])
    return Polygons.join([p.moved(p.points + corner) for p, corner in zip(polygons, corners)])
