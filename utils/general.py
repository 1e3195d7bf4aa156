"""Names of files and run folders, seeds, the guard around main(), and YOLOv5's names for what lives elsewhere."""

import gc
import math
import os
import random
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.console.text import did_you_mean
from utils.extras import lazy
from utils.logger import LOGGER, colorstr

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.1.0"
EMBEDDED_WEIGHTS = ROOT / "weights" / "edgevit_xxs_things.pt"  # of real things: docs/weights.md
SHAPES_WEIGHTS = ROOT / "weights" / "edgevit_xxs_shapes.pt"  # of the drawn shapes in data/shapes.yaml
RELEASED = re.compile("yolov5[nsmlx]6?(-seg|-cls)?")  # YOLOv5's weights, without their suffix
COCO_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # among 1..90; the other 80 are the classes

# names that YOLOv5 users import from here -> the module that owns them, imported on first use
BOX_FUNCTIONS = (
    *("clip_boxes", "scale_boxes", "resample_segments", "segment2box", "segments2boxes"),
    *("xywh2xyxy", "xywhn2xyxy", "xyn2xy", "xyxy2xywh", "xyxy2xywhn"),
)
MOVED = {
    "non_max_suppression": "utils.nms",
    "load_yaml": "utils.files.yaml",
    "save_yaml": "utils.files.yaml",
    "check_dataset": "utils.data.config",
    "intersect_dicts": "utils.checkpoint",
    "strip_optimizer": "utils.checkpoint",
    "Profile": "utils.timing",
    "write_atomic": "utils.files",
    "main_guard": "utils.console.guard",
    **dict.fromkeys(BOX_FUNCTIONS, "utils.boxes"),
}

__getattr__ = lazy(MOVED, __name__)


