"""Compare what models cost at inference: our model files, YOLOv5n, YOLOv5s and any ONNX files, in every runtime.

    python -m bench latency                                                     all, which takes an hour the first time
    python -m bench latency --models models/yolov5n.yaml --runtimes onnx --quick
    python -m bench latency --onnx other.onnx --threads 1 --sizes 640           others' files beside ours
    python -m bench latency --files-only --sizes 320 416 512 640                only the files, for on_device.py
    python -m bench latency --train bccd.yaml --sizes 320 --budget 4m20s        train each, then AP against latency
    python -m bench latency --accuracy runs/train/exp*                          … with trainings that there are

Weights are random numbers: they do not change the time. The models of one runtime, size and number of threads are timed
in turns, A B C A B C ..., and all of these groups are visited twice (--passes), so that a slow minute hits all. Files
that are written stay in FOLDER/files and are taken again as long as neither the model file nor models/ changes;
latency.json, latency.md and latency.png are written anew after each group. What cannot be measured here is a row that
says why.
"""

import argparse
import platform
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from bench import accuracy, latency_report
from bench.report import processor
from extras.latency.figures import Figure, Subject, fill, measure_group, prepare, read_figures
from extras.latency.files import NC, memory_mb, model_files
from extras.latency.operators import operator_shares
from extras.latency.runtimes import RUNTIMES, Runtime
from utils.console.text import counted
from utils.general import ROOT, check_yaml, usable_cores

GROUP_S = 20.0  # most seconds of a visit of a group
QUICK_S, QUICK_TURNS = 2.0, 6
PACKAGES = ("onnxruntime", "openvino", "ai-edge-litert", "ncnn", "torch", "numpy")


class Group(NamedTuple):
    """What is timed in turns: everything of one size, runtime and number of threads."""

    size_px: int
    threads: int
    runtime: Runtime


@dataclass
class Results:
    """All that was measured so far."""

    figures: list[Figure]
    operators: dict[str, dict[str, float]]  # model -> operator -> share of the time


