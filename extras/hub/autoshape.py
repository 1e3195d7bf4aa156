"""AutoShape: a detector that takes pictures as people have them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from engine.options.flags import CONF_THRES
from extras.hub.detections import Detections
from utils.augmentations import letterbox
from utils.boxes import scale_boxes
from utils.data.images import read_image, to_uint8
from utils.general import make_divisible
from utils.nms import as_float32, final_boxes
from utils.sources.urls import local_file, shown
from utils.timing import Profile

DEFAULT_IMGSZ_PX = 640
MIN_STRIDE_PX = 32  # a backbone may go deeper than the coarsest head


class AutoShape(nn.Module):
    """A detector for images of any kind and size: letterbox, inference, NMS, boxes in the pixels of each image.

    The thresholds are attributes, to be set by the user: conf (confidence; None for the model's own, if it has any),
    iou (NMS), agnostic and multi_label (NMS), classes (number, or list of numbers, of classes to keep, None for all),
    max_det (boxes per image), amp (mixed precision on a GPU).
    """

    results = Detections
    __module__ = "models.common"  # YOLOv5 has it there, and SAHI looks at this to know a YOLOv5 model

    def __init__(self, model):
        """model: DetectionModel, Ensemble or DetectMultiBackend."""
        super().__init__()
        self.thresholds = getattr(model, "thresholds", None)
        self.conf = None if self.thresholds else CONF_THRES
        self.iou = 0.45
        self.agnostic = False
        self.multi_label = False
        self.classes = None
        self.max_det = 1000
        self.amp = False
        self.fixed_hw = getattr(model, "fixed_hw", None)  # where the file was exported for one size alone
        self.end2end = getattr(model, "end2end", False)
        self.model = model.eval()
        self.names = dict(model.names)
        self.yaml, self.nc, self.hyp = (getattr(model, name, None) for name in ("yaml", "nc", "hyp"))
        self.pt = isinstance(model, nn.Module)
        self.imgsz = getattr(model, "imgsz", None) or DEFAULT_IMGSZ_PX
        if isinstance(layers := getattr(model, "model", None), nn.Sequential):
            # YOLOv5 from v6 on has one shell more: its scripts take a layer as model.model.model.model[-2].
            vars(layers)["model"] = layers
        self.stride = max(MIN_STRIDE_PX, int(torch.as_tensor(model.stride).max()))

    @torch.no_grad()
    def forward(self, ims, size=None, augment=False, profile=False):
        """Detect in one image or a list of images; returns Detections.

        An image is a path, a URL, a PIL image, a numpy array (RGB [H, W, 3] or [3, H, W], or grey [H, W], 0 to 255)
        or a tensor [3, H, W] (RGB, 0 to 1). OpenCV's arrays are BGR: give them as image[..., ::-1].
        A tensor [B, 3, H, W] (0 to 1, sides multiples of the stride) goes straight through the model instead, and what
        the model gives is returned.
        size: the longest side in pixels at inference, or (height, width); None for the size that the model was trained
        with, else 640. augment: test-time augmentation. profile: print the time of every layer.
        """
        if isinstance(ims, torch.Tensor) and ims.ndim == 4:
            return self._infer(ims, augment, profile)
        timers = [Profile(device=self._device()) for _ in range(3)]
        with timers[0]:
            images, files = load_images(ims)
            pictures, ratio_pads = self._pictures(images, self.imgsz if size is None else size)
            batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().to(self._device()) / 255
        with timers[1]:
            output = self._infer(batch, augment, profile)
        with timers[2]:
            pred = self._pred(output, pictures[0].shape[:2], images, ratio_pads)
        return self.results(images, pred, files, [timer.t for timer in timers], self.names, tuple(batch.shape))

    def _pictures(self, images: list[np.ndarray], size: int | Sequence[int]) -> tuple[Sequence[np.ndarray], list]:
        """Return the images, letterboxed to one shape, and for each what scale_boxes() takes as ratio_pad."""
        shape = self.fixed_hw or batch_shape([image.shape[:2] for image in images], size, self.stride)
        padded, ratios_wh, pads_wh = zip(*(letterbox(image, shape, auto=False) for image in images))
        return padded, [(ratio_wh[::-1], pad_wh) for ratio_wh, pad_wh in zip(ratios_wh, pads_wh)]

    def _pred(self, output: Any, shape_hw: tuple, images: list[np.ndarray], ratio_pads: list) -> list:
        """Return what `results` takes for each image, from the model's output for pictures of `shape_hw`."""
        options = {"agnostic": self.agnostic, "multi_label": self.multi_label, "max_det": self.max_det}
        is_own = self.conf is None and self.thresholds is not None
        conf = self.thresholds.conf if is_own else CONF_THRES if self.conf is None else self.conf
        boxes_per_image = final_boxes(output, self.end2end, conf, self.iou, self.classes, **options)
        for boxes, image, ratio_pad in zip(boxes_per_image, images, ratio_pads):
            if is_own:
                boxes[:, 4] = torch.from_numpy(self.thresholds.calibrated(as_float32(boxes[:, 4])))
            scale_boxes(shape_hw, boxes[:, :4], image.shape, ratio_pad)
        return boxes_per_image

    def _device(self) -> torch.device:
        parameter = next(self.parameters(), None)
        device = getattr(self.model, "device", None) if parameter is None else parameter.device
        return device if isinstance(device, torch.device) else torch.device("cpu")

    def _infer(self, batch, augment, profile):
        if not batch.is_floating_point():
            raise TypeError(f"a tensor of images must be floating point, 0 to 1, found {batch.dtype}")
        device = self._device()
        asked = {"augment": augment} if augment else {}  # not every model can
        if not isinstance(self.model, nn.Module):
            return self.model(batch.to(device), **asked)
        dtype = next(self.parameters()).dtype
        with torch.autocast(device.type, enabled=self.amp and device.type != "cpu"):
            return self.model(batch.to(device, dtype), profile=profile, **asked)


def batch_shape(shapes_hw, size, stride: int) -> tuple[int, int]:
    """Return (height, width) of the smallest batch for images of `shapes_hw` with their longest side scaled to `size`.

    Both are multiples of stride. size: pixels, or (height, width).
    """
    size_hw = (size, size) if isinstance(size, int) else tuple(size)
    if len(size_hw) != 2 or min(size_hw) <= 0:
        raise ValueError(f"size must be a positive number or (height, width), found {size!r}")
    sides = [[int(side * max(size_hw) / max(shape)) for side in shape] for shape in shapes_hw]
    return tuple(max(stride, make_divisible(max(side), stride)) for side in zip(*sides))


def load_images(ims) -> tuple[list[np.ndarray], list[str]]:
    """Read one image or a list, as AutoShape takes them: (uint8 RGB [H, W, 3] each, unique .jpg names)."""
    ims = list(ims) if isinstance(ims, (list, tuple)) else [ims]
    if not ims:
        raise ValueError("expected at least one image, found an empty list")
    images, files = [], []
    for i, im in enumerate(ims):
        try:
            image, name = to_rgb(im)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"image {i + 1} of {len(ims)}: {error}") from None
        stem = original = Path(name).stem if name else f"image{i}"
        for number in range(2, len(ims) + 1):
            if f"{stem}.jpg" not in files:
                break
            stem = f"{original}_{number}"
        images.append(image)
        files.append(f"{stem}.jpg")
    return images, files


