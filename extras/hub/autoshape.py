"""AutoShape: a detector that takes pictures as people have them. Detections: its boxes, to print, draw, crop, save."""

import copy
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from utils.augmentations import letterbox
from utils.boxes import scale_boxes, xyxy2xywh
from utils.data.images import read_image, write_image
from utils.general import Profile, counted, describe_classes, increment_path, make_divisible
from utils.logger import LOGGER
from utils.nms import final_boxes
from utils.plots.pictures import Annotator, colors, save_one_box

URL_TIMEOUT_S = 10
DEFAULT_IMGSZ_PX = 640
MIN_STRIDE_PX = 32  # a backbone may go deeper than the coarsest head


class AutoShape(nn.Module):
    """A detector for images of any kind and size: letterbox, inference, NMS, boxes in the pixels of each image.

    The thresholds are attributes, to be set by the user: conf (confidence), iou (NMS), agnostic and multi_label (NMS),
    classes (list of class numbers to keep, None for all), max_det (boxes per image), amp (mixed precision on a GPU).
    """

    def __init__(self, model):
        """model: DetectionModel, Ensemble or DetectMultiBackend."""
        super().__init__()
        self.conf = 0.25
        self.iou = 0.45
        self.agnostic = False
        self.multi_label = False
        self.classes = None
        self.max_det = 1000
        self.amp = False
        self.fixed_hw = getattr(model, "fixed_hw", None)  # of a file that was exported for one size alone
        self.end2end = getattr(model, "end2end", False)
        self.model = model.eval()
        self.names = dict(model.names)
        self.imgsz = getattr(model, "imgsz", None) or DEFAULT_IMGSZ_PX
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
            shapes_hw = [image.shape[:2] for image in images]
            shape = self.fixed_hw or batch_shape(shapes_hw, self.imgsz if size is None else size, self.stride)
            padded, ratios_wh, pads_wh = zip(*(letterbox(image, shape, auto=False) for image in images))
            batch = torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2).contiguous().to(self._device()) / 255
        with timers[1]:
            output = self._infer(batch, augment, profile)
        with timers[2]:
            options = {"agnostic": self.agnostic, "multi_label": self.multi_label, "max_det": self.max_det}
            boxes_per_image = final_boxes(output, self.end2end, self.conf, self.iou, self.classes, **options)
            for boxes, image, ratio_wh, pad_wh in zip(boxes_per_image, images, ratios_wh, pads_wh):
                scale_boxes(shape, boxes[:, :4], image.shape, (ratio_wh[::-1], pad_wh))
        return Detections(images, boxes_per_image, files, [timer.t for timer in timers], self.names, tuple(batch.shape))

    def _device(self) -> torch.device:
        parameter = next(self.parameters(), None)
        device = getattr(self.model, "device", None) if parameter is None else parameter.device
        return device if isinstance(device, torch.device) else torch.device("cpu")

    def _infer(self, batch, augment, profile):
        if not batch.is_floating_point():
            raise TypeError(f"a tensor of images must be floating point, 0 to 1, found {batch.dtype}")
        device = self._device()
        if not isinstance(self.model, nn.Module):
            return self.model(batch.to(device), augment=augment)
        dtype = next(self.parameters()).dtype
        with torch.autocast(device.type, enabled=self.amp and device.type != "cpu"):
            return self.model(batch.to(device, dtype), augment=augment, profile=profile)


def batch_shape(shapes_hw, size, stride: int):
    """(height, width) of the smallest batch for images of `shapes_hw` with their longest side scaled to `size`.

    Both are multiples of stride. size: pixels, or (height, width).
    """
    size_hw = (size, size) if isinstance(size, int) else tuple(size)
    if len(size_hw) != 2 or min(size_hw) <= 0:
        raise ValueError(f"size must be a positive number or (height, width), found {size!r}")
    sides = [[int(side * max(size_hw) / max(shape)) for side in shape] for shape in shapes_hw]
    return tuple(max(stride, make_divisible(max(side), stride)) for side in zip(*sides))


