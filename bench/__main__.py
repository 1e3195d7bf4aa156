"""Measure the project side by side with named opponents.

    python -m bench                      all, as a table (bench/results/bench.md) and a plot
    python -m bench nms backbone         some
    python -m bench --list               their names
    python -m bench nms --quick          less work: only to see that it runs
    python -m bench transfer --help      what a start is worth: bench/transfer.py
    python -m bench latency --help       what models cost in every runtime, and AP against it: bench/latency.py

An opponent's package that is missing is installed into an environment of the bench's own (--env), never into the
project's. The exit code is 1 if a result is unequal or a bench fails; a mark that is not reached does not change it.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench import BENCHES, latency, report, transfer, worker
from bench.environment import default_folder, python_with
from bench.harness import CLOCKS, LEAST_PAIRS, Row, Settings, Unavailable
from utils.console.guard import main_guard
from utils.general import ROOT, SHAPES_WEIGHTS

QUICK_PAIRS = 3
COMMANDS = {"transfer": transfer, "latency": latency}


def parse_opt(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="benches to run (default: all)")
    add("--list", action="store_true", help="print the names")
    add("--threads", type=int, default=0, help="threads (and cores) of each side, 0 takes all cores")
    add("--pairs", type=int, default=0, help=f"measurements of each side (default {LEAST_PAIRS}, quick {QUICK_PAIRS})")
    add("--quick", action="store_true", help="less work and fewer pairs: only to see that it runs")
    add("--clock", choices=list(CLOCKS), default="wall", help="cpu: processor time, for a busy machine; 1 thread then")
    add("--weights", default=str(SHAPES_WEIGHTS), help="checkpoint for detect and val")
    add("--folder", default=str(ROOT / "bench" / "results"), help="where the table and the plot go")
    add("--env", default=str(default_folder()), help="environment for opponents' packages, made when one is missing")
    opt = parser.parse_args(argv)
    unknown = [name for name in opt.names if name not in BENCHES]
    if unknown:
        parser.error(f"unknown bench {', '.join(unknown)}: expected some of {', '.join(BENCHES)}")
    return opt


def main(opt) -> int:
    if opt.list:
        print("\n".join(f"{name:<16}{text}" for name, (text, _) in BENCHES.items()))
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        settings = Settings(
            threads=opt.threads or cores,
            pairs=opt.pairs or (QUICK_PAIRS if opt.quick else LEAST_PAIRS),
            quick=opt.quick,
            clock=opt.clock,
            weights=str(Path(opt.weights).absolute()),
            folder=temporary,
        )
        rows = []
        for name in opt.names or BENCHES:
            rows += run(name, settings, Path(opt.env))
            report.write(rows, Path(opt.folder), settings)  # after each, so that an interruption loses one at most
    print(f"{Path(opt.folder) / 'bench.md'}")
    return int(any(row.status in ("unequal", "failed") for row in rows))


def run(name: str, settings: Settings, env: Path) -> list:
    """Run one bench in a process of its own and return its Rows."""
    text, packages = BENCHES[name]
    print(f"\n{name}: {text}", flush=True)
    try:
        python = python_with(packages, env)
        return [Row(**row) for row in worker.start(python, {"bench": name, "settings": asdict(settings)})]
    except Unavailable as reason:
        row = Row(text, status="skipped", note=str(reason), bench=name)
    except RuntimeError as error:
        row = Row(text, status="failed", note=str(error), bench=name)
    print(report.line(row))
    return [row]


if __name__ == "__main__":
    if command := COMMANDS.get("".join(sys.argv[1:2])):
        sys.exit(main_guard(command.main, command.parse_opt(sys.argv[2:])))
    sys.exit(main(parse_opt()))