def to_rgb(im) -> tuple[np.ndarray, str | None]:
    """Turn any image that AutoShape takes into (uint8 RGB [H, W, 3], file name or None)."""
    if isinstance(im, (str, Path)):
        with local_file(str(im)) as file:
            image_bgr = read_image(file, name=shown(str(im)))
        return np.ascontiguousarray(image_bgr[..., ::-1]), str(im).split("?")[0]
    if isinstance(im, Image.Image):
        name, im = getattr(im, "filename", None), ImageOps.exif_transpose(im)
        if im.mode[0] in "IF":  # 16-bit or floating-point grey, which convert() would clip at 255
            return array_to_rgb(to_uint8(np.asarray(im), is_grey=True)), name
        return np.array(im.convert("RGB")), name
    if isinstance(im, torch.Tensor):
        if im.is_floating_point():
            im = (im.float() * 255).round().clamp(0, 255).byte()
        im = im.cpu().numpy()
    if isinstance(im, np.ndarray):
        return array_to_rgb(im), None
    raise TypeError(f"expected a path, URL, PIL image, numpy array or tensor, found {type(im).__name__}")


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """Turn RGB(A) [H, W, 3 or 4] or [3 or 4, H, W], or grey [H, W], [H, W, 1] or [1, H, W] into uint8 RGB [H, W, 3].

    Other types than uint8 are taken too if their values are 0 to 255.
    """
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ValueError(f"expected an image [H, W, 3], found an array of shape {list(array.shape)}")
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        if not (low >= 0 and high <= 255) or (image.dtype.kind == "f" and 0 < high <= 1):
            raise ValueError(f"expected pixel values from 0 to 255, found {image.dtype} from {low} to {high}")
        image = image.astype(np.uint8)
    return np.ascontiguousarray(image[..., :3] if image.shape[2] > 1 else image.repeat(3, 2))
