"""`python models/yolo.py --latency`: what a model file costs in every runtime that is installed, before a training."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from extras.latency.figures import Figure, Subject, measure_group, prepare
from extras.latency.files import EXPORT_S, run_worker
from extras.latency.runtimes import RUNTIMES, Runtime
from utils.console.text import aligned
from utils.general import check_yaml, usable_cores
from utils.logger import LOGGER

HEADING = ("runtime", "threads", "ms", "10 to 90 %", "MB", "note")
GROUP_S = 10.0  # most seconds of a file with one number of threads


def report(cfg, size_px: int, nc: int) -> int:
    """Log the table of a model file and what no runtime takes; return 1 if it could be timed in none.

    Everything that is written goes to a temporary folder.
    """
    subject = Subject(check_yaml(cfg).absolute())
    figures, lines = [], []
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        for runtime in RUNTIMES.values():
            file, note = prepare(subject, size_px, runtime, Path(folder), nc)
            LOGGER.info(f"{runtime.title} {runtime.precision}: {note or 'timing ...'}")
            figures += timed(subject, file, size_px, runtime) if file else [skipped(subject, size_px, runtime, note)]
            lines += list(problems(subject.path, file, note, size_px, runtime, nc))
    LOGGER.info(f"\n{table(figures)}\n")
    LOGGER.info("\n".join(lines) or "every runtime that is installed takes every layer")
    return int(all(figure.median_ms is None for figure in figures))


def timed(subject: Subject, file: Path, size_px: int, runtime: Runtime) -> list[Figure]:
    """Return a Figure for one thread and one for all cores."""
    counts = sorted({1, usable_cores()})
    return [measure_group([(subject, file)], size_px, runtime, threads, GROUP_S)[0][0] for threads in counts]


def skipped(subject: Subject, size_px: int, runtime: Runtime, note: str) -> Figure:
    return Figure(subject.name, size_px, runtime.key, 1, note=note)


def problems(cfg: Path, file: Path | None, note: str, size_px: int, runtime: Runtime, nc: int) -> Iterator[str]:
    """Yield a line for each row that the runtime refuses, or runs by slower code than its fast one."""
    job = {"cfg": str(cfg), "nc": nc, "size_px": size_px, "runtime": runtime.key, "file": str(file)}
    if note.startswith("cannot be written") and runtime.format.exports:
        task, what = "refused", "refuses"
        nothing = ["the whole model, but takes each row by itself"]
    elif file and runtime.format_key == "litert":
        task, what, nothing = "fallbacks", "falls back from XNNPACK to its plain kernels in", []
    else:
        return
    try:
        rows = run_worker({**job, "task": task}, EXPORT_S)["rows"] or nothing
    except RuntimeError as error:
        rows = [f"rows that could not be found: {error}"]
    for row in rows:
        yield f"{runtime.title} {runtime.precision} {what} {row}"


def table(figures: list[Figure]) -> str:
    rows = []
    for figure in figures:
        is_known = figure.median_ms is not None
        times = [f"{figure.median_ms:.2f}", f"{figure.low_ms:.2f} to {figure.high_ms:.2f}"] if is_known else ["-", "-"]
        size = f"{figure.size_mb:.1f}" if figure.size_mb else "-"
        rows.append((figure.title, figure.threads, *times, size, figure.note))
    return aligned([HEADING, *rows], left=(0, 5))
