"""Names of YOLOv5's utils.plots that this project does not need itself."""

import copy
import warnings
from pathlib import Path

import numpy as np

from utils.boxes import xyxy2xywh
from utils.plots.palette import PALETTE_RGB, colors
from utils.plots.pictures import Annotator, to_numpy


class Colors:
    """The colours of classes: colors(i) is RGB, colors(i, True) BGR."""

    def __init__(self):
        self.palette = list(PALETTE_RGB)
        self.n = len(self.palette)

    def __call__(self, i: int, bgr: bool = False) -> tuple[int, int, int]:
        return colors(i, bgr)

    @staticmethod
    def hex2rgb(h: str) -> tuple[int, ...]:
        """Return (255, 56, 56) of '#FF3838'."""
        return tuple(int(h[i : i + 2], 16) for i in (1, 3, 5))


def color_list() -> list[tuple[int, int, int]]:
    """Return the colours of the first classes, RGB."""
    return list(PALETTE_RGB)


def check_pil_font(font="", size: int = 10):
    """Return a font of Pillow: that file, or '' for one of the system."""
    image = np.zeros((8, 8, 3), np.uint8)
    return Annotator(image, font_size=size, font=font if Path(str(font)).is_file() else "", pil=True).font


def plot_one_box(x, im: np.ndarray, color=None, label: str | None = None, line_thickness: int = 3) -> None:
    """Draw a box (xyxy, pixels), with a label if there is one, into uint8 [H, W, 3], in place."""
    annotator = Annotator(im, line_width=line_thickness, example=label or "")
    annotator.box_label(x, label or "", tuple(color or (128, 128, 128)))
    if annotator.pil:
        im[:] = annotator.result()


def plot_one_box_PIL(box, im: np.ndarray, color=(128, 128, 128), label=None, line_thickness=None) -> np.ndarray:
    """Return a copy of uint8 [H, W, 3] with a box (xyxy, pixels), and its label if there is one."""
    annotator = Annotator(im.copy(), line_width=line_thickness, pil=True)
    annotator.box_label(box, label or "", tuple(color))
    return annotator.result()


def output_to_target(output, max_det: int = 300) -> np.ndarray:
    """Return NMS results (for each image [n, 6] xyxy, confidence, class) as [N, 7] image, class, xywh, confidence.

    All in pixels; float32.
    """
    rows = [np.zeros((0, 7), np.float32)]
    for i, boxes in enumerate(output):
        boxes = to_numpy(boxes).astype(np.float32)[:max_det, :6].reshape(-1, 6)
        index = np.full((len(boxes), 1), i, np.float32)
        rows.append(np.concatenate([index, boxes[:, 5:6], xyxy2xywh(boxes[:, :4]), boxes[:, 4:5]], 1))
    return np.concatenate(rows)


def plot_lr_scheduler(optimizer, scheduler, epochs: int = 300, save_dir="") -> None:
    """Write LR.png with the learning rate of each epoch; optimizer and scheduler stay as they are."""
    from utils.plots.charts import plot_lr

    optimizer, scheduler = copy.copy(optimizer), copy.copy(scheduler)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects steps of the optimizer between these
        for _ in range(epochs):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    plot_lr(rates.__getitem__, epochs, save_dir or ".")


def hist2d(x, y, n: int = 100) -> np.ndarray:
    """Return for each point (x, y) the logarithm of the number of points near it."""
    counts, x_edges, y_edges = np.histogram2d(x, y, (np.linspace(min(x), max(x), n), np.linspace(min(y), max(y), n)))
    cell = (np.clip(np.digitize(a, edges) - 1, 0, n - 2) for a, edges in ((x, x_edges), (y, y_edges)))
    return np.log(counts[tuple(cell)])


def butter_lowpass_filtfilt(data, cutoff: float = 1500, fs: float = 50000, order: int = 5) -> np.ndarray:
    """Return data [n] without what is faster than `cutoff`, of a sampling rate `fs`. Needs scipy."""
    from scipy.signal import butter, filtfilt

    return filtfilt(*butter(order, cutoff / (fs / 2), btype="low", analog=False), data)


def imshow_cls(
    im, labels=None, pred=None, names=None, nmax: int = 25, verbose: bool = False, f=Path("images.jpg")
) -> Path:
    """Write a picture of classified images [B, 3, H, W] (RGB, 0 to 1) and return its file.

    labels, pred: class numbers [B], true and predicted; names: of the classes.
    """
    from extras.classify.plots import plot_class_images

    targets = np.zeros(len(im), int) if labels is None else to_numpy(labels)
    top = max([*targets.tolist(), *([] if pred is None else to_numpy(pred).tolist())], default=0)
    names = dict(names if isinstance(names, dict) else enumerate(names or [f"class{i}" for i in range(int(top) + 1)]))
    chances = None if pred is None else np.eye(len(names), dtype=np.float32)[to_numpy(pred).astype(int)]
    plot_class_images(im, targets, f, names, chances, nmax)
    return Path(f)
