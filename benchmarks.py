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

import sys

from engine import options


def run(**kwargs) -> list:
    """Benchmark from Python: run(weights="best.pt", data="my.yaml"); the options are those of benchmarks.py.

    Returns an extras.benchmark.run.Row for each format.
    """
    from extras.benchmark.run import benchmark

    return benchmark(options.from_kwargs("benchmarks", kwargs))


def main(opt) -> int:
    """Export, measure, print the table; returns the exit code."""
    from extras.benchmark.run import benchmark, exit_code
    from utils.logger import setup_logging

    setup_logging()
    return exit_code(benchmark(opt), opt)


if __name__ == "__main__":
    opt = options.parse("benchmarks")
    from utils.general import main_guard

    sys.exit(main_guard(main, opt))
