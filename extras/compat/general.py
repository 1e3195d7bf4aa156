"""Small tools of YOLOv5's utils.general: folders, threads, errors, names, pictures, segments."""

import inspect
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import wraps
from pathlib import Path
from typing import Any
from weakref import WeakSet

import cv2
import numpy as np

from utils.boxes import letterbox_ratio_pad
from utils.data.folder import user_cache_dir
from utils.data.images import read_image, write_image
from utils.extras import load_extra
from utils.files.yaml import save_yaml
from utils.general import ROOT
from utils.logger import LOGGER, setup_logging

FILE = ROOT / "utils" / "general.py"
NUM_THREADS = min(8, max(1, (os.cpu_count() or 1) - 1))
DATASETS_DIR = Path(os.environ.get("YOLOv5_DATASETS_DIR") or ROOT.parent / "datasets")
AUTOINSTALL = False  # nothing is ever installed from here
VERBOSE = os.environ.get("YOLOv5_VERBOSE", "true").lower() == "true"
TQDM_BAR_FORMAT = "{l_bar}{bar:10}{r_bar}"
FONT = "Arial.ttf"
LOGGING_NAME = LOGGER.name
LOGGERS = ("csv", "tb")
NCOLS = shutil.get_terminal_size().columns
CLASSIFIED_PX = 224  # side of the pictures that a second-stage classifier gets


def set_logging(name: str | int | None = None, verbose: bool = True) -> None:
    """Print messages on stdout, as the scripts do. A number instead of a name is the process's rank (YOLOv5 v5)."""
    setup_logging(verbose and (not isinstance(name, int) or name in (-1, 0)))


def user_config_dir(dir: str = "", env_var: str = "") -> Path:
    """Return the user's folder for files of this project; it need not exist."""
    return user_cache_dir()


CONFIG_DIR = user_config_dir()


def get_default_args(func: Callable) -> dict[str, Any]:
    """Return the defaults of a function's arguments, by name."""
    parameters = inspect.signature(func).parameters.items()
    return {name: parameter.default for name, parameter in parameters if parameter.default is not parameter.empty}


def get_latest_run(search_dir: Path | str = ".") -> str:
    """Return the newest last*.pt below a folder, or ''."""
    files = Path(search_dir).rglob("last*.pt")
    return str(max(files, key=lambda file: file.stat().st_mtime_ns, default=""))


def methods(instance: object) -> list[str]:
    """Return the names of the methods of an object, special ones apart."""
    return [name for name in dir(instance) if callable(getattr(instance, name)) and not name.startswith("__")]


def clean_str(s: str) -> str:
    """Return a text with _ for the special characters that an address may have."""
    return re.sub(r"[|@#!¡·$€%&()=?¿^*;:,¨´><+]", "_", s)


def emojis(str: str = "") -> str:
    """Return a text, on Windows without what its terminal cannot show."""
    return str.encode().decode("ascii", "ignore") if sys.platform == "win32" else str


class TryExcept(ContextDecorator):
    """A context, or decorator, that prints an error in place of raising it."""

    def __init__(self, msg: str = "", verbose: bool = True):
        self.msg, self.verbose = msg, verbose

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> bool:
        if error and self.verbose:
            print(f"{self.msg}{': ' if self.msg else ''}{error}")
        return error is None or isinstance(error, Exception)


def try_except(func: Callable) -> Callable:
    """Decorate a function so that it prints an error in place of raising it."""
    return TryExcept()(func)


_started: WeakSet[threading.Thread] = WeakSet()  # by threaded()


def threaded(func: Callable) -> Callable:
    """Decorate a function so that a call runs in a thread of its own, and returns the thread."""

    @wraps(func)
    def start(*args, **kwargs) -> threading.Thread:
        thread = threading.Thread(target=func, args=args, kwargs=kwargs, daemon=True)
        _started.add(thread)
        thread.start()
        return thread

    return start


def join_threads(verbose: bool = False) -> None:
    """Wait for the threads of threaded(); others, such as those of tqdm and of thread pools, may never end."""
    for thread in list(_started):
        if verbose:
            print(f"waiting for {thread.name}")
        thread.join()


def notebook_init(verbose: bool = True):
    """Log what a notebook runs on; returns IPython's module `display`, None where it is not installed."""
    from utils.torch_utils import device_summary, select_device

    setup_logging(verbose)
    LOGGER.info(device_summary(select_device()))
    try:
        from IPython import display
    except ImportError:
        return None
    return display


