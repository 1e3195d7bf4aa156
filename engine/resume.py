"""Going on with an interrupted training: which checkpoint, and which options."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine import options
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.general import latest_run

MAY_CHANGE = ("resume", "device", "workers", "local_rank")


def resume(opt: argparse.Namespace) -> tuple[argparse.Namespace, Checkpoint, Path]:
    """The options of the interrupted run, its checkpoint and its run folder.

    `opt.resume` is True (the newest runs/train/*/weights/last.pt) or a path. Of the other options only those in
    MAY_CHANGE may differ from the checkpoint's. FileNotFoundError without a checkpoint, ValueError if the training
    is finished or another option was given.
    """
    path = latest_run() if opt.resume is True else Path(opt.resume)
    if path is None:
        raise FileNotFoundError("--resume: no runs/train/*/weights/last.pt here; give the path of a last.pt")
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
    return merge_options(opt, checkpoint.opt or {}), checkpoint, path.parent.parent


def given_options(opt: argparse.Namespace) -> dict:
    """The training options that differ from their defaults."""
    defaults = vars(options.from_kwargs("train", {}))
    return {key: value for key, value in vars(opt).items() if key in defaults and value != defaults[key]}


def merge_options(opt: argparse.Namespace, saved: dict) -> argparse.Namespace:
    """The saved options with a given --device or --workers put over them; ValueError if another one was changed."""
    defaults = vars(options.from_kwargs("train", {}))
    given = given_options(opt)
    changed = [key for key in given if key not in MAY_CHANGE and given[key] != saved.get(key)]
    if changed:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in changed)
        raise ValueError(f"--resume goes on with the options of the interrupted run; {flags} cannot change")
    kept = {key: given[key] for key in ("device", "workers") if key in given}
    return argparse.Namespace(**{**defaults, **saved, **kept, "resume": opt.resume})
