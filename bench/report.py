"""The rows as a line on the console, a Markdown table, JSON and a plot."""

import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from bench.harness import Row, Settings

COLUMNS = ("what", "against", "ratio (range)", "ours", "theirs", "memory", "mark", "reached", "note")


def number(value, unit: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def cells(row: Row) -> list:
    """Return the texts of a row under COLUMNS."""
    ratio = memory = "-"
    if row.ratio is not None:
        ratio = f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})"
    if row.memory_ratio is not None:
        memory = f"{row.memory_ratio:.2f} ({number(row.ours_mb)} / {number(row.theirs_mb, 'MB')})"
    marks = [] if row.mark is None else [f"<= {number(row.mark, '' if row.reference else row.unit)}"]
    marks += [] if row.memory_mark is None else [f"memory <= {row.memory_mark:g}"]
    reached = {True: "yes", False: "no", None: "-"}[row.reached]
    note = row.note if row.status == "ok" else f"{row.status}: {row.note}"
    figures = number(row.ours, row.unit), number(row.theirs, row.unit)
    return [row.what, row.reference or "-", ratio, *figures, memory, ", ".join(marks) or "-", reached, note]


def line(row: Row) -> str:
    what, reference, ratio, ours, theirs, memory, mark, reached, note = cells(row)
    if row.status != "ok":
        return f"{row.bench}: {what}: {note}"
    text = f"{row.bench}: {what}: " + (f"{ratio} x {reference}, {ours} / {theirs}" if row.reference else ours)
    text += f", memory {memory}" if memory != "-" else ""
    text += f", mark {mark}: {reached}" if mark != "-" else ""
    return f"{text} {f'[{note}]' if note else ''}".rstrip()


def machine(settings: Settings) -> str:
    """Return one line about the conditions of the run."""
    load = f", load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    how = f"{settings.threads} threads, {settings.pairs} pairs, {settings.clock} clock{', QUICK' * settings.quick}"
    versions = f"Python {platform.python_version()}, torch {version('torch')}, {sys.platform}"
    return f"{processor()}, {how}, {versions}{load}"


def processor() -> str:
    """Return the processor's name."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((text.split(": ")[1] for text in lines if text.startswith("model name")), model)
    return model


def markdown(rows: list, conditions: str) -> str:
    lines = ["# Measurements", "", conditions, "", "Ratios are ours / theirs: lower is better.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write(rows: list, folder: Path, settings: Settings) -> None:
    """Write bench.md, bench.json and bench.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    conditions = machine(settings)
    (folder / "bench.md").write_text(markdown(rows, conditions), encoding="utf-8")
    content = {"conditions": conditions, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}
    (folder / "bench.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    if any(row.ratios for row in rows):
        plot(rows, folder / "bench.png", conditions)


def plot(rows: list, file: Path, title: str) -> None:
    """Draw a bar for each ratio with its range, and a tick at its mark; the dashed line at 1 is the opponent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.ratios][::-1]
    figure = Figure(figsize=(10, 1.5 + 0.35 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colors = {True: "tab:green", False: "tab:orange", None: "tab:blue"}
    for y, row in enumerate(rows):
        span = [[row.ratio - min(row.ratios)], [max(row.ratios) - row.ratio]]
        axis.barh(y, row.ratio, color=colors[row.reached], alpha=0.7, xerr=span, ecolor="black", capsize=3)
        if row.mark is not None:
            axis.plot([row.mark] * 2, [y - 0.4, y + 0.4], color="black", linewidth=2)
    axis.axvline(1, color="grey", linestyle="--")
    axis.set_yticks(range(len(rows)), [f"{row.what}\nagainst {row.reference}" for row in rows], fontsize=7)
    axis.set_xlabel("time, ours / theirs: lower is better; black: mark to reach, green: reached, orange: not")
    axis.set_title(title, fontsize=7)
    figure.savefig(file, dpi=120)