def find_file(name: Path | str, folders: tuple[str, ...] = ("models", "data")) -> Path:
    """Return the file `name`: as given, else under the project root, else (a bare name) anywhere below its `folders`.

    FileNotFoundError if there is none, with the nearest name, or if a bare name has several matches.
    """
    path = Path(name).expanduser()
    for candidate in (path, ROOT / path):
        if candidate.is_file():
            return candidate
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*")) if file.is_file()]
    matches = [file for file in files if file.name == str(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise FileNotFoundError(f"'{name}' is ambiguous: {', '.join(str(m.relative_to(ROOT)) for m in matches)}")
    hint = did_you_mean(path.name, [file.name for file in files], "; {}")
    where = f", in {ROOT} or below its {' and '.join(folders)}" if folders else ""
    raise FileNotFoundError(f"file '{name}' not found here{where}{hint}")


def check_file(name: Path | str, suffixes: str | tuple[str, ...] = ()) -> Path:
    """Return find_file(name); ValueError unless the name ends in one of `suffixes` (all are good if there are none)."""
    suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
    if suffixes and Path(name).suffix.lower() not in suffixes:
        raise ValueError(f"'{name}': expected a file name ending in {' or '.join(suffixes)}")
    return find_file(name)


def check_yaml(name: Path | str) -> Path:
    """Return find_file(name) for a .yaml or .yml file."""
    return check_file(name, (".yaml", ".yml"))


def increment_path(path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return `path` if it is free (or exist_ok), else path2, path3 ...; a file's suffix stays: a.txt, a2.txt.

    With mkdir the folder is made, and making it is the test, so that two runs that start at once get two folders.
    """
    path = Path(path)
    if exist_ok:
        if mkdir:
            path.mkdir(parents=True, exist_ok=True)
        return path
    stem, suffix = (path.with_suffix(""), path.suffix) if path.is_file() else (path, "")
    candidate, n = path, 1
    while True:
        if mkdir:
            try:
                candidate.mkdir(parents=True)
                return candidate
            except FileExistsError:
                pass
        elif not candidate.exists():
            return candidate
        n += 1
        candidate = Path(f"{stem}{sep}{n}{suffix}")


def make_divisible(x: float, divisor: int) -> int:
    """Return the least multiple of `divisor` that is not less than x."""
    return math.ceil(x / divisor) * int(divisor)


def check_img_size(imgsz, s: int = 32, floor: int = 0):
    """Return `imgsz` (pixels: an int or a list) rounded up to multiples of s, at least `floor`; warn of a change."""
    several = isinstance(imgsz, (list, tuple))
    sizes = list(imgsz) if several else [imgsz]
    if not all(size > 0 for size in sizes):
        raise ValueError(f"image size: expected positive numbers of pixels, found {imgsz}")
    rounded = [max(make_divisible(size, int(s)), floor) for size in sizes]
    result = rounded if several else rounded[0]
    if rounded != sizes:
        fits = all(size % int(s) == 0 for size in sizes)
        why = f"smaller than {floor}" if fits else f"not a multiple of the stride {int(s)}"
        LOGGER.warning(f"image size {imgsz} is {why}, using {result}")
    return result


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100):
    """Return the function of x that goes from y1 at 0 to y2 at `steps` along half a cosine wave (arXiv 1812.01187)."""
    return lambda x: y1 + (y2 - y1) * (1 - math.cos(math.pi * x / steps)) / 2


def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators; `deterministic` chooses repeatable kernels, warns of others."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with this
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def latest_run(pattern: str = "runs/train/*/weights/last.pt") -> Path | None:
    """Return the newest file (by modification time) that matches below the working folder, where runs go, else None."""
    files = {file.resolve() for file in Path.cwd().glob(pattern)}
    return max(files, key=lambda file: (file.stat().st_mtime_ns, str(file)), default=None)


def default_weights(project: str = "runs/train", embedded: Path = EMBEDDED_WEIGHTS) -> Path:
    """Return the newest best.pt of a training run below `project`, else, for detection, the embedded weights.

    Callers print the choice. FileNotFoundError if there is none.
    """
    newest = latest_run(f"{project}/*/weights/best.pt")
    if newest is None and project != "runs/train":
        raise FileNotFoundError(f"no --weights given, and no {project}/*/weights/best.pt here")
    return newest or embedded


def with_pt(weights: Path | str) -> Path | str:
    """Return the name of a model file, with .pt behind it where that file exists or is one of YOLOv5's weights."""
    path = Path(str(weights).strip())
    if path.suffix or not path.name or path.exists():
        return weights
    with_suffix = path.with_suffix(".pt")
    return with_suffix if with_suffix.is_file() or RELEASED.fullmatch(path.name) else weights


def chosen_weights(weights, project: str = "runs/train", embedded: Path = EMBEDDED_WEIGHTS) -> list:
    """Return --weights as a list of files; where it is not given, the default of `project`, which is logged."""
    if weights:
        return [with_pt(file) for file in (weights if isinstance(weights, (list, tuple)) else [weights])]
    weights = default_weights(project, embedded)
    LOGGER.info(f"weights {weights} (--weights is not given)")
    return [weights]


def labels_to_class_weights(labels, nc: int = 80) -> np.ndarray:
    """Return inverse class frequencies, float32 [nc], sum 1, of labels [n, 5], class first. Unseen ones count once."""
    classes = np.concatenate([label[:, 0] for label in labels]).astype(int) if len(labels) else np.zeros(0, int)
    counts = np.bincount(classes, minlength=nc).clip(min=1)
    weights = 1 / counts
    return (weights / weights.sum()).astype(np.float32)


def labels_to_image_weights(labels, nc: int = 80, class_weights=None) -> np.ndarray:
    """Return for each image the sum of its objects' class weights (default 1), [len(labels)]."""
    class_weights = np.ones(nc) if class_weights is None else np.asarray(class_weights)
    return np.array([class_weights[label[:, 0].astype(int)].sum() for label in labels])


def coco80_to_coco91_class() -> list[int]:
    """Return COCO's category id for each of its 80 classes."""
    return [i for i in range(1, 91) if i not in COCO_UNUSED_IDS]


def print_args(opt, prefix: str = "") -> None:
    """Log the options (a dict or Namespace) in one line after the script's name."""
    items = opt if isinstance(opt, dict) else vars(opt)
    prefix = prefix or Path(sys.argv[0]).stem
    LOGGER.info(colorstr(f"{prefix}: ") + ", ".join(f"{key}={value}" for key, value in items.items()))


def file_size(path) -> float:
    """Return the size in MB (2**20 bytes) of a file, or of all files below a folder."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_are_busy(seconds: float = 0.1) -> bool:
    """Return whether other processes use more than half of a core of this one's now; False where Linux does not say.

    Processes that were started with `nice` count as idle: they give way.
    """
    before = _busy_seconds()
    time.sleep(seconds)
    return _busy_seconds() - before > seconds / 2


def _busy_seconds() -> float:
    """Return how long the usable cores have worked since the machine was started, without what `nice` has."""
    file = Path("/proc/stat")
    if not (file.is_file() and hasattr(os, "sched_getaffinity")):
        return 0.0
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = (line.split() for line in file.read_text().splitlines())
    # Columns: user, nice, system, idle, waiting for disks, interrupts (two kinds), taken by other virtual machines.
    ticks = sum(int(row[i]) for row in rows if row and row[0] in cores for i in (1, 3, 6, 7, 8))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def collecting_later():
    """Collect no garbage inside, for imports: an eighth of the time of `import torch` goes into looking for it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
