"""One checkpoint in every format, in one table: benchmarks.py.

Each format is exported in one process and measured in another (extras/benchmark/worker.py), so that memory is counted
for it alone, and a crash, or a runtime that never returns, costs a row and not the run. Free of torch.
"""

import json
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from models.backends import FORMATS, Format, find_format, one_checkpoint
from utils.console.processes import run_process
from utils.console.text import aligned, counted
from utils.files import write_table
from utils.general import SHAPES_WEIGHTS, check_yaml, file_size, increment_path
from utils.logger import LOGGER, colorize

TIMEOUT_S = 3 * 3600  # for one export or one measurement; int8 validates many candidates
# title, format of a value in the table
COLUMNS = {
    "format": ("format", ""),
    "precision": ("precision", ""),
    "size_mb": ("MB", ".1f"),
    "map": ("mAP50-95", ".4f"),
    "map50": ("mAP50", ".4f"),
    "ms": ("ms/image", ".1f"),
    "memory_mb": ("memory MB", ".0f"),
    "box_px": ("box px", ".2g"),
    "score": ("score", ".2g"),
    "unmatched": ("unmatched", "d"),
    "status": ("status", ""),
    "note": ("note", ""),
}
TEXT_COLUMNS = ("format", "precision", "status", "note")


@dataclass
class Row:
    """A format's figures; None where there is none."""

    format: str
    status: str = "ok"  # or exported (written, and that is all), skipped, failed
    precision: str = ""
    size_mb: float | None = None  # on disk, 2**20 bytes
    map: float | None = None  # mAP50-95, COCO's protocol, 0 to 1
    map50: float | None = None
    ms: float | None = None  # for an image, with its conversion to numbers, without NMS: the median
    memory_mb: float | None = None  # the most that the process ever held, Python and NumPy included
    box_px: float | None = None  # largest difference of a box to PyTorch's, as the file's metadata says
    score: float | None = None  # a score's
    unmatched: int | None = None  # boxes without a partner
    note: str = ""
    file: str = ""


def benchmark(opt) -> list:
    """Measure by the options of benchmarks.py; print and write a table, and return a Row for each format.

    ValueError or OSError for options that cannot be, and where the checkpoint itself cannot be measured.
    """
    formats = chosen_formats(opt)
    run = Benchmark(opt)
    LOGGER.info(f"{run.weights} in {counted(len(formats), 'format')}, on {run.data}, {opt.device or 'cpu'}")
    rows = []
    for number, format in enumerate(formats, 1):
        run.title = f"[{number}/{len(formats)}] {format.title}"
        row = run.row(format)
        rows.append(row)
        LOGGER.info(f"{run.title}: {summary(row)}")
        write_csv(rows, run.folder / "benchmarks.csv")
        if row.status == "failed" and not format.exports:
            raise ValueError(f"{run.weights}: the checkpoint itself could not be measured: {row.note}")
    write_report(rows, run.folder, f"{run.weights.name} on {run.data.name}, {run.imgsz} px, batch {opt.batch_size}")
    return rows


def chosen_formats(opt) -> list:
    """Return --include's, else all, PyTorch first; with --pt-only that alone. ValueError for an unknown name."""
    exported = [find_format(name) for name in opt.include or ()] or [row for row in FORMATS if row.exports]
    pytorch = [row for row in FORMATS if not row.exports]
    if opt.test:
        return list(dict.fromkeys(exported))
    return pytorch if opt.pt_only else list(dict.fromkeys([*pytorch, *exported]))


class Benchmark:
    """The run: its folder, and what is the same for all formats."""

    def __init__(self, opt):
        if opt.half and opt.int8:
            raise ValueError("--half and --int8 exclude each other")
        if opt.batch_size < 1:
            raise ValueError(f"--batch-size: expected a whole number from 1, found {opt.batch_size}")
        if opt.pt_only and opt.test:
            raise ValueError("--pt-only and --test exclude each other: --test is for exports")
        self.opt, self.title, self.imgsz = opt, "", opt.imgsz
        self.data = Path(check_yaml(opt.data)).absolute()
        self.weights = one_checkpoint(opt.weights, SHAPES_WEIGHTS)
        if not self.weights.is_file():
            raise FileNotFoundError(f"{self.weights}: no such file")
        self.folder = increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True).absolute()
        # exports are written beside their checkpoint: with a copy, no earlier export of the user's is replaced
        self.copy = self.folder / self.weights.name
        shutil.copyfile(self.weights, self.copy)

    def row(self, format: Format) -> Row:
        row = Row(format.title, precision=self._precision(format))
        if reason := self._reason_to_skip(format):
            row.status, row.note = "skipped", reason
            return row
        file = self.copy
        if format.exports:
            LOGGER.info(f"{self.title}: exporting ...")
            exported = self._run("export", format)
            if error := exported.get("error"):
                row.status, row.note = "failed", f"export: {error}"
                return row
            file = Path(exported["file"])
            row.__dict__.update({key: exported["parity"].get(key) for key in ("box_px", "score", "unmatched")})
        row.file, row.size_mb = str(file), file_size(file)
        if format.exports and not exported["runs_here"]:
            row.status, row.note = "exported", f"runs on {format.runs_on} only"
        elif self.opt.test:
            row.status = "exported"
        else:
            self._measure(format, row, file)
        return row

    def _measure(self, format: Format, row: Row, file: Path) -> None:
        LOGGER.info(f"{self.title}: measuring {file.name} ({row.size_mb:.1f} MB) ...")
        measured = self._run("measure", format, file)
        if error := measured.get("error"):
            row.status, row.note = "failed", f"measuring: {error}"
            return
        self.imgsz = self.imgsz or measured["imgsz"]  # the checkpoint's, which is the first to be measured
        row.__dict__.update({key: measured[key] for key in ("map", "map50", "ms", "memory_mb")})
        row.precision = measured.get("precision") or row.precision

    def _precision(self, format: Format) -> str:
        if not format.exports:
            return "fp32"
        return "int8" if self.opt.int8 else "fp16" if self.opt.half else "fp32"

    def _reason_to_skip(self, format: Format) -> str:
        wanted = [name for name in ("half", "int8") if getattr(self.opt, name)]
        if format.exports and not set(wanted) <= set(format.options):
            return f"has no --{wanted[0]}"
        if missing := format.missing():
            return f"needs {', '.join(missing)}: {format.pip_line}"
        if format.key == "engine" and self.opt.device in ("", "cpu"):
            return "needs a GPU: --device 0"
        return ""

    def _run(self, task: str, format: Format, file: Path | None = None) -> dict:
        opt = self.opt
        job = {key: getattr(opt, key) for key in ("batch_size", "half", "int8", "threads", "workers")}
        job |= {"task": task, "format": format.key, "imgsz": self.imgsz, "device": opt.device or "cpu"}
        job |= {"file": str(file or self.copy), "data": str(self.data)}
        command = [sys.executable, "-m", "extras.benchmark.worker", json.dumps(job)]
        return run_process(command, self.folder / f"{format.key}-{task}.log", TIMEOUT_S)


