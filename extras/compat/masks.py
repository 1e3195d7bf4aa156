"""Names of YOLOv5's utils.segment that this project does not need itself."""

from pathlib import Path

import cv2
import numpy as np

from extras.segment.masks import masks_to_polygons, process_mask
from extras.segment.targets import polygons_to_index_map, polygons_to_masks
from utils import augmentations as aug
from utils import dataloaders
from utils.boxes import letterbox_ratio_pad
from utils.data.polygons import Polygons
from utils.plots.charts import plot_results
from utils.plots.pictures import plot_images, to_numpy


def process_mask_upsample(protos, masks_in, bboxes, shape) -> np.ndarray:
    """Return the masks bool [n, H, W] of boxes at the size `shape` (height, width) of the model's input."""
    return process_mask(protos, masks_in, bboxes, shape, upsample=True)


def scale_image(im1_shape, masks: np.ndarray, im0_shape, ratio_pad=None) -> np.ndarray:
    """Map masks [h, w, n] of a letterboxed image to the original's size: [h0, w0, n] of the same type."""
    (_, _), (pad_w, pad_h) = ratio_pad or letterbox_ratio_pad(im1_shape, im0_shape)
    top, left = round(pad_h - 0.1), round(pad_w - 0.1)
    inner = masks[top : masks.shape[0] - round(pad_h + 0.1), left : masks.shape[1] - round(pad_w + 0.1)]
    scaled = cv2.resize(np.ascontiguousarray(inner), (im0_shape[1], im0_shape[0]))
    return scaled[..., None] if scaled.ndim == 2 else scaled


def masks_iou(mask1, mask2, eps: float = 1e-7):
    """Return the IoU [n] of pairs of masks [n, h * w], 0 or 1."""
    shared = (mask1 * mask2).sum(1)
    return shared / (mask1.sum(1) + mask2.sum(1) - shared + eps)


def masks2segments(masks, strategy: str = "largest") -> list:
    """Return the outline [k, 2] (x, y) of the largest part of each mask [n, h, w]; [0, 2] for an empty one."""
    return masks_to_polygons(to_numpy(masks) > 0.5)


def plot_images_and_masks(images, targets, masks, paths=None, fname="images.jpg", names=None) -> None:
    """Write a mosaic of a batch with its boxes [n, 6] (image, class, xywh normalised) and masks [n, h, w]."""
    targets, masks = to_numpy(targets), to_numpy(masks)
    of_images = [masks[targets[:, 0] == i] for i in range(len(images))]
    plot_images(images, targets, paths, fname, names, masks=of_images)


def plot_results_with_masks(file="path/to/results.csv", dir="", best: bool = True) -> None:
    """Draw the curves of a results.csv, or of each one in the folder `dir`."""
    for csv_file in sorted(Path(dir).glob("results*.csv")) if dir else [Path(file)]:
        plot_results(csv_file)


def create_dataloader(path, imgsz, batch_size, stride, *args, **kwargs) -> tuple:
    """Return (loader, dataset) as utils.dataloaders.create_dataloader does, with masks."""
    names = {"mask_downsample_ratio": "mask_ratio", "overlap_mask": "overlap"}
    options = {names.get(key, key): value for key, value in kwargs.items()}
    return dataloaders.create_dataloader(path, imgsz, batch_size, stride, *args, **{**options, "masks": True})


def _polygons(segments) -> Polygons:
    arrays = [np.asarray(segment, np.float32).reshape(-1, 2) for segment in segments]
    return Polygons.from_list(arrays, len(arrays))


def polygons2masks(img_size, polygons, color: int = 1, downsample_ratio: int = 1) -> np.ndarray:
    """Return masks uint8 [n, h, w] of `color` inside polygons [k, 2] (or flat x y x y ...), in pixels of img_size."""
    return polygons_to_masks(_polygons(polygons), img_size, downsample_ratio) * np.uint8(color)


def polygon2mask(img_size, polygons, color: int = 1, downsample_ratio: int = 1) -> np.ndarray:
    """Return a mask uint8 [h, w] of `color` inside the polygons of one object."""
    return polygons2masks(img_size, polygons, color, downsample_ratio).max(0)


def polygons2masks_overlap(img_size, segments, downsample_ratio: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return (map [h, w], in which k > 0 marks the k-th largest polygon, the smaller on top; their rows in that order).

    img_size: (height, width).
    """
    sizes = polygons2masks(img_size, segments, 1, downsample_ratio).sum((1, 2))
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    return polygons_to_index_map(_polygons([segments[i] for i in order]), img_size, downsample_ratio), order


def mixup(im, labels, segments, im2, labels2, segments2) -> tuple:
    """Blend two images of one shape; the labels and segments of both stay."""
    image, joined = aug.mixup(im, labels, im2, labels2)
    return image, joined, np.concatenate((segments, segments2), 0)


def random_perspective(
    im, targets=(), segments=(), degrees=10, translate=0.1, scale=0.1, shear=10, perspective=0.0, border=(0, 0)
) -> tuple:
    """Do as utils.augmentations.random_perspective; the polygons that are left are returned, too."""
    targets = np.asarray(targets, np.float32).reshape(-1, 5)
    rng, out_hw = np.random.default_rng(), (im.shape[0] + 2 * border[0], im.shape[1] + 2 * border[1])
    warp = aug.random_warp(im.shape, out_hw, rng, degrees, translate, scale, shear, perspective)
    polygons = Polygons.from_list(segments, len(targets))
    targets, polygons = aug.warp_labels(targets, polygons, warp)
    return aug.warp_image(aug.part_of(im, warp.part), warp), targets, polygons.to_list()
