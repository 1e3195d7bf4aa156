"""Two ways to one result, timed in turns: A B A B ... in one process, so that a slow minute hits both.

The results are compared first; where they differ, nothing is timed. A ratio is ours / theirs, lower is better.
"""

import gc
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.memory import usual_memory
from utils.general import ROOT
from utils.torch_utils import keep_freed_memory

SHORTEST_SAMPLE_S = 0.2  # a side that is quicker is called several times for one sample
LEAST_PAIRS = 7


class Unavailable(Exception):
    """A row cannot be measured here; the message says what it needs."""


@dataclass(frozen=True)
class Settings:
    """What the command line says; every process of a run gets it."""

    threads: int = 1
    pairs: int = LEAST_PAIRS
    quick: bool = False  # less work, for a look whether it runs
    clock: str = "wall"  # or cpu: seconds of processor time, for a busy machine
    weights: str = ""
    folder: str = ""  # for temporary files


@dataclass(frozen=True)
class Call:
    """A side within this process: build() prepares, and returns the function (without arguments) that is timed.

    keeps_memory: whether it keeps the memory that it frees, as train.py and val.py do.
    """

    build: Callable
    keeps_memory: bool = False

    def start(self) -> Callable:
        function, choose = self.build(), keep_freed_memory if self.keeps_memory else usual_memory

        def run():
            choose()
            return function()

        return run


@dataclass(frozen=True)
class Command:
    """A side that is a process of its own, from its start to its end. Its output is what it prints."""

    argv: tuple

    def start(self) -> Callable:
        return lambda: run_command(self.argv)


@dataclass(frozen=True)
class Comparison:
    """`differ` takes the outputs of both sides and says in words what differs, '' for nothing."""

    what: str
    reference: str  # names the opponent
    ours: object  # Call or Command
    theirs: object
    differ: Callable
    mark: float | None = None  # ratio of times to reach
    memory_mark: float | None = None
    with_memory: bool = True  # False where a runtime never gives memory back, so that nothing can be told
    per: float = 1  # items that one call works on; times are given for one
    why: str = ""  # a mark is missed, where that is known


@dataclass
class Row:
    """A line of the table. None where there is no such figure."""

    what: str
    reference: str = ""
    status: str = "ok"  # or unequal, skipped, failed
    ratios: list = field(default_factory=list)  # one for each pair
    ours: float | None = None
    theirs: float | None = None
    unit: str = "ms"
    ours_mb: float | None = None  # peak memory, 2**20 bytes
    theirs_mb: float | None = None
    mark: float | None = None  # the most that the ratio (without an opponent: `ours`) may be
    memory_mark: float | None = None
    note: str = ""
    bench: str = ""

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def memory_ratio(self) -> float | None:
        return self.ours_mb / self.theirs_mb if self.ours_mb is not None and self.theirs_mb else None

    @property
    def reached(self) -> bool | None:
        """None where no mark is set or nothing was measured."""
        measured = self.ratio if self.reference else self.ours
        pairs = [(measured, self.mark), (self.memory_ratio, self.memory_mark)]
        verdicts = [found <= mark for found, mark in pairs if found is not None and mark is not None]
        return all(verdicts) if verdicts else None


def compare(comparison: Comparison, settings: Settings, memory: Callable | None = None) -> Row:
    """Compare the results of both sides, then their times, then their memory: memory(side name) -> MB or None."""
    row = Row(comparison.what, comparison.reference, mark=comparison.mark, memory_mark=comparison.memory_mark)
    sides = [comparison.ours.start(), comparison.theirs.start()]
    read_clock = CLOCKS[settings.clock]
    outputs, seconds = zip(*(first_call(side, read_clock) for side in sides))
    if difference := comparison.differ(*outputs):
        row.status, row.note = "unequal", f"not timed: {difference}"
        return row
    del outputs
    calls = [calls_per_sample(first) for first in seconds]
    samples = [[timed(*side, read_clock) for side in zip(sides, calls)] for _ in range(settings.pairs)]
    row.ratios = [ours / theirs for ours, theirs in samples]
    row.ours, row.theirs = (1e3 * statistics.median(times) / comparison.per for times in zip(*samples))
    if memory and comparison.with_memory:
        row.ours_mb, row.theirs_mb = memory("ours"), memory("theirs")
    if row.reached is False:
        row.note = comparison.why
    return row


def first_call(function: Callable, read_clock: Callable) -> tuple:
    """Call the function and return (output, seconds)."""
    start = read_clock()
    return function(), read_clock() - start


def calls_per_sample(seconds: float) -> int:
    """Return how often something that takes so long is called for one sample."""
    return max(1, math.ceil(SHORTEST_SAMPLE_S / max(seconds, 1e-6)))


def timed(function: Callable, calls: int, read_clock: Callable) -> float:
    """Mean seconds of a call."""
    gc.collect()
    start = read_clock()
    for _ in range(calls):
        function()
    return (read_clock() - start) / calls


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CLOCKS = {"wall": time.perf_counter, "cpu": cpu_seconds}


def run_command(argv, **environment) -> str:
    """Run the command in the project's root and return its output; raises RuntimeError with the last of stderr."""
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **environment}, **streams)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv[1:4])} ...: exit code {done.returncode}: {done.stderr[-500:].strip()}")
    return done.stdout


def project_command(*arguments) -> Command:
    """Run `python arguments...` in the project's root."""
    return Command((sys.executable, *map(str, arguments)))
