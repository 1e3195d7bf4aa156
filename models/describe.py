"""The command `python models/yolo.py`: build, print and run a model file."""

import argparse
import sys

import torch

from models.yolo import model_class
from utils.console.guard import main_guard
from utils.extras import load_extra
from utils.general import ROOT, check_img_size
from utils.logger import LOGGER, setup_logging
from utils.torch_utils import evaluating, profile, select_device


def build_all() -> int:
    """Build every model file below models/ and return how many failed, after naming them.

    A file that needs an extra that is not installed is skipped.
    """
    files = sorted((ROOT / "models").rglob("*.yaml"))
    results = {"built": 0, "failed": 0, "skipped": 0}
    for file in files:
        name = file.relative_to(ROOT)
        try:
            model = model_class(file)(file)
            results["built"] += 1
            parameters = sum(p.numel() for p in model.parameters())
            LOGGER.info(f"{name}: {parameters} parameters, strides {model.stride.int().tolist()}")
        except ImportError as error:
            results["skipped"] += 1
            LOGGER.warning(f"{name}: skipped: {error}")
        except (ValueError, OSError) as error:
            results["failed"] += 1
            LOGGER.error(f"{name}: failed: {error}")
    LOGGER.info(", ".join(f"{count} {result}" for result, count in results.items()))
    return results["failed"]


def parse_opt(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="models/yolo.py", description="Build, print and run a model file.")
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model file: a path, or a name below models/")
    parser.add_argument("--batch-size", type=int, default=1, help="images in the batch that is run")
    parser.add_argument("--device", default="", help="cpu, mps or a GPU index such as 0; '' chooses")
    parser.add_argument("--profile", action="store_true", help="time the whole model and each row")
    parser.add_argument("--line-profile", action="store_true", help="time each row")
    parser.add_argument("--imgsz", "--img", type=int, default=640, help="side of the image in pixels")
    parser.add_argument("--latency", action="store_true", help="time exported files with random weights here")
    parser.add_argument("--test", action="store_true", help="build every model file below models/")
    return parser.parse_args(argv)


def main(opt: argparse.Namespace) -> int:
    setup_logging()
    if opt.test:
        return min(build_all(), 1)
    opt.imgsz = check_img_size(opt.imgsz)
    device = select_device(opt.device)
    model = model_class(opt.cfg)(opt.cfg).to(device)
    images = torch.rand(opt.batch_size, model.yaml["ch"], opt.imgsz, opt.imgsz, device=device)
    LOGGER.info(model.layer_table())
    model.info(img_size=opt.imgsz)
    LOGGER.info(f"strides {model.stride.int().tolist()}")
    if opt.latency:
        return load_extra("latency.describe").report(opt.cfg, opt.imgsz, model.nc)
    if opt.profile:
        profile(images, model, n=3, device=device)
    if opt.profile or opt.line_profile:
        with evaluating(model), torch.inference_mode():
            model(images, profile=True)
    output = model(images)
    tensors = [*output[0], output[1]] if isinstance(output, tuple) else output
    sum(tensor.float().mean() for tensor in tensors).backward()
    LOGGER.info(f"forward and backward: {list(images.shape)} -> {[list(tensor.shape) for tensor in tensors]}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main, parse_opt()))