class Timeout(ContextDecorator):
    """A context, or decorator, that ends what takes longer than so many seconds, where the system has SIGALRM.

    TimeoutError then, unless `suppress_timeout_errors`.
    """

    def __init__(self, seconds: int, *, timeout_msg: str = "", suppress_timeout_errors: bool = True):
        self.seconds, self.message, self.suppress = int(seconds), timeout_msg, suppress_timeout_errors
        self.works = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()

    def _end(self, number, frame) -> None:
        raise TimeoutError(self.message or f"it took more than {self.seconds} s")

    def __enter__(self) -> None:
        if self.works:
            self.before = signal.signal(signal.SIGALRM, self._end)
            signal.alarm(self.seconds)

    def __exit__(self, kind, error, traceback) -> bool:
        if self.works:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, self.before)
        return self.suppress and kind is TimeoutError


class WorkingDirectory(ContextDecorator):
    """A context, or decorator, with another working folder."""

    def __init__(self, new_dir: Path | str):
        self.inside, self.before = new_dir, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self.inside)

    def __exit__(self, kind, error, traceback) -> None:
        os.chdir(self.before)


def imread(path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Return a picture, uint8 [H, W, 3] BGR (or [H, W] with IMREAD_GRAYSCALE); None if it cannot be read."""
    try:
        image = read_image(path)
    except (OSError, ValueError):
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if flags == cv2.IMREAD_GRAYSCALE else image


def imwrite(filename, img: np.ndarray) -> bool:
    """Write a picture, BGR; returns False if that fails."""
    try:
        write_image(filename, img)
    except OSError:
        return False
    return True


def imshow(path, im: np.ndarray) -> None:
    """Show a picture, BGR, in a window of that title."""
    cv2.imshow(str(path), im)


def url2file(url: str) -> str:
    """Return the file name at the end of an address."""
    from pathlib import PurePosixPath
    from urllib.parse import unquote, urlsplit

    return PurePosixPath(unquote(urlsplit(str(url)).path)).name


def unzip_file(file, path=None, exclude=(".DS_Store", "__MACOSX")) -> None:
    """Unpack a zip file into a folder (default: where it lies), without members that have a text of `exclude`."""
    safe_unzip = load_extra("download.files").safe_unzip
    safe_unzip(file, path, lambda name: not any(text in name for text in exclude))


def yaml_save(file="data.yaml", data: dict | None = None) -> None:
    """Write a mapping as a YAML file."""
    save_yaml(file, data or {})


def clip_segments(segments, shape):
    """Cut points [..., 2] (x, y) to an image of shape (height, width), in place; returns them too."""
    segments[..., 0] = segments[..., 0].clip(0, shape[1])
    segments[..., 1] = segments[..., 1].clip(0, shape[0])
    return segments


def scale_segments(img1_shape, segments, img0_shape, ratio_pad=None, normalize: bool = False):
    """Map points [..., 2] of a letterboxed image to the original, in place; returns them too.

    As utils.boxes.scale_boxes does for boxes; with `normalize` they are divided by the original's width and height.
    """
    (ratio_h, ratio_w), (pad_w, pad_h) = ratio_pad or letterbox_ratio_pad(img1_shape, img0_shape)
    segments[..., 0] = (segments[..., 0] - pad_w) / ratio_w
    segments[..., 1] = (segments[..., 1] - pad_h) / ratio_h
    clip_segments(segments, img0_shape)
    if normalize:
        segments[..., 0] /= img0_shape[1]
        segments[..., 1] /= img0_shape[0]
    return segments


def apply_classifier(x: list, model, img, im0) -> list:
    """Keep of each image's boxes those whose class a second model gives, too.

    x: for each image boxes [n, 6] xyxy in pixels of the model's input `img` [B, 3, H, W], confidence, class; they are
    scaled to the original. model: squares [n, 3, 224, 224] of 0 to 1 RGB -> scores [n, classes]. im0: the originals,
    uint8 [H, W, 3] BGR, or the only one.
    """
    import torch

    from utils.boxes import scale_boxes
    from utils.plots.pictures import save_one_box

    originals = [im0] if isinstance(im0, np.ndarray) else im0
    for i, (boxes, original) in enumerate(zip(x, originals)):
        if boxes is None or not len(boxes):
            continue
        scale_boxes(img.shape[2:], boxes[:, :4], original.shape)
        crops = [
            save_one_box(box, original, gain=1.3, pad=30, square=True, BGR=True, save=False) for box in boxes[:, :4]
        ]
        crops = [cv2.resize(crop, (CLASSIFIED_PX, CLASSIFIED_PX))[..., ::-1] for crop in crops]
        squares = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous().float() / 255
        classes = model(squares.to(boxes.device)).argmax(1)
        x[i] = boxes[boxes[:, 5].int() == classes]
    return x