def parse_opt(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench latency", description=__doc__.splitlines()[0])
    add = parser.add_argument
    default = "models/yolov5_edgevit*.yaml, yolov5n, yolov5s"
    add("--models", nargs="*", default=None, metavar="YAML", help=f"model files (default: {default})")
    add("--onnx", nargs="+", default=[], metavar="FILE", help="written ONNX files to be timed beside them")
    add("--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES), help="default: all")
    cores = sorted({1, usable_cores()}) if usable_cores() < 2 else [1, 2]
    add("--threads", nargs="+", type=int, default=cores, help=f"numbers of threads (default: {cores})")
    add("--sizes", nargs="+", type=int, default=[320, 640], help="sides of the image in pixels (default: 320 640)")
    add("--nc", type=int, default=NC, help=f"classes of the model files (default: {NC})")
    add("--passes", type=int, default=2, help="visits of each group (default: 2)")
    add("--quick", action="store_true", help="fewer turns and one pass: only to see that it runs")
    add("--files-only", action="store_true", help="write the files and measure nothing")
    add("--folder", default=str(ROOT / "bench" / "results" / "latency"), help="where all files go")
    add("--accuracy", nargs="+", default=[], metavar="RUN", help="run folders or results.csv of train.py; joined with "
        "FOLDER/latency.json where it exists, and nothing is measured then")  # fmt: skip
    add("--train", default="", metavar="YAML", help="train every model on this data set for the accuracy, too")
    add("--budget", default="4m20s", help="with --train: time of a training (default: 4m20s)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="with --train")
    opt = parser.parse_args(argv)
    if wrong := [size for size in opt.sizes if size < 32 or size % 32]:
        parser.error(f"--sizes: expected multiples of 32, found {wrong[0]}")
    for flag, numbers in (("--threads", opt.threads), ("--passes", [opt.passes])):
        if min(numbers) < 1:
            parser.error(f"{flag}: expected whole numbers from 1, found {min(numbers)}")
    if missing := [file for file in opt.onnx if not Path(file).is_file()]:
        parser.error(f"--onnx: {missing[0]}: no such file")
    try:
        opt.models = model_files() if opt.models is None else [check_yaml(name).absolute() for name in opt.models]
    except (OSError, ValueError) as error:
        parser.error(f"--models: {error}")
    names = [file.stem for file in opt.models]
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(f"--models: two files are called {twice[0]}: the tables could not tell them apart")
    return opt


def main(opt: argparse.Namespace) -> int:
    folder = Path(opt.folder)
    folder.mkdir(parents=True, exist_ok=True)
    json_file = folder / "latency.json"
    runs = [*opt.accuracy, *(accuracy.train(opt, folder) if opt.train else [])]
    if opt.accuracy and json_file.is_file():
        print(f"latencies: {json_file}")
        figures = read_figures(json_file)
    else:
        results = run(opt, folder)
        figures = results.figures
        if opt.files_only:
            return 0
        print("\n".join([latency_report.console(figures), str(folder / "latency.md")]))
    if runs:
        print(accuracy.write_curve(accuracy.read_runs(runs), figures, folder))
    return int(all(figure.median_ms is None for figure in figures))


def run(opt: argparse.Namespace, folder: Path) -> Results:
    """Write the files, then time them group by group, then weigh them; the reports are written after each step."""
    groups = [Group(s, t, RUNTIMES[key]) for s in opt.sizes for t in opt.threads for key in opt.runtimes]
    files, notes = write_files(opt, folder / "files")
    results, times = Results([], {}), defaultdict(list)
    if opt.files_only:
        return results
    skipped = [Figure(name, s, r.key, t, note=note) for s, t, r in groups for name, note in notes[s, r.key].items()]
    for number in range(1 if opt.quick else opt.passes):
        for group in groups:
            entries = files[group.size_px, group.runtime.key]
            if not entries:
                continue
            print(f"pass {number + 1}: {group.runtime.key}, {group.size_px} px, {group.threads} threads", flush=True)
            add_group(results, times, entries, group, opt.quick)
            latency_report.write(replace(results, figures=results.figures + skipped), folder, conditions(opt))
    weigh(results.figures, files)
    results.figures += skipped
    results.operators = profile(opt, files)
    latency_report.write(results, folder, conditions(opt))
    return results


def write_files(opt: argparse.Namespace, folder: Path) -> tuple[dict, dict]:
    """Return {(size, runtime): [(subject, file)]}, and {(size, runtime): {name: why there is no file}}."""
    subjects = [*map(Subject, map(Path, opt.models)), *(Subject(Path(file), is_given=True) for file in opt.onnx)]
    files, notes = defaultdict(list), defaultdict(dict)
    for size in opt.sizes:
        for runtime in map(RUNTIMES.get, opt.runtimes):
            for subject in subjects:
                file, note = prepare(subject, size, runtime, folder, opt.nc)
                if file:
                    files[size, runtime.key].append((subject, file))
                else:
                    notes[size, runtime.key][subject.name] = note
                print(f"{subject.name}, {size} px, {runtime.key}: {file or note}", flush=True)
    return files, notes


def add_group(results: Results, times: dict, entries: list, group: Group, quick: bool) -> None:
    """Time a group, and put its times together with those of earlier passes."""
    limits = {"most_s": QUICK_S, "least_turns": QUICK_TURNS} if quick else {"most_s": GROUP_S}
    figures, seconds = measure_group(entries, group.size_px, group.runtime, group.threads, **limits)
    for figure, own in zip(figures, seconds):
        key = (figure.model, figure.size_px, figure.runtime, figure.threads)
        if key not in times:
            results.figures.append(figure)
        times[key] += own
        known = next(one for one in results.figures if (one.model, one.size_px, one.runtime, one.threads) == key)
        fill(known, times[key])


def weigh(figures: list[Figure], files: dict) -> None:
    """Put the memory of a process with one thread into the figures."""
    for (size, key), entries in files.items():
        for subject, file in entries:
            own = [f for f in figures if (f.model, f.size_px, f.runtime) == (subject.name, size, key) and f.median_ms]
            try:
                found = memory_mb(file, size, RUNTIMES[key]) if own else None
            except RuntimeError as error:
                print(f"{subject.name}, {size} px, {key}: memory not measured: {error}")
                continue
            for figure in own:
                figure.memory_mb = found


def profile(opt: argparse.Namespace, files: dict) -> dict[str, dict[str, float]]:
    """Return the share of each kind of operator in ONNX Runtime, of each model at the first size; {} without it."""
    size = opt.sizes[0]
    found = {}
    for subject, file in files[size, "onnx"]:
        try:
            found[f"{subject.name}, {size} px"] = operator_shares(file, size)
        except Exception as error:  # ONNX Runtime's errors have no common class.
            print(f"{subject.name}: no profile: {error}")
    return found


def conditions(opt: argparse.Namespace) -> dict:
    """Return the machine, the versions and the command as plain data."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    how = "one pass, QUICK" if opt.quick else counted(opt.passes, "pass")
    return {"cpu": processor(), "cores": usable_cores(), "system": sys.platform, "runtimes": versions, "how": how}
