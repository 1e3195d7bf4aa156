"""Benchmark a detector in every format: size, accuracy, time and memory of each exported file, in one table.

    python benchmarks.py                                                the newest run, else the embedded weights
    python benchmarks.py --weights best.pt --data my.yaml --imgsz 640   a checkpoint on the val split of a data set
    python benchmarks.py --weights best.pt --include onnx openvino      some formats
    python benchmarks.py --weights best.pt --half                       files of half precision, where a format has it
    python benchmarks.py --weights best.pt --test                       only see whether the exports work
    python benchmarks.py --weights best.pt --hard-fail 0.29             exit code 1 on a failure or a lower mAP50-95

Every format is written and measured in a process of its own. The table, benchmarks.csv, benchmarks.png, the exported
files and a log for each of them go to runs/benchmarks/exp.
"""

import argparse
import sys

from engine import options
from utils.extras import lazy, load_extra
from utils.logger import setup_logging

__getattr__ = lazy({}, __name__)  # YOLOv5's names


def parse_opt(argv: list[str] | bool | None = None) -> argparse.Namespace:
    """Read the options from a command line (default: sys.argv)."""
    return options.parse("benchmarks", argv)


def run(**kwargs) -> list:
    """Benchmark from Python: run(weights="best.pt", data="my.yaml"); the options are those of benchmarks.py.

    Returns an extras.benchmark.run.Row for each format.
    """
    return load_extra("benchmark.run").benchmark(options.from_kwargs("benchmarks", kwargs))


def main(opt: argparse.Namespace) -> int:
    """Export, measure, print the table; return the exit code."""
    bench = load_extra("benchmark.run")
    setup_logging()
    return bench.exit_code(bench.benchmark(opt), opt)


if __name__ == "__main__":
    sys.exit(options.start("benchmarks", main, first="torch"))