def summary(row: Row) -> str:
    """Return a row in one line, while the others are still to come."""
    if row.status != "ok":
        return f"{row.status}{f', {row.note}' if row.note else ''}"
    return f"mAP50-95 {cell(row, 'map')}, {cell(row, 'ms')} ms/image, {cell(row, 'memory_mb')} MB of memory"


def cell(row: Row, column: str) -> str:
    value = getattr(row, column)
    return "-" if value is None else format(value, COLUMNS[column][1])


def table(rows: list) -> str:
    """Return the rows under their titles; text to the left, numbers to the right."""
    titles = [title for title, _ in COLUMNS.values()]
    left = [i for i, key in enumerate(COLUMNS) if key in TEXT_COLUMNS]
    return aligned([titles, *([cell(row, key) for key in COLUMNS] for row in rows)], left)


def write_csv(rows: list, file: Path) -> None:
    """Write all fields of the rows; an empty cell where there is no value."""
    write_table(file, [[field.name for field in fields(Row)], *(asdict(row).values() for row in rows)])


def write_report(rows: list, folder: Path, title: str) -> None:
    """Print the table, what came of how many formats, and where the files are."""
    LOGGER.info(f"\n{table(rows)}\n")
    counts = Counter(row.status for row in rows)
    LOGGER.info(", ".join(f"{counts[status]} {status}" for status in ("ok", "exported", "skipped", "failed")))
    if any(row.ms is not None for row in rows):
        plot(rows, folder / "benchmarks.png", title)
    LOGGER.info(f"Results saved to {colorize(str(folder), 'good')}")


def exit_code(rows: list, opt) -> int:
    """Return 1 if --hard-fail is given and a format failed, was named but skipped, or has a lower mAP50-95."""
    if opt.hard_fail is None or opt.hard_fail is False:
        return 0
    least = 0.0 if opt.hard_fail is True else opt.hard_fail
    problems = [f"{row.format} failed" for row in rows if row.status == "failed"]
    problems += [f"{row.format} was skipped" for row in rows if row.status == "skipped" and opt.include]
    low = [row for row in rows if row.map is not None and not row.map >= least]
    problems += [f"{row.format} has mAP50-95 {row.map:.4f}, at least {least:g} expected" for row in low]
    for problem in problems:
        LOGGER.error(f"--hard-fail: {problem}")
    return int(bool(problems))


def plot(rows: list, file: Path, title: str = "") -> None:
    """Draw mAP50-95 over the milliseconds of an image, a point with its name for each measured format."""
    from utils.plots.charts import new_figure, save_figure
    from utils.plots.palette import colors

    figure, ((axis,),) = new_figure()
    measured = sorted((row for row in rows if row.ms is not None), key=lambda row: row.ms)
    for i, row in enumerate(measured):
        color = tuple(channel / 255 for channel in colors(i))
        name = f"{row.format} {row.precision}, {row.ms:.1f} ms"
        axis.scatter(row.ms, 100 * row.map, s=60, color=color, zorder=3, label=name)
    figure.legend(loc="outside right upper")  # names at the points would hide each other
    low, high = min(100 * row.map for row in measured), max(100 * row.map for row in measured)
    margin = max(high - low, 2.0)  # differences in the last digit are not to look like much
    axis.set_ylim(low - margin, high + margin)
    axis.set_xlim(0, 1.15 * measured[-1].ms)
    axis.set(xlabel="time (ms/image)", ylabel="mAP@0.5:0.95 (%)", title=title.replace("$", r"\$"))
    axis.grid(alpha=0.3)
    save_figure(figure, file, dpi=150)
