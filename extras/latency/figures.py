"""Measured latencies: a Figure for each file, runtime and number of threads; measured here, or read from a file."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from extras.latency.files import written_file
from extras.latency.runtimes import RUNTIMES, Runtime, open_call, reason_to_skip
from extras.latency.timing import LEAST_TURNS, summarize, time_in_turns
from utils.console.text import brief
from utils.files import read_text, write_whole
from utils.general import file_size

MAX_BYTES = 64 << 20  # of a file of figures


@dataclass
class Figure:
    """The latency of one file; None where there is none, and `note` says why. Keys as in on_device.py's file."""

    model: str  # the model file's name without suffix
    size_px: int
    runtime: str  # a key of RUNTIMES
    threads: int
    file: str = ""
    median_ms: float | None = None
    low_ms: float | None = None  # the 10 % quantile
    high_ms: float | None = None  # the 90 % quantile
    runs: int = 0
    size_mb: float | None = None
    memory_mb: float | None = None
    note: str = ""

    @property
    def precision(self) -> str:
        return RUNTIMES[self.runtime].precision if self.runtime in RUNTIMES else ""

    @property
    def title(self) -> str:
        """The runtime as tables name it."""
        runtime = RUNTIMES.get(self.runtime)
        return f"{runtime.title} {runtime.precision}" if runtime else self.runtime


@dataclass(frozen=True)
class Subject:
    """What is timed: a model file, or (`is_given`) a written ONNX file of the user's."""

    path: Path
    is_given: bool = False

    @property
    def name(self) -> str:
        return self.path.name if self.is_given else self.path.stem


def prepare(subject: Subject, size_px: int, runtime: Runtime, folder: Path, nc: int) -> tuple[Path | None, str]:
    """Return (file, '') for a subject in a runtime, or (None, why there is none). Written files go to `folder`."""
    if reason := reason_to_skip(runtime):
        return None, reason
    if subject.is_given:
        fits = runtime.format_key == "onnx"
        return (subject.path, "") if fits else (None, "is an ONNX file, and is timed in ONNX Runtime alone")
    try:
        return written_file(subject.path, size_px, runtime, folder, nc), ""
    except RuntimeError as error:
        return None, f"cannot be written: {error}"


def measure_group(
    entries: Sequence[tuple[Subject, Path]],
    size_px: int,
    runtime: Runtime,
    threads: int,
    most_s: float = 20.0,
    least_turns: int = LEAST_TURNS,
) -> tuple[list[Figure], list[list[float]]]:
    """Time the files of one runtime in turns, all on one image; return a Figure and the seconds of each.

    A file that cannot be opened or run has a note and no seconds.
    """
    images = np.random.default_rng(0).random((1, 3, size_px, size_px), np.float32)
    figures, calls = [], []
    for subject, file in entries:
        figure = Figure(subject.name, size_px, runtime.key, threads, file.name, size_mb=file_size(file))
        try:
            call: Callable | None = open_call(runtime, file, threads, images)
            call()
        except Exception as error:  # Any runtime's; it is told in the table.
            call = None
            figure.note = f"cannot be run: {next(iter(str(error).splitlines()), type(error).__name__)}"
        figures.append(figure)
        calls.append(call)
    opened = [call for call in calls if call]
    timed = iter(time_in_turns(opened, most_s, least_turns) if opened else [])
    seconds = [next(timed) if call else [] for call in calls]
    for figure, own in zip(figures, seconds):
        fill(figure, own)
    return figures, seconds


def fill(figure: Figure, seconds: list[float]) -> None:
    """Put the figures of the times into a Figure; nothing for no times."""
    if seconds:
        figure.median_ms, figure.low_ms, figure.high_ms, figure.runs = summarize(seconds)


def write_figures(file: Path, conditions: dict, figures: Iterable[Figure], **more) -> None:
    """Write a JSON file that read_figures() takes."""
    content = {
        **conditions,
        **more,
        "figures": [asdict(figure) | {"precision": figure.precision} for figure in figures],
    }
    write_whole(file, json.dumps(content, indent=1) + "\n")


def read_figures(file: Path | str) -> list[Figure]:
    """Return the figures of a file of `python -m bench latency` or of on_device.py. ValueError if it is none."""
    try:
        rows = json.loads(read_text(file, MAX_BYTES))["figures"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{file}: expected a JSON file with 'figures', as on_device.py writes it") from None
    if not isinstance(rows, list):
        raise ValueError(f"{file}: expected a list of figures, found {brief(rows)}")
    return [_figure(row, f"{file}: figure {number}") for number, row in enumerate(rows)]


def _figure(row, where: str) -> Figure:
    known = {field.name for field in fields(Figure)}
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a mapping, found {brief(row)}")
    kinds = {"model": str, "size_px": int, "runtime": str, "threads": int}
    for key, kind in kinds.items():
        if type(row.get(key)) is not kind:
            raise ValueError(f"{where}: {key}: expected {kind.__name__}, found {brief(row.get(key))}")
    median = row.get("median_ms")
    if median is not None and (type(median) not in (int, float) or not median > 0):
        raise ValueError(f"{where}: median_ms: expected a number above 0, found {brief(median)}")
    return Figure(**{key: value for key, value in row.items() if key in known})
