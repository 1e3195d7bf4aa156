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

    `opt.resume` is a path or True: then it is opt.weights, if given, else the newest last.pt below the task's default
    folder. Of the other options only those in MAY_CHANGE may differ from the checkpoint's. FileNotFoundError without a
    checkpoint, ValueError if the training is finished or another option was given.
    """
    weights = given_options(opt, task).get("weights")
    if opt.resume is True and weights:
        opt = argparse.Namespace(**{**vars(opt), "resume": weights, "weights": default_options(task)["weights"]})
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
        raise ValueError(f"--resume goes on with the options of the interrupted run; {flags} cannot change")
    kept = {key: given[key] for key in ("device", "workers", "profile") if key in given}
    return argparse.Namespace(**{**defaults, **saved, **kept, "resume": opt.resume})
