"""The data set of images and YOLO labels, and its loader.

Nothing is random but by (seed, epoch, index): any number of workers, and a run that was resumed, give the same batches.
"""

import hashlib
import os

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, default_collate

from utils import augmentations as aug
from utils.boxes import xyn2xy, xywhn2xyxy, xyxy2xywhn
from utils.data import mosaic
from utils.data.cache import CachedImages
from utils.data.images import GREY, IMG_FORMATS, chw_rgb, find_images  # noqa: F401 (IMG_FORMATS for YOLOv5's users)
from utils.data.label_files import image_to_label_path, labels_elsewhere
from utils.data.labels import label_cache_path, scan_labels
from utils.data.loader import epoch_loader
from utils.data.polygons import Polygons
from utils.data.sets import scan_parts
from utils.data.store import LabelScan, Paths, join_scans
from utils.extras import lazy, load_extra
from utils.logger import LOGGER
from utils.timing import UNTIMED

# A name that YOLOv5 users import from here, owned by another module.
MOVED = {"VID_FORMATS": "utils.sources.files"}
WARP_KEYS = ("degrees", "translate", "scale", "shear", "perspective")

__getattr__ = lazy(MOVED, __name__)


class LoadImagesAndLabels(CachedImages, Dataset):
    """Images and labels of a folder, list file or list of these. An item is (image, targets, path, shapes):

    image uint8 [3, H, W] RGB; targets float32 [n, 6] = 0 (later the index in the batch), class, xywhn;
    shapes ((h0, w0), ((ratio_h, ratio_w), (pad_w, pad_h))) for utils.boxes.scale_boxes, None under mosaic.
    An item's key is (epoch, index), or an index alone for epoch 0. An image that turns out to be broken only now is
    replaced by a grey one without labels, and logged.
    """

    stand_in = "a grey image without labels"
    exact_polygons = False  # where a mosaic cuts them; boxes do without
    times = UNTIMED  # with --profile a StageTimes

    def __init__(
        self, path, img_size=640, batch_size=16, augment=False, hyp=None, rect=False, image_weights=False,
        cache_images=None, single_cls=False, stride=32, pad=0.0, prefix="", rank=-1, seed=0, nc=None, fixed_hw=None,
        extra=None,
    ):  # fmt: skip
        self.path, self.img_size, self.stride, self.augment, self.seed = path, img_size, stride, augment, seed
        self.fixed_hw = fixed_hw and tuple(fixed_hw)
        self.hyp = dict(hyp or {})
        self.image_weights = image_weights
        self.rect = rect and not image_weights
        self.mosaic = augment and not self.rect
        self._mosaic_until = torch.tensor(float("inf")).share_memory_()  # so that running workers see a change
        self.prefix, self.progress = prefix, rank in (-1, 0)
        self._scan(None if single_cls else nc, extra)
        if single_cls:
            self.labels.values[:, 0] = 0
        self.n = len(self.im_files)
        self.indices = range(self.n)
        self.batch = np.arange(self.n) // batch_size  # batch number of each image, for rect
        if self.rect:
            self._sort_by_aspect(pad)
        self.open_cache(cache_images)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key):
        with self.times("augmentation" if self.augment else "loading"):
            return self._item(key)[:4]

    def _item(self, key):
        """Return the four parts of an item, and its Polygons in pixels of the image."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.mosaic and epoch < self.mosaic_until and self._happens("mosaic", rng):
            image, labels, polygons = self._mosaic(index, rng)
            if self._happens("mixup", rng):
                image2, labels2, polygons2 = self._mosaic(self._others(index, 1, rng)[0], rng)
                image, labels = aug.mixup(image, labels, image2, labels2, rng)
                polygons = Polygons.join([polygons, polygons2])
            shapes = None
        else:
            image, labels, polygons, shapes = self._letterboxed(index)
            if self.augment:
                warp = self._random_warp(image.shape, image.shape[:2], rng)
                image, labels, polygons = self._warped(aug.part_of(image, warp.part), labels, polygons, warp, rng)
        if self.augment:
            aug.augment_hsv(image, *(self.hyp.get(key, 0.0) for key in ("hsv_h", "hsv_s", "hsv_v")), rng)
            for key, axis in (("flipud", 0), ("fliplr", 1)):
                if self._happens(key, rng):
                    image, labels = aug.flip(image, labels, axis)
                    polygons = polygons.mirrored(axis, image.shape[axis])
        pixels, targets = torch.from_numpy(chw_rgb(image)), _target_tensor(labels, image.shape)
        return pixels, targets, self.im_files[index], shapes, polygons

    @property
    def mosaic_until(self) -> float:
        """The epoch from which there is no mosaic."""
        return self._mosaic_until.item()

    @mosaic_until.setter
    def mosaic_until(self, epoch: float) -> None:
        self._mosaic_until.fill_(epoch)

    @property
    def label_files(self) -> list:
        return [image_to_label_path(file) for file in self.im_files]

    def fitted(self, image: np.ndarray, i: int) -> np.ndarray:
        """Return a decoded image with img_size as its longer side."""
        w, h = self.kept_wh(i)
        if image.shape[:2] != (h, w):
            shrinks = image.shape[0] > h or image.shape[1] > w
            interpolation = cv2.INTER_AREA if shrinks and not self.augment else cv2.INTER_LINEAR
            image = cv2.resize(image, (w, h), interpolation=interpolation)
        return image

    def kept_wh(self, i: int) -> tuple[int, int]:
        """Return width and height of load_image's image."""
        width, height = self.shapes[i].tolist()
        return aug.fit_wh(width, height, self.img_size)

    def shrink(self, i: int) -> int:
        """Return how many times image i is larger than what training needs of it."""
        return max(self.shapes[i].tolist()) // self.img_size

    def _scan(self, nc, extra) -> None:
        paths = self.path if isinstance(self.path, (list, tuple)) else [self.path]
        scan, self.known = scan_parts(paths, self._scan_files, nc)
        if extra:
            scan = join_scans(scan, extra)
            if self.known is not None:
                self.known.append(extra.im_files)
        self.im_files, self.labels, self.segments, self.shapes = scan.im_files, scan.labels, scan.segments, scan.shapes

    def _scan_files(self, paths: list, nc: int | None) -> LabelScan:
        path = paths[0] if len(paths) == 1 else paths  # The name of the cache comes from it.
        files = find_images(path)
        scan = scan_labels(files, nc, label_cache_path(files, str(path)), self.prefix, self.progress)
        if not scan.im_files:
            raise ValueError(f"{path}: none of the {len(files)} images can be used; the first: {scan.problems[0]}")
        if not scan.found:
            folder = os.path.dirname(image_to_label_path(files[0]))
            LOGGER.warning(
                f"{self.prefix}no labels found in {folder}: every image counts as background{labels_elsewhere(files)}"
            )
        return scan

    def _sort_by_aspect(self, pad: float) -> None:
        """Order the images by height / width, so that the images of a batch have like shapes, and set batch_shapes."""
        aspect = self.shapes[:, 1] / self.shapes[:, 0]
        order = aspect.argsort(kind="heapsort")  # ties in the order that YOLOv5 numbers depend on, whatever the CPU
        self.im_files = Paths(self.im_files[i] for i in order)
        self.labels, self.segments = self.labels.reordered(order), self.segments.reordered(order)
        self.shapes, aspect = self.shapes[order], aspect[order]
        if self.known is not None:
            self.known.reorder(order)
        firsts = np.flatnonzero(np.diff(self.batch, prepend=-1))
        flattest, tallest = aspect[firsts], aspect[np.append(firsts[1:], self.n) - 1]
        # height and width relative to the long side, with room for every image of the batch
        height = np.where(tallest < 1, tallest, 1)
        width = np.where(flattest > 1, 1 / flattest, 1)
        sides = np.stack([height, width], 1) * self.img_size / self.stride + pad
        self.batch_shapes = np.ceil(sides).astype(int) * self.stride  # [batches, 2] height, width

    def _raw(self, i: int):
        """Return (image as `load_image` gives it, labels [n, 5] class, xywhn, normalised Polygons)."""
        with self.times("loading"):
            image = self.load_image(i)
        if i in self.unreadable:
            return image, np.zeros((0, 5), np.float32), Polygons.none(0)
        return image, self.labels[i], Polygons(*self.segments.flat(i))

    def _happens(self, key: str, rng) -> bool:
        return rng.random() < self.hyp.get(key, 0.0)

    def _others(self, index: int, count: int, rng) -> list[int]:
        """Return numbers of images to be seen together with image `index`, which answer for the same classes."""
        if self.known is None:
            return rng.integers(self.n, size=count).tolist()
        alike = self.known.alike(index)
        return alike[rng.integers(len(alike), size=count)].tolist()

    def _mosaic(self, index: int, rng):
        """Put it among 3 or 8 others: (image [imgsz, imgsz, 3], labels [n, 5] class, xyxy in pixels, Polygons)."""
        count = 9 if self._happens("mosaic9", rng) else 4
        chosen = [index, *self._others(index, count - 1, rng)]
        chosen = [chosen[k] for k in rng.permutation(count).tolist()]
        tiles = mosaic.mosaic_tiles([self.kept_wh(i) for i in chosen], self.img_size, rng)
        warp = self._random_warp((2 * self.img_size,) * 2, (self.img_size,) * 2, rng)
        # Pictures that are not seen are not read, and have no labels that are seen.
        seen = [k for k, tile in enumerate(tiles) if tile.is_in(warp.part)]
        tiles = [tiles[k] for k in seen]
        raws = [self._raw(chosen[k]) for k in seen]
        canvas = mosaic.paste([raw[0] for raw in raws], tiles, warp.part)
        labels, polygons = mosaic.place_labels(
            tiles, [raw[1] for raw in raws], [raw[2] for raw in raws], self.exact_polygons
        )
        return self._warped(canvas, labels, polygons, warp, rng)

    def _letterboxed(self, i: int):
        """Return (image, labels [n, 5] class, xyxy in pixels, Polygons, shapes) of one image, not augmented."""
        image, labels, polygons = self._raw(i)
        (h, w), (w0, h0) = image.shape[:2], self.shapes[i].tolist()
        target_hw = tuple(self.batch_shapes[self.batch[i]].tolist()) if self.rect else self.fixed_hw or self.img_size
        boxed, ratio, pad = aug.letterbox(image, target_hw, auto=False, scaleup=self.augment)
        w, h = w * ratio[0], h * ratio[1]
        left, top = round(pad[0] - 0.1), round(pad[1] - 0.1)
        labels = np.concatenate([labels[:, :1], xywhn2xyxy(labels[:, 1:], w, h, left, top)], 1)
        polygons = polygons.moved(xyn2xy(polygons.points, w, h, left, top))
        boxed = boxed.copy() if boxed is image and self.augment else boxed  # The augmentation writes into it.
        return boxed, labels, polygons, ((h0, w0), ((h / h0, w / w0), (left, top)))

    def _random_warp(self, in_hw, out_hw, rng) -> aug.Warp:
        return aug.random_warp(in_hw, out_hw, rng, *(self.hyp.get(key, 0.0) for key in WARP_KEYS))

    def _warped(self, part, labels, polygons, warp, rng):
        """Return (image, labels, polygons) after warp and copy-paste; part: of the image, as the warp wants it."""
        image = aug.warp_image(part, warp)
        labels, polygons = aug.warp_labels(labels, polygons, warp)
        share = self.hyp.get("copy_paste", 0.0)
        if share and len(polygons.points):
            image, labels, segments = aug.copy_paste(image, labels, polygons.to_list(), share, rng)
            polygons = Polygons.from_list(segments, len(labels))
        return image, labels, polygons

    @staticmethod
    def collate_fn(items):
        """Make a batch (images [B, 3, H, W], targets [n, 6] with the image's index in column 0, paths, shapes)."""
        images, targets, paths, shapes = zip(*items)
        for i, rows in enumerate(targets):
            rows[:, 0] = i
        return default_collate(images), torch.cat(targets), paths, shapes

    @staticmethod
    def collate_fn4(items):
        """Four images become one of twice the size, at random one of them enlarged or all in a square (--quad)."""
        quads = [merge_quad(items[k : k + 4]) for k in range(0, len(items), 4)]
        return LoadImagesAndLabels.collate_fn(quads)


