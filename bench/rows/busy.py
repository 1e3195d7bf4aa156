"""The time beside one other busy process over the idle time. On two cores a fair share would be 1.5 to 2.

A process of its own waits as the scripts' threads do, another one as OpenMP's do by themselves; the idle machine says
what the scripts' way costs there.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.harness import CLOCKS, Row, calls_per_sample, first_call, project_command, run_command, timed
from bench.inputs import validation_data
from bench.rows.limit import forward, training_step
from engine.options import SPINS
from utils.general import ROOT
from utils.torch_utils import keep_freed_memory

MARK = 2.2
OURS, DEFAULT = {"GOMP_SPINCOUNT": SPINS}, {"GOMP_SPINCOUNT": "300000"}  # what libgomp takes by itself
KINDS = {"forward": forward, "step": training_step}
MODELS = {"yolov5n": "yolov5n.yaml", "EdgeViT-XXS": "yolov5_edgevit.yaml"}
VAL_PICTURES, QUICK_PICTURES = 64, 8


def measurements(settings) -> Iterator[Row]:
    for title, cfg in MODELS.items():
        for kind in KINDS:
            what = {"forward": "one picture", "step": "a training step"}[kind]
            with waiter(kind, cfg, settings, OURS) as ours, waiter(kind, cfg, settings, DEFAULT) as default:
                yield row(f"{what}, {title}", ours, default, settings.pairs, trains=kind == "step")
    data = validation_data(settings, QUICK_PICTURES if settings.quick else VAL_PICTURES)
    argv = project_command(
        "val.py", "--weights", settings.weights, "--data", data, "--device", "cpu", "--project", settings.folder,
        "--name", "busy", "--exist-ok",
    ).argv  # fmt: skip
    clock = CLOCKS["wall"]
    sides = [lambda way=way: first_call(lambda: run_command(argv, **way), clock)[1] for way in (OURS, DEFAULT)]
    yield row("val.py, whole process", *sides, min(settings.pairs, 3))


def row(what: str, ours, default, pairs: int, trains: bool = False) -> Row:
    """Return a row whose `ours` is the ratio; both sides are functions that return seconds.

    trains: on an idle machine it waits by default, see share_cores().
    """
    alone = default if trains else ours
    idle = [(alone(), default()) for _ in range(pairs)]
    with busy_neighbour():
        beside = [ours() for _ in range(pairs)]
    idle_s, beside_s = statistics.median(own for own, _ in idle), statistics.median(beside)
    loss = statistics.median(own / other for own, other in idle)
    note = f"{1e3 * idle_s:,.0f} ms idle ({loss:.2f} of the time with libgomp's own waiting), {1e3 * beside_s:,.0f} ms"
    return Row(f"{what}, beside a busy process", ours=beside_s / idle_s, unit="times idle", mark=MARK, note=note)


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Run another process that keeps a core busy, on the cores of this one."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def waiter(kind: str, cfg: str, settings, environment: dict) -> Iterator:
    """Yield a function that returns the mean seconds of a call in a process with this environment."""
    command = [sys.executable, "-m", "bench.rows.busy", kind, cfg, str(int(settings.quick))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, **pipes) as process:

        def ask() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield ask
        process.stdin.close()


def answer(kind: str, cfg: str, quick: bool) -> None:
    """Time a sample for each line of stdin, and print its seconds."""
    keep_freed_memory()
    function, clock = KINDS[kind](cfg, quick)[2], CLOCKS["wall"]
    function()
    calls = calls_per_sample(first_call(function, clock)[1])
    for _ in sys.stdin:
        print(timed(function, calls, clock), flush=True)


if __name__ == "__main__":
    answer(sys.argv[1], sys.argv[2], sys.argv[3] == "1")
