"""Detections: the boxes that AutoShape found, to print, draw, crop, save, or take into pandas."""

import copy
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.predict.names import safe_name
from utils.boxes import xyxy2xywh
from utils.console.text import counted, describe_classes
from utils.data.images import write_image
from utils.general import increment_path
from utils.logger import LOGGER
from utils.plots.pictures import Annotator, colors, save_one_box

if TYPE_CHECKING:
    from pandas import DataFrame


class Results:
    """The results of a model for a batch of images, to print, draw and save. All lists have an entry for each image.

    ims    uint8 RGB [H, W, 3]           files  names for saving, unique       names  {class number: name}
    pred   what was found in it
    n      number of images              s      shape of the batch at inference
    times  seconds of pre-process, inference and the last step for the batch; t: milliseconds of each per image
    """

    last_step = ""

    def __init__(self, ims, pred, files, times=(0.0, 0.0, 0.0), names=None, shape=None):
        self.ims = ims
        self.pred = pred
        self.names = names or {}
        self.files = files
        self.times = tuple(times)
        self.n = len(pred)
        self.t = tuple(1000 * seconds / self.n for seconds in self.times)
        self.s = shape

    def __len__(self) -> int:
        return self.n

    @property
    def imgs(self) -> list[np.ndarray]:
        """The images, as YOLOv5 until v6.1 calls `ims`."""
        return self.ims

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {counted(self.n, 'image')}\n{self}"

    def __str__(self) -> str:
        lines = [
            f"image {i + 1}/{self.n}: {im.shape[0]}x{im.shape[1]} {self._summary(pred)}"
            for i, (im, pred) in enumerate(zip(self.ims, self.pred))
        ]
        speed = "{:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms {} per image".format(*self.t, self.last_step)
        return "\n".join([*lines, f"Speed: {speed} at shape {self.s}"])

    def _summary(self, pred) -> str:
        """Return in a few words what was found in an image."""
        raise NotImplementedError

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        """Return copies of the images with what was found in them."""
        raise NotImplementedError

    def _name(self, cls) -> str:
        return str(self.names.get(int(cls), int(cls)))

    def _frame(self, columns: list[str], numbers: np.ndarray, classes: list) -> "DataFrame":
        """Return a DataFrame of `numbers` [n, len(columns)], class (int64) and name (str): also without a row."""
        import pandas as pd

        frame = pd.DataFrame(numbers, columns=columns)
        frame["class"] = np.array(classes, np.int64)
        frame["name"] = pd.Series([self._name(cls) for cls in classes], dtype=str)
        return frame

    def print(self) -> None:
        """Print what was found in each image, and the speed."""
        print(self)

    def tolist(self) -> list:
        """Return the same results as one object for each image."""
        rows = zip(self.ims, self.pred, self.files)
        seconds = [milliseconds / 1000 for milliseconds in self.t]
        return [type(self)([im], [pred], [file], seconds, self.names, self.s) for im, pred, file in rows]

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Replace `ims` by images with what was found drawn on them, and return them."""
        self.ims = self._drawn(labels)
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Draw, and open each image in a viewer, or below the cell of a notebook."""
        for im in self._drawn(labels):
            display(Image.fromarray(im))

    def save(self, labels: bool = True, save_dir="runs/detect/exp", exist_ok: bool = False) -> None:
        """Draw, and write each image to `save_dir`, which gets a number if it exists, unless `exist_ok`."""
        folder = increment_path(save_dir, exist_ok, mkdir=True)
        for im, file in zip(self._drawn(labels), self.files):
            write_image(folder / file, im[..., ::-1])
        LOGGER.info(f"Saved {counted(self.n, 'image')} to {folder}")


class Detections(Results):
    """The boxes of a batch of images, as Results.

    pred   [n, 6] xyxy px, confidence, class, by falling confidence; the same as
    xyxy   and with other boxes: xywh (centre, px), xyxyn and xywhn (fractions of the image's sides)
    """

    BOX_COLUMNS = {"xyxy": ["xmin", "ymin", "xmax", "ymax"], "xywh": ["xcenter", "ycenter", "width", "height"]}
    last_step = "NMS"

    def __init__(self, ims, pred, files, times=(0.0, 0.0, 0.0), names=None, shape=None):
        super().__init__(ims, pred, files, times, names, shape)
        self.xyxy = pred
        self.xywh = [xyxy2xywh(boxes) for boxes in pred]
        sides = [boxes.new_tensor([*im.shape[1::-1], *im.shape[1::-1], 1, 1]) for boxes, im in zip(pred, ims)]
        self.xyxyn = [boxes / side for boxes, side in zip(self.xyxy, sides)]
        self.xywhn = [boxes / side for boxes, side in zip(self.xywh, sides)]

    def _summary(self, pred) -> str:
        """Return '2 dogs, 1 cat' for one image's boxes."""
        return describe_classes(pred[:, 5].tolist(), self.names)

    def _label(self, conf, cls) -> str:
        return f"{self._name(cls)} {conf:.2f}"

    def pandas(self) -> "Detections":
        """Return a copy whose xyxy, xyxyn, xywh and xywhn hold DataFrames: box, confidence, class and name."""
        tables = copy.copy(self)
        for field in ("xyxy", "xyxyn", "xywh", "xywhn"):
            columns = [*self.BOX_COLUMNS[field[:4]], "confidence"]
            frames = [self._frame(columns, b[:, :5].cpu().numpy(), b[:, 5].tolist()) for b in getattr(self, field)]
            setattr(tables, field, frames)
        return tables

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        drawn = []
        for im, boxes in zip(self.ims, self.pred):
            annotator = Annotator(im.copy(), example=str(self.names))
            for *box, conf, cls in boxes.flip(0).tolist():  # the most confident box is drawn last
                annotator.box_label(box, self._label(conf, cls) if labels else "", color=colors(cls))
            drawn.append(annotator.result())
        return drawn

    def crop(self, save: bool = True, save_dir="runs/detect/exp", exist_ok: bool = False) -> list[dict]:
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


def display(image: Image.Image) -> None:
    """Show in the running notebook, else in the system's viewer."""
    try:
        from IPython import get_ipython
        from IPython.display import display as display_in_notebook
    except ImportError:
        image.show()
        return
    display_in_notebook(image) if get_ipython() else image.show()
