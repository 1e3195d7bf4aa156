"""The project's clock, and where the time of a run goes, stage by stage, for --profile. Free of torch.

times = StageTimes() if opt.profile else UNTIMED
with times("forward"):
    ...
times.report(folder)
"""

import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from copy import copy
from pathlib import Path

from utils.console.text import aligned
from utils.files import write_atomic
from utils.logger import LOGGER

FILE_NAME = "profile.csv"
COLUMNS = ("stage", "where", "seconds", "share", "ms_per_image")
IN_WORKERS = ("loading", "augmentation")  # stages that data-loading processes may have, of training and of validation
VAL = "val "  # prefix of the stages of a validation during a training
NOTHING = nullcontext()
END = object()  # the mark after the last item


def time_sync(cuda: bool | None = None) -> float:
    """Return seconds from an arbitrary start, once all work given to the GPU is done.

    cuda: whether there is a GPU to wait for; None finds out.
    """
    torch = sys.modules.get("torch")  # without it no work can have been given to a GPU
    if cuda is None:
        cuda = torch is not None and torch.cuda.is_available()
    if cuda and torch is not None:
        torch.cuda.synchronize()
    return time.perf_counter()


def is_cuda(device: object) -> bool:
    """Tell whether a device, torch's or a name of another runtime's, is an NVIDIA GPU of torch."""
    return getattr(device, "type", None) == "cuda"


class Profile:
    """A stopwatch: `with profile:` adds the seconds of the block to `.t`; `.dt` has the last block's.

    It waits for a CUDA `device` where the block starts and ends.
    """

    def __init__(self, t: float = 0.0, device: object = None):
        self.t = t
        self.dt = 0.0
        self.cuda = is_cuda(device)

    def __enter__(self) -> "Profile":
        self.start = time_sync(self.cuda)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.dt = time_sync(self.cuda) - self.start
        self.t += self.dt


class Untimed:
    """The stand-in for StageTimes in a run without --profile."""

    def __call__(self, stage: str, stopwatch: Profile | None = None):
        """Return a context whose seconds belong to the stage; they are added to the stopwatch too, if there is one."""
        return stopwatch or NOTHING

    def on(self, device):
        """Wait for this device, if it is a GPU, where a stage starts or ends from now on; return the same object."""
        return self

    def each(self, stage: str, items):
        """Return the items; the wait for each of them belongs to the stage."""
        return items

    def validation(self):
        """Return the same, for the stages of a validation during a training."""
        return self

    def count(self, images: int) -> None:
        """So many images have been worked on."""

    def report(self, folder) -> None:
        """Print the table and write FOLDER/profile.csv."""


UNTIMED = Untimed()


class StageTimes(Untimed):
    """Seconds of the clock for each stage. A stage's seconds leave out those of the stages inside it.

    Those of the thread that made the object add up to the run, with "other" for the rest. What other threads and
    data-loading processes do meanwhile stands "beside", summed over them.
    """

    def __init__(self):
        self.cuda = False
        self.main, self.beside, self.images = Counter(), Counter(), Counter()
        self.in_workers = {prefix + name: multiprocessing.RawValue("d") for prefix in ("", VAL) for name in IN_WORKERS}
        self.lock = multiprocessing.Lock()
        self.stacks = {}  # (process, thread) -> [time of the last change, stages that are open ...]
        self.prefix = ""
        self.home = self._thread()
        self.started = self._now()

    @contextmanager
    def __call__(self, stage: str, stopwatch: Profile | None = None):
        stack = self.stacks.setdefault(self._thread(), [0.0])
        self._charge(stack)
        stack.append(self.prefix + stage)
        try:
            with stopwatch or NOTHING:
                yield stopwatch
        finally:
            self._charge(stack)
            stack.pop()

    def on(self, device):
        self.cuda = is_cuda(device)
        return self

    def each(self, stage, items):
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, END)
            if item is END:
                return
            yield item

    def validation(self):
        part = copy(self)  # with the same counters
        part.prefix = VAL
        return part

    def count(self, images):
        with self.lock:
            self.images[self.prefix] += images

    def report(self, folder):
        rows = self.rows()
        LOGGER.info("\n" + table(rows))
        lines = [f"{stage},{where},{seconds:.6g},{share:.6g},{ms:.6g}" for stage, where, seconds, share, ms in rows]
        write_atomic(Path(folder) / FILE_NAME, "\n".join([",".join(COLUMNS), *lines, ""]).encode())

    def rows(self) -> list:
        """Return [(stage, "main" or "beside", seconds, share of the run 0..1, milliseconds for an image)]."""
        run = self._now() - self.started
        main = {**self.main, "other": run - sum(self.main.values())}
        workers = {stage: value.value for stage, value in self.in_workers.items() if value.value}
        beside = Counter(self.beside) + Counter(workers)
        parts = [("main", main), ("beside", beside)]
        return [
            (stage, where, seconds, seconds / run, 1e3 * seconds / max(self._images_of(stage), 1))
            for where, stages in parts
            for stage, seconds in stages.items()
        ]

    def _images_of(self, stage: str) -> int:
        return self.images[VAL if stage.startswith(VAL) else ""]

    def _charge(self, stack: list) -> None:
        """Give the time since the last change to the innermost open stage."""
        now = self._now()
        if len(stack) > 1:
            self._add(stack[-1], now - stack[0])
        stack[0] = now

    def _add(self, stage: str, seconds: float) -> None:
        with self.lock:
            if os.getpid() != self.home[0]:
                self.in_workers[stage].value += seconds
            else:
                (self.main if self._thread() == self.home else self.beside)[stage] += seconds

    @staticmethod
    def _thread() -> tuple:
        return os.getpid(), threading.get_ident()

    def _now(self) -> float:
        return time_sync(self.cuda and os.getpid() == self.home[0])


def table(rows: list[tuple[str, str, float, float, float]]) -> str:
    """Return the text for StageTimes.rows(), the longest stages first; "beside" marks other threads and processes."""
    ordered = sorted(rows, key=lambda row: (row[1] != "main", -row[2]))
    cells = [
        (stage, f"{seconds:.2f}", f"{share:.1%}", f"{ms:.2f}", where if where == "beside" else "")
        for stage, where, seconds, share, ms in ordered
    ]
    return aligned([("Stage", "Seconds", "Share", "ms/image", ""), *cells], left=(0, 4))
