"""Export a detector for other runtimes, and prove that each file gives the same boxes.

    python export.py --include onnx                                     the newest run, else the embedded weights
    python export.py --weights best.pt --include onnx openvino ncnn     several formats
    python export.py --weights best.pt --include onnx --dynamic         any batch, height and width
    python export.py --weights best.pt --include onnx --embed           one file from a picture of any size to its boxes
    python export.py --weights best.pt --include onnx --layout v8       the output as other programs want it
    python export.py --weights best.pt --for frigate                    all that a program needs: docs/clients.md
    python export.py --weights best.pt --include onnx --int8 --data my.yaml    8 bits, at most 0.5 points of mAP lost

Formats: torchscript onnx openvino litert ncnn coreml executorch engine. Each file is compared with the PyTorch model
on 32 images of --data (without it: data/images) and renamed *.rejected if it differs by more than --tol.
The exit code is 1 if an export failed. Files are written beside the checkpoint.
"""

import argparse
import sys

from engine import options
from utils.extras import lazy, load_extra
from utils.logger import setup_logging

__getattr__ = lazy({}, __name__)  # YOLOv5's names


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("export", argv)


def run(**kwargs) -> list:
    """Export from Python: run(weights="best.pt", include=["onnx"]); the options are those of export.py.

    Returns an extras.export.exporter.Exported for each format: file, parity figures, or error.
    """
    return load_extra("export.exporter").export_formats(options.from_kwargs("export", kwargs))


def main(opt: argparse.Namespace) -> int:
    exporter = load_extra("export.exporter")
    setup_logging()
    results = exporter.export_formats(opt)
    exporter.print_formats(results)
    return int(any(result.error for result in results))


if __name__ == "__main__":
    sys.exit(options.start("export", main, first="torch"))
