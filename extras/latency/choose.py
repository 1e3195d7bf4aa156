"""`train.py --latency 15ms`: the model and the image size that are expected to be the best under a bound on latency."""

import argparse
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from extras.latency.figures import Figure, Subject, measure_group, prepare, read_figures
from extras.latency.files import NC, model_files
from extras.latency.prior import Candidate, ranked
from extras.latency.runtimes import Runtime, find_runtime, reason_to_skip
from models.backends import names_of
from utils.console.text import aligned
from utils.general import check_img_size, check_yaml, usable_cores
from utils.logger import LOGGER

SIZES = (320, 416, 512, 640)  # px, where neither --img nor the file of figures has others
MEASURED_S = 6.0  # most seconds for the turns of one candidate
HEADING = ("model", "px", "GFLOPs", "ms", "")
Measure = Callable[[Candidate], float | None]  # median milliseconds, None where there is no figure


def chosen_options(opt: argparse.Namespace) -> argparse.Namespace:
    """Return the options of a training with the chosen --cfg and --img. ValueError if nothing meets --latency."""
    bound_ms, runtime = parse_latency(opt.latency), find_runtime(opt.runtime)
    if opt.weights not in ("", "none") and not opt.cfg:
        raise ValueError("--latency chooses the model: leave --weights away, or name its model file by --cfg")
    cfgs = [check_yaml(opt.cfg)] if opt.cfg else model_files()
    nc = len(names_of(opt.data)) or NC
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        if opt.latency_figures:
            known = figures_of(opt.latency_figures, runtime, opt.latency_threads)
            cfgs = [cfg for cfg in cfgs if cfg.stem in {model for model, _ in known}]
            sizes, measure = sorted({size for _, size in known}), from_figures(known)
            about = f"by {opt.latency_figures}"
        else:
            sizes, measure = list(SIZES), measuring_here(runtime, opt.latency_threads, nc, Path(folder))
            about = "on this machine"
        sizes = [check_img_size(opt.imgsz)] if opt.imgsz else sizes
        candidates = ranked(cfgs, sizes, nc)
        best, times = search(candidates, measure, bound_ms)
    LOGGER.info(f"\n--latency {bound_ms:g} ms in {runtime.title} {runtime.precision}, {about}, best expected first:")
    LOGGER.info(f"{table(times, best, bound_ms)}\n")
    if best is None:
        raise ValueError(nothing_fits(times, bound_ms, runtime))
    LOGGER.info(f"chosen: {best.cfg.name} at {best.size_px} px, {times[best]:.2f} ms")
    return argparse.Namespace(**{**vars(opt), "cfg": str(opt.cfg or best.cfg), "imgsz": best.size_px})


def parse_latency(text) -> float:
    """Return milliseconds of "15ms", "0.1s" or "15" (milliseconds). ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)?", str(text).strip())
    if not found or not float(found[1]):
        raise ValueError(f"--latency: expected a time such as 15ms or 0.1s, found '{text}'")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def search(candidates: list[Candidate], measure: Measure, bound_ms: float) -> tuple[Candidate | None, dict]:
    """Return the first candidate, of those in the order of the rule, that meets the bound, and {candidate: ms or None}.

    A model that misses the bound at its smallest size is not measured at others, and nothing behind the first that
    meets it: these have None.
    """
    times: dict[Candidate, float | None] = {}
    for candidate in candidates:
        own = [other for other in candidates if other.cfg == candidate.cfg]
        smallest = min(own, key=lambda other: other.size_px)
        for needed in dict.fromkeys((smallest, candidate)):
            if needed not in times:
                times[needed] = measure(needed)
            ms = times[needed]
            if ms is not None and ms > bound_ms:
                break
        ms = times.get(candidate)
        if ms is not None and ms <= bound_ms:
            return candidate, {other: times.get(other) for other in candidates}
    return None, {other: times.get(other) for other in candidates}


def figures_of(file, runtime: Runtime, threads: int) -> dict[tuple[str, int], float]:
    """Return {(model, px): ms} of a file of figures, for so many threads, 0 for the most that it has.

    ValueError if it has none of the runtime.
    """
    found = [f for f in read_figures(file) if f.median_ms is not None]
    own = [figure for figure in found if figure.runtime == runtime.key]
    threads = threads or max((figure.threads for figure in own), default=0)
    known = {(figure.model, figure.size_px): figure.median_ms for figure in own if figure.threads == threads}
    if not known:
        has = sorted({f"{figure.runtime} with {figure.threads} threads" for figure in found})
        wanted = f"{runtime.key}{f' with {threads} threads' if threads else ''}"
        raise ValueError(f"{file}: expected figures of {wanted}, found {', '.join(has) or 'none'}")
    return known


def from_figures(known: dict[tuple[str, int], float]) -> Measure:
    return lambda candidate: known.get((candidate.cfg.stem, candidate.size_px))


def measuring_here(runtime: Runtime, threads: int, nc: int, folder: Path) -> Measure:
    """Return a function that times a candidate on this machine. ValueError where the runtime is not installed."""
    if reason := reason_to_skip(runtime):
        raise ValueError(f"--runtime {runtime.key}: {reason}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--latency with several processes needs --latency-figures: they would time each other")
    threads = threads or usable_cores()

    def measure(candidate: Candidate) -> float | None:
        subject = Subject(Path(candidate.cfg).absolute())
        file, note = prepare(subject, candidate.size_px, runtime, folder, nc)
        figure = Figure(subject.name, candidate.size_px, runtime.key, threads, note=note)
        if file:
            (figure,), _ = measure_group([(subject, file)], candidate.size_px, runtime, threads, MEASURED_S)
        result = figure.note if figure.median_ms is None else f"{figure.median_ms:.2f} ms"
        LOGGER.info(f"{subject.name}, {candidate.size_px} px, {runtime.key}, {threads} threads: {result}")
        return figure.median_ms

    return measure


def table(times: dict[Candidate, float | None], best: Candidate | None, bound_ms: float) -> str:
    """Return the candidates in the order of the rule, with what came of each."""
    rows = [HEADING]
    for candidate, ms in times.items():
        result = "chosen" if candidate == best else "too slow" if ms is not None and ms > bound_ms else ""
        time = "-" if ms is None else f"{ms:.2f}"
        rows.append((candidate.cfg.name, candidate.size_px, f"{candidate.gflops:.1f}", time, result))
    return aligned(rows, left=(0, 4))


def nothing_fits(times: dict[Candidate, float | None], bound_ms: float, runtime: Runtime) -> str:
    measured = {candidate: ms for candidate, ms in times.items() if ms is not None}
    if not measured:
        return f"--latency: no candidate could be measured in {runtime.key}"
    fastest = min(measured, key=measured.get)
    found = f"{fastest.cfg.name} at {fastest.size_px} px with {measured[fastest]:.2f} ms"
    return f"--latency: nothing meets {bound_ms:g} ms in {runtime.key}; the fastest found is {found}"
