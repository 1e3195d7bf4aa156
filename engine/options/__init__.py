"""The command lines: the only home of flags and their defaults. Imports argparse alone, so that --help is instant.

`parse(name, argv)` reads a command line; `from_kwargs(name, kwargs)` does the same for `run(**kwargs)` from Python.
An option in DATA_DEFAULTS is None until `apply_data_defaults` takes it from the data file, else from that table.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from importlib import import_module

from engine.options.flags import BOUNDS, DATA_DEFAULTS
from engine.options.inference import (
    classify_predict_parser,
    classify_val_parser,
    detect_parser,
    segment_predict_parser,
    segment_val_parser,
    val_parser,
)
from engine.options.serving import serve_parser
from engine.options.tools import benchmark_parser, compare_parser, export_parser
from engine.options.training import classify_train_parser, pretrain_parser, segment_train_parser, train_parser
from utils.console.text import did_you_mean

PARSERS = {
    "train": train_parser,
    "val": val_parser,
    "detect": detect_parser,
    "export": export_parser,
    "benchmarks": benchmark_parser,
    "compare": compare_parser,
    "pretrain": pretrain_parser,
    "serve": serve_parser,
    "segment/train": segment_train_parser,
    "segment/val": segment_val_parser,
    "segment/predict": segment_predict_parser,
    "classify/train": classify_train_parser,
    "classify/val": classify_val_parser,
    "classify/predict": classify_predict_parser,
}
# OpenMP's own names. Whoever sets one of them has chosen how threads wait.
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
SPINS = "1000"  # Turns of a thread's waiting loop before it sleeps; by itself libgomp takes 300,000, some milliseconds.
TRAININGS = ("train", "pretrain", "segment/train", "classify/train")


def parse(name: str, argv: Sequence[str] | bool | None = None) -> argparse.Namespace:
    """Read a command line (default: sys.argv) with the parser called `name`.

    True reads sys.argv and passes over what it does not know, as YOLOv5's parse_opt(known=True) does.
    """
    parser = PARSERS[name]()
    return parser.parse_known_args()[0] if argv is True else parser.parse_args(None if argv is False else argv)


def start(name: str, main: Callable[[argparse.Namespace], int | None], first: str = "") -> int:
    """Run a script's main() with its command line and return the exit code.

    first: a slow package that main() needs, imported beforehand without garbage collection.
    """
    opt = parse(name)
    share_cores(trains=name in TRAININGS)
    from utils.console.guard import main_guard
    from utils.general import collecting_later  # --help needs neither this nor the guard.

    def run() -> int | None:
        check_bounds(opt)
        if first:
            with collecting_later():
                import_module(first)
        return main(opt)

    return main_guard(run)


def share_cores(trains: bool) -> None:
    """Let threads that wait for others sleep soon, unless the environment says how they wait.

    Where another process has a core, a thread that waits at work keeps the one from it that it waits for. A training
    has so many short waits that sleeping costs it half of its speed on an idle machine: it sleeps only where another
    process is at work now. To be called before torch is imported: its libgomp reads the environment once. Processes
    that this one starts inherit it.
    """
    from utils.general import others_are_busy

    if not any(name in os.environ for name in WAITING) and (not trains or others_are_busy()):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def check_bounds(opt: argparse.Namespace, as_flags: bool = True) -> None:
    """Raise ValueError for a number beyond BOUNDS, with the option's name as on a command line or as in Python."""
    for option, (low, high) in BOUNDS.items():
        value = getattr(opt, option, None)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(number, (int, float)):
                continue
            is_whole = isinstance(low, int)
            if not low <= number <= high or (is_whole and number % 1):
                name = f"--{option.replace('_', '-')}" if as_flags else option
                what = f"a whole number between {low} and {high}" if is_whole else f"between {low:g} and {high:g}"
                raise ValueError(f"{name} must be {what}, found {number}")


def from_kwargs(name: str, kwargs: dict) -> argparse.Namespace:
    """Return the parser's defaults with `kwargs` put over them.

    Keys are option names with underscores; every alias counts (imgsz, img, img_size). An unknown key is a TypeError
    that names the nearest, a value outside an option's choices a ValueError.
    """
    parser = PARSERS[name]()
    opt = parser.parse_args([])
    actions = {s.lstrip("-").replace("-", "_"): action for s, action in parser._option_string_actions.items()}
    for key, value in kwargs.items():
        if key not in actions:
            raise TypeError(f"{name}.run() has no option '{key}'{did_you_mean(key, actions, ' ({})')}")
        action = actions[key]
        if action.choices is not None and value is not None and value not in action.choices:
            raise ValueError(f"{name}.run(): {key}={value!r} is not one of {list(action.choices)}")
        if action.nargs == "+" and isinstance(value, (int, str)):
            value = [value]
        setattr(opt, action.dest, value)
    check_bounds(opt, as_flags=False)
    return opt


def apply_data_defaults(opt: argparse.Namespace, data: dict, fallbacks=None) -> list[str]:
    """Fill the options that were not given from the data file's own defaults; returns a line for each one taken.

    fallbacks: values, by option, that go before those of DATA_DEFAULTS. The file's hyp is made for its optimizer, and
    is left out where another one was given.
    """
    if "optimizer" in data and getattr(opt, "optimizer", None) not in (None, data["optimizer"]):
        data = {key: value for key, value in data.items() if key != "hyp"}
    taken, source = [], ", ".join(map(str, opt.data)) if isinstance(opt.data, list) else opt.data
    for option, (key, fallback) in DATA_DEFAULTS.items():
        if getattr(opt, option, fallback) is None:
            setattr(opt, option, data.get(key, (fallbacks or {}).get(option, fallback)))
            if key in data:
                taken.append(f"{option} {data[key]} (from {source})")
    return taken