def _target_tensor(labels: np.ndarray, image_shape) -> torch.Tensor:
    """Turn [n, 5] class, xyxy in pixels into float32 [n, 6] 0, class, xywhn, cut to the image."""
    targets = np.zeros((len(labels), 6), np.float32)
    if len(labels):
        h, w = image_shape[:2]
        targets[:, 1] = labels[:, 0]
        targets[:, 2:] = xyxy2xywhn(labels[:, 1:], w, h, clip=True, eps=1e-3)
    return torch.from_numpy(targets)


def is_enlarged(paths) -> bool:
    """Tell whether --quad enlarges the first of these or puts all in a square: random, but equal in any worker."""
    return hashlib.sha256(os.fsencode("".join(paths))).digest()[0] % 2 == 1


def merge_quad(items):
    """Make one item of twice the size from up to four."""
    images, targets, paths, shapes = zip(*items)
    h, w = images[0].shape[1:]
    if is_enlarged(paths):
        image = F.interpolate(images[0][None].float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        return image[0].round().to(torch.uint8), targets[0], paths[0], shapes[0]
    square = torch.full((3, 2 * h, 2 * w), GREY, dtype=torch.uint8)
    for k, (image, rows) in enumerate(zip(images, targets)):
        top, left = divmod(k, 2)
        square[:, top * h : (top + 1) * h, left * w : (left + 1) * w] = image
        rows[:, 2:] /= 2
        rows[:, 2:4] += torch.tensor([left, top]) / 2
    return square, torch.cat(targets), paths[0], None


def create_dataloader(
    path, imgsz, batch_size, stride, single_cls=False, hyp=None, augment=False, cache=None, pad=0.0, rect=False,
    rank=-1, workers=8, image_weights=False, quad=False, prefix="", shuffle=False, seed=0, nc=None, names=None,
    fixed_hw=None, masks=False, mask_ratio=4, overlap=True, extra=None,
):  # fmt: skip
    """Return (loader, dataset) for a folder, a list file or a list of these.

    batch_size is the rank's; imgsz the square side or the longer side in pixels; cache as for --cache; pad the
    extra border of rect batches in strides; nc (or names) makes a class beyond it an error of its label file;
    fixed_hw (height, width) of a batch that is neither rect nor square.
    A batch is (images uint8 [B, 3, H, W] RGB, targets float32 [n, 6] image, class, xywhn, paths, shapes). With `masks`
    the targets are MaskTargets of extras.segment.targets, their masks `mask_ratio` times smaller than the images, in
    one map per image (overlap) or one per object.
    `extra`: a LabelScan of images that come after those of `path`.
    Call loader.sampler.set_epoch(epoch) before each epoch.
    """
    nc = len(names) if nc is None and names else nc
    options = (
        path, imgsz, batch_size, augment, hyp, rect, image_weights,
        cache, single_cls, stride, pad, prefix, rank, seed, nc, fixed_hw, extra,
    )  # fmt: skip
    if masks:
        dataset = load_extra("segment.dataset").LoadImagesAndMasks(*options, mask_ratio=mask_ratio, overlap=overlap)
    else:
        dataset = LoadImagesAndLabels(*options)
    if quad and dataset.known is not None:
        raise ValueError("--quad makes one image of four, which must answer for the same classes; leave it away")
    collate = dataset.collate_fn4 if quad else dataset.collate_fn
    order = {"shuffle": shuffle, "rect": dataset.rect, "seed": seed, "rank": rank}
    return epoch_loader(dataset, batch_size, workers, collate, **order), dataset
