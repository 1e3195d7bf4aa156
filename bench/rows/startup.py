"""How long a user waits: for --help, and for the boxes of one picture. Seconds of the clock; there is no opponent."""

import statistics
import subprocess
import time
from pathlib import Path

from bench.harness import Row, project_command, run_command
from bench.inputs import picture_list
from utils.general import ROOT

HELP_MARK_MS, FIRST_BOX_MARK_MS = 400, 2500


def measurements(settings):
    for script in ("detect.py", "train.py"):
        argv = project_command(script, "--help").argv
        yield absolute_row(f"{script} --help", HELP_MARK_MS, lambda argv=argv: run_command(argv), settings.pairs)
    picture = Path(picture_list(settings, 1).read_text().strip())
    argv = project_command(
        "detect.py", "--weights", settings.weights, "--source", picture, "--imgsz", 640, "--device", "cpu",
        "--project", settings.folder, "--name", "startup", "--exist-ok",
    ).argv  # fmt: skip
    yield absolute_row(
        "first box of detect.py", FIRST_BOX_MARK_MS, lambda: until_line(argv, "image 1/1"), settings.pairs
    )


def absolute_row(what: str, mark_ms: float, function, times: int) -> Row:
    """Return a row of the median; function() may return its own milliseconds."""
    samples = []
    for _ in range(times + 1):
        start = time.perf_counter()
        measured = function()
        samples.append(measured if isinstance(measured, float) else 1e3 * (time.perf_counter() - start))
    samples = samples[1:]  # the first one reads files from the disk
    note = f"{min(samples):,.0f} to {max(samples):,.0f} ms"
    return Row(what, ours=statistics.median(samples), mark=mark_ms, note=note)


def until_line(argv, beginning: str) -> float:
    """Measure milliseconds until the command prints a line that begins so; it is let run to its end."""
    start, found = time.perf_counter(), None
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, cwd=ROOT, text=True, **streams) as process:
        for line in process.stdout:
            if found is None and line.startswith(beginning):
                found = 1e3 * (time.perf_counter() - start)
    if found is None or process.returncode:
        raise RuntimeError(f"{argv[1]} printed no line that begins with '{beginning}', exit code {process.returncode}")
    return found
