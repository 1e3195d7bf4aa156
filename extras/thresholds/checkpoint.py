"""The way of thresholds into a checkpoint."""

from pathlib import Path

from models.backends import one_checkpoint
from models.backends.thresholds import KEY, Thresholds
from utils.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from utils.files.tensors import read_torch_file
from utils.general import SHAPES_WEIGHTS
from utils.logger import LOGGER


def check_writable(opt) -> Path:
    """Return the checkpoint of --weights; ValueError unless it is one file of this project, and for its own classes."""
    if opt.single_cls:
        raise ValueError("--write-thresholds: the classes of --single-cls are not those of the checkpoint")
    file = one_checkpoint(opt.weights, SHAPES_WEIGHTS)
    content, is_official = read_torch_file(file)
    if is_official or content.get("format") != FORMAT:
        convert = f"python -m utils.checkpoint convert {file} mine.pt"
        raise ValueError(f"--write-thresholds: expected a checkpoint of this project, found {file}: {convert}")
    return file


def write_thresholds(file: Path, thresholds: Thresholds, names: dict) -> None:
    """Put the thresholds into a checkpoint, in the place of older ones, in one step; everything else stays."""
    ckpt = load_checkpoint(file)
    ckpt.meta[KEY] = Thresholds.from_dict(thresholds.to_dict(), ckpt.nc, file).to_dict()
    save_checkpoint(file, ckpt)
    LOGGER.info(f"written into {file}: {thresholds.describe(names)}")
    LOGGER.info("detect.py, torch.hub and the files of export.py use them where no confidence is given")