def load_images(ims):
    """One image or a list, as AutoShape takes them -> (list of uint8 RGB [H, W, 3], list of unique .jpg names)."""
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


def to_rgb(im):
    """Any image that AutoShape takes -> (uint8 RGB [H, W, 3], file name or None)."""
    if isinstance(im, (str, Path)):
        read = read_url if str(im).startswith(("http://", "https://")) else read_image
        return np.ascontiguousarray(read(im)[..., ::-1]), str(im).split("?")[0]
    if isinstance(im, Image.Image):
        name, im = getattr(im, "filename", None), ImageOps.exif_transpose(im)
        if im.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
            return array_to_rgb(np.asarray(im) // 256), name
        return np.array(im.convert("RGB")), name
    if isinstance(im, torch.Tensor):
        if im.is_floating_point():
            im = (im.float() * 255).round().clamp(0, 255).byte()
        im = im.cpu().numpy()
    if isinstance(im, np.ndarray):
        return array_to_rgb(im), None
    raise TypeError(f"expected a path, URL, PIL image, numpy array or tensor, found {type(im).__name__}")


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """RGB(A) [H, W, 3 or 4] or [3 or 4, H, W], or grey [H, W], [H, W, 1] or [1, H, W] -> uint8 RGB [H, W, 3].

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


def read_url(url) -> np.ndarray:
    """Download an image that the user named: uint8 BGR [H, W, 3]. OSError if the server does not answer in time."""
    request = urllib.request.Request(str(url), headers={"User-Agent": "Mozilla/5.0"})
    with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as response:
        data = response.read()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        file.write_bytes(data)
        try:
            return read_image(file)
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), str(url))) from None


class Detections:
    """The boxes of a batch of images. All lists have one entry for each image.

    ims    uint8 RGB [H, W, 3]           files  names for saving, unique       names  {class number: name}
    pred   [n, 6] xyxy px, confidence, class, by falling confidence; the same as
    xyxy   and with other boxes: xywh (centre, px), xyxyn and xywhn (fractions of the image's sides)
    n      number of images              s      shape of the batch at inference
    times  seconds of pre-process, inference and NMS for the batch; t: milliseconds of each per image
    """

    BOX_COLUMNS = {"xyxy": ["xmin", "ymin", "xmax", "ymax"], "xywh": ["xcenter", "ycenter", "width", "height"]}

    def __init__(self, ims, pred, files, times=(0.0, 0.0, 0.0), names=None, shape=None):
        self.ims = ims
        self.pred = pred
        self.names = names or {}
        self.files = files
        self.times = tuple(times)
        self.xyxy = pred
        self.xywh = [xyxy2xywh(boxes) for boxes in pred]
        sides = [boxes.new_tensor([*im.shape[1::-1], *im.shape[1::-1], 1, 1]) for boxes, im in zip(pred, ims)]
        self.xyxyn = [boxes / side for boxes, side in zip(self.xyxy, sides)]
        self.xywhn = [boxes / side for boxes, side in zip(self.xywh, sides)]
        self.n = len(pred)
        self.t = tuple(1000 * seconds / self.n for seconds in self.times)
        self.s = shape

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Detections of {counted(self.n, 'image')}\n{self}"

    def __str__(self) -> str:
        lines = [
            f"image {i + 1}/{self.n}: {im.shape[0]}x{im.shape[1]} {self._count(boxes)}"
            for i, (im, boxes) in enumerate(zip(self.ims, self.pred))
        ]
        speed = "{:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image".format(*self.t)
        return "\n".join([*lines, f"Speed: {speed} at shape {self.s}"])

    def _count(self, boxes) -> str:
        """'2 dogs, 1 cat' for one image's boxes."""
        return describe_classes(boxes[:, 5].tolist(), self.names)

    def _name(self, cls) -> str:
        return str(self.names.get(int(cls), int(cls)))

    def _label(self, conf, cls) -> str:
        return f"{self._name(cls)} {conf:.2f}"

    def print(self) -> None:
        """Print what was found in each image, and the speed."""
        print(self)

    def pandas(self) -> "Detections":
        """A copy whose xyxy, xyxyn, xywh and xywhn hold DataFrames with columns for box, confidence, class and name."""
        import pandas as pd

        tables = copy.copy(self)
        for field in ("xyxy", "xyxyn", "xywh", "xywhn"):
            columns = [*self.BOX_COLUMNS[field[:4]], "confidence", "class"]
            frames = [pd.DataFrame(boxes.cpu().numpy(), columns=columns) for boxes in getattr(self, field)]
            for frame in frames:
                frame["class"] = frame["class"].astype(int)
                frame["name"] = [self._name(cls) for cls in frame["class"]]
            setattr(tables, field, frames)
        return tables

    def tolist(self) -> list:
        """The same detections as one Detections for each image."""
        rows = zip(self.ims, self.pred, self.files)
        seconds = [milliseconds / 1000 for milliseconds in self.t]
        return [Detections([im], [pred], [file], seconds, self.names, self.s) for im, pred, file in rows]

    def _drawn(self, labels: bool) -> list:
        """Copies of the images with their boxes."""
        drawn = []
        for im, boxes in zip(self.ims, self.pred):
            annotator = Annotator(im.copy(), example=str(self.names))
            for *box, conf, cls in boxes.flip(0).tolist():  # the most confident box is drawn last
                annotator.box_label(box, self._label(conf, cls) if labels else "", color=colors(cls))
            drawn.append(annotator.result())
        return drawn

    def render(self, labels: bool = True) -> list:
        """Put images with their boxes drawn in the place of `ims`, and return them."""
        self.ims = self._drawn(labels)
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Draw the boxes and open each image in a viewer, or below the cell of a notebook."""
        for im in self._drawn(labels):
            display(Image.fromarray(im))

    def save(self, labels: bool = True, save_dir="runs/detect/exp", exist_ok: bool = False) -> None:
        """Draw the boxes and write each image to `save_dir`, which gets a number if it exists, unless `exist_ok`."""
        folder = increment_path(save_dir, exist_ok, mkdir=True)
        for im, file in zip(self._drawn(labels), self.files):
            write_image(folder / file, im[..., ::-1])
        LOGGER.info(f"Saved {counted(self.n, 'image')} to {folder}")

    def crop(self, save: bool = True, save_dir="runs/detect/exp", exist_ok: bool = False) -> list:
        """Cut every box out: a list of {"box", "conf", "cls", "label", "im"}, with im uint8 BGR [h, w, 3].

        save: also write them to save_dir/crops/CLASS/FILE.jpg, FILE2.jpg ...
        """
        folder = increment_path(save_dir, exist_ok, mkdir=True) if save else None
        crops = []
        for im, boxes, name in zip(self.ims, self.pred, self.files):
            for row in boxes:
                box, conf, cls = row[:4], row[4], row[5]
                file = folder / "crops" / safe_name(self._name(cls)) / name if save else None
                cut = save_one_box(box, im, file=file, save=save)
                crops.append({"box": box, "conf": conf, "cls": cls, "label": self._label(conf, cls), "im": cut})
        if save:
            LOGGER.info(f"Saved {counted(len(crops), 'crop')} to {folder}")
        return crops


def safe_name(name: str) -> str:
    """A class name as the name of one folder."""
    return name.replace("/", "_").replace("\\", "_").strip(". ") or "_"


def display(image: Image.Image) -> None:
    """Show in the running notebook, else in the system's viewer."""
    try:
        from IPython import get_ipython
        from IPython.display import display as display_in_notebook
    except ImportError:
        image.show()
        return
    display_in_notebook(image) if get_ipython() else image.show()
