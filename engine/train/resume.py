"""Going on with an interrupted training: which checkpoint, and which options."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine import options
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.general import latest_run

MAY_CHANGE = ("resume", "device", "workers", "local_rank", "profile")


def resume(opt: argparse.Namespace, task) -> tuple[argparse.Namespace, Checkpoint, Path]:
    """Return the options of the interrupted run, its checkpoint and its run folder.

    `opt.resume` is a path or True: then it is opt.weights where that is the last.pt of an interrupted run, else the
    newest last.pt below the task's default folder. Of the other options only those in MAY_CHANGE may differ from the
    checkpoint's. FileNotFoundError without a checkpoint, ValueError if the training is finished or another option was
    given.
    """
    opt = _with_named_run(opt, task)
    pattern = f"{default_options(task)['project']}/*/weights/last.pt"
    path = latest_run(pattern) if opt.resume is True else Path(opt.resume)
    if path is None:
        raise FileNotFoundError(f"--resume: no {pattern} here; give the path of a last.pt")
    if not path.is_file():
        raise FileNotFoundError(f"--resume: no file {path}")
    if path.resolve().parent.name != "weights":
        raise ValueError(f"--resume: expected RUN_FOLDER/weights/last.pt, found {path}")
    checkpoint = load_checkpoint(path)
    if checkpoint.train_state is None:
        raise ValueError(
            f"--resume: {path} holds no training state: its training is finished, or it is not a last.pt. "
            f"To train it further, start a new run with --weights {path}"
        )
    if checkpoint.task != task.name:
        raise ValueError(f"--resume: {path} is a training for '{checkpoint.task}', expected one for '{task.name}'")
    return merge_options(opt, checkpoint.opt or {}, task), checkpoint, path.parent.parent


def _with_named_run(opt: argparse.Namespace, task) -> argparse.Namespace:
    """Return the options with --weights as the path of --resume, where they name a run that can go on.

    Else they may be those that the newest run itself began with.
    """
    path = Path(str(vars(opt).get("weights") or ""))
    is_last = opt.resume is True and path.name == "last.pt"
    is_in_run = is_last and path.is_file() and path.resolve().parent.name == "weights"
    if not is_last or (is_in_run and load_checkpoint(path).train_state is None):
        return opt
    return argparse.Namespace(**{**vars(opt), "resume": str(path), "weights": default_options(task)["weights"]})


def default_options(task) -> dict:
    return vars(options.from_kwargs(task.script.removesuffix(".py"), {}))


def given_options(opt: argparse.Namespace, task) -> dict:
    """Return the training options that differ from their defaults."""
    defaults = default_options(task)
    return {key: value for key, value in vars(opt).items() if key in defaults and value != defaults[key]}


def merge_options(opt: argparse.Namespace, saved: dict, task) -> argparse.Namespace:
    """Return the saved options with the given ones of MAY_CHANGE; ValueError if another one was changed."""
    defaults = default_options(task)
    given = given_options(opt, task)
    changed = [key for key in given if key not in MAY_CHANGE and given[key] != saved.get(key)]
    if changed:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in changed)
        hint = "; to go on with another run: --resume RUN_FOLDER/weights/last.pt" if "weights" in changed else ""
        raise ValueError(f"--resume goes on with the options of the interrupted run; {flags} cannot change{hint}")
    kept = {key: given[key] for key in ("device", "workers", "profile") if key in given}
    return argparse.Namespace(**{**defaults, **saved, **kept, "resume": opt.resume})
