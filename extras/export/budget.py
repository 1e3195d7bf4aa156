"""What INT8 loses: on the pictures that were measured, and at most on others of their kind."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.hooks import ValHook
from utils.extras import load_extra

QUANTILE = 0.95  # Of the resamples. With 60 pictures and rare errors the bound held for nine samples of ten.


class Measured(NamedTuple):
    """The figures of a file on the val split. `images`: extras.compare.matching.ImageMatches, by path."""

    ap: float  # mAP50-95, 0 to 1
    ms: float  # for an image
    images: Sequence = ()


class Loss(NamedTuple):
    """Points of mAP50-95 (0 to 100) that a file loses against float32."""

    points: float
    at_most: float  # on other pictures like these, nine times of ten; equal to points where no images are given


def loss(before: Measured, after: Measured) -> Loss:
    """Return what `after` loses against `before`, measured on the same images in the same order.

    The bound is that of a paired bootstrap over the images, of which at least two are needed. ImportError without
    extras/compare.
    """
    points = (before.ap - after.ap) * 100
    if len(before.images) < 2:
        return Loss(points, points)
    bootstrap, matching = load_extra("compare.bootstrap"), load_extra("compare.matching")
    weights = bootstrap.sample_weights(len(before.images))
    ap = [bootstrap.mean_ap(matching.weighted_ap(one.images, weights)[1])[1] for one in (before, after)]
    lost = (ap[0] - ap[1]) * 100
    margin = np.quantile(bootstrap.resampled(lost), QUANTILE) - lost[0]
    return Loss(points, points + max(float(margin), 0.0))


class ImageCollector(ValHook):
    """The images of a validation, matched with their true boxes as COCO's protocol does it."""

    def __init__(self, names: dict[int, str]):
        self.evidence = load_extra("compare.records").Evidence(names)

    def add(self, path, boxes, truth) -> None:
        self.evidence.add(path, boxes, truth)

    @property
    def images(self) -> list:
        """The matches of all images, in the order of their paths."""
        paths = self.evidence.images
        matches = load_extra("compare.matching").match_images(self.evidence)
        return [matches[i] for i in sorted(range(len(paths)), key=paths.__getitem__)]
