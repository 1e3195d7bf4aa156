"""Latencies as a table on the console and in Markdown, as JSON and as a picture."""

from pathlib import Path

from extras.latency.figures import Figure, write_figures
from utils.console.text import aligned
from utils.files import write_whole
from utils.plots.charts import new_figure, plain_text, save_figure, unit_rgb
from utils.plots.palette import colors

HEADING = ("model", "px", "runtime", "threads", "ms", "10 to 90 %", "runs", "file MB", "memory MB", "note")
TEXT_COLUMNS = (0, 2, 9)
OPERATORS_SHOWN = 8  # kinds of operators of a model; the others are one


def cells(figure: Figure) -> list[str]:
    """Return a row of the table."""
    ms = "-" if figure.median_ms is None else f"{figure.median_ms:.2f}"
    span = "-" if figure.low_ms is None else f"{figure.low_ms:.2f} to {figure.high_ms:.2f}"
    sizes = [
        "-" if value is None else f"{value:.{digits}f}"
        for value, digits in ((figure.size_mb, 1), (figure.memory_mb, 0))
    ]
    name = [figure.model, str(figure.size_px), figure.title, str(figure.threads)]
    return [*name, ms, span, str(figure.runs), *sizes, figure.note]


def console(figures: list[Figure]) -> str:
    return aligned([HEADING, *map(cells, figures)], left=TEXT_COLUMNS)


def markdown_table(heading, rows) -> str:
    lines = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    return "\n".join([*lines, *("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows)])


def markdown(results, conditions: dict) -> str:
    """Return the page: the conditions, the figures, and the operators' shares."""
    versions = ", ".join(f"{name} {number}" for name, number in conditions["runtimes"].items())
    about = (
        f"{conditions['cpu']}, {conditions['cores']} cores, {conditions['system']}; {versions}; {conditions['how']}."
    )
    what = "Milliseconds of one inference of one image, without letterbox and NMS: the median, and its middle 80 %."
    parts = ["# Latency", about, what, markdown_table(HEADING, map(cells, results.figures))]
    if results.operators:
        rows = [[model, operator_text(shares)] for model, shares in results.operators.items()]
        parts += ["## Operators", "Shares of the time in ONNX Runtime, one thread, by its profile.",
                  markdown_table(("model", "operators"), rows)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def operator_text(shares: dict[str, float]) -> str:
    shown = list(shares.items())[:OPERATORS_SHOWN]
    rest = 1 - sum(share for _, share in shown)
    texts = [f"{name} {share:.0%}" for name, share in shown]
    return ", ".join([*texts, f"others {rest:.0%}"] if len(shares) > len(shown) else texts)


def write(results, folder: Path, conditions: dict) -> None:
    """Write latency.json, latency.md and, if there is anything to draw, latency.png."""
    write_figures(folder / "latency.json", conditions, results.figures, operators=results.operators)
    write_whole(folder / "latency.md", markdown(results, conditions))
    measured = [figure for figure in results.figures if figure.median_ms is not None]
    if measured:
        plot(measured, folder / "latency.png", conditions["cpu"])


def plot(figures: list[Figure], file: Path, title: str) -> None:
    """Draw a panel for each size and number of threads: a bar with its range for each model in each runtime."""
    places = list(dict.fromkeys((figure.size_px, figure.threads) for figure in figures))
    models = list(dict.fromkeys(figure.model for figure in figures))
    runtimes = list(dict.fromkeys(figure.title for figure in figures))
    canvas, axes = new_figure(len(places), 1, size=(3 + 1.2 * len(runtimes), 3.2 * len(places)))
    width = 0.8 / len(models)
    for (axis,), (size, threads) in zip(axes, places):
        for i, model in enumerate(models):
            own = [f for f in figures if (f.model, f.size_px, f.threads) == (model, size, threads)]
            heights = [f.median_ms for f in own]
            span = [[f.median_ms - f.low_ms for f in own], [f.high_ms - f.median_ms for f in own]]
            x = [runtimes.index(f.title) + (i - (len(models) - 1) / 2) * width for f in own]
            axis.bar(x, heights, width, yerr=span, capsize=2, color=unit_rgb(colors(i)), label=plain_text(model))
        axis.set_xticks(range(len(runtimes)), ["\n".join(title.rsplit(" ", 1)) for title in runtimes])
        axis.set(ylabel="ms", title=f"{size} px, {threads} thread{'s' * (threads != 1)}")
        axis.grid(axis="y", alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside right upper")
    canvas.suptitle(plain_text(title), fontsize=9)
    save_figure(canvas, file, dpi=110)
