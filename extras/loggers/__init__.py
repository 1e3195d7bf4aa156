"""Followers of a training: TensorBoard, Weights & Biases, MLflow, ClearML and Comet behind one small interface.

Each is imported when it is chosen, keeps all that it is given on this machine unless its name ends in ":online", and
cannot end a training: what fails is said once.
"""

from __future__ import annotations

import json
import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from utils.callbacks import Callbacks
from utils.console.text import did_you_mean
from utils.files import read_text, write_whole
from utils.logger import LOGGER

# --logger -> (the package that it needs, the class of the module of that name in this folder)
LOGGERS = {
    "tensorboard": ("tensorboard", "TensorBoardLogger"),
    "wandb": ("wandb", "WandbLogger"),
    "mlflow": ("mlflow", "MlflowLogger"),
    "clearml": ("clearml", "ClearmlLogger"),
    "comet": ("comet_ml", "CometLogger"),
}
IDS = "loggers.json"  # in the run folder: by which identifier a resumed run goes on in each of them


class RunInfo(NamedTuple):
    """The description of a run that a logger gets: its folder, its options as plain data, and its identifier."""

    folder: Path
    options: dict
    online: bool = False
    id: str = ""  # of the run in this logger, where it is a resumed one

    @property
    def project(self) -> str:
        """The name under which runs are kept together."""
        return self.folder.parent.name or "train"


def parse_name(text: str) -> tuple[str, bool]:
    """Split NAME or NAME:online into (name, whether it may use the network).

    ValueError for an unknown name, ImportError where its package is not installed.
    """
    name, _, mode = text.partition(":")
    if name not in LOGGERS or mode not in ("", "online"):
        known = ", ".join(LOGGERS)
        raise ValueError(f"--logger {text}: expected one of {known}, with :online behind it to use the network"
                         f"{did_you_mean(name, LOGGERS, ' ({})')}")  # fmt: skip
    package = LOGGERS[name][0]
    if find_spec(package) is None:
        raise ImportError(f"--logger {name} needs the package {package}: pip install {package.replace('_', '-')}")
    return name, mode == "online"


def check(texts: list[str]) -> list[tuple[str, bool]]:
    """Return (name, online) of each logger. ValueError or ImportError as in parse_name()."""
    return [parse_name(text) for text in dict.fromkeys(texts)]


def attach(texts: list[str], folder: Path, columns: tuple[str, ...], options: dict, callbacks: Callbacks) -> None:
    """Let the loggers `texts` follow a training through its hooks, until its teardown.

    columns: the names of an epoch's values. ValueError or ImportError as in parse_name().
    """
    ids = _read_ids(folder / IDS)
    loggers = []
    for name, online in check(texts):
        logger = Guarded(name)
        logger.start(RunInfo(folder, options, online, ids.get(name, "")))
        loggers.append(logger)
    ids |= {logger.name: logger.id for logger in loggers if logger.id}
    if ids:
        write_whole(folder / IDS, json.dumps(ids, indent=2) + "\n")
    _register(loggers, folder, columns, callbacks)


def _read_ids(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    try:
        ids = json.loads(read_text(file))
        return {name: ids[name] for name in LOGGERS if isinstance(ids.get(name), str)}
    except (ValueError, AttributeError):
        LOGGER.warning(f"{file}: not what --logger wrote; the loggers begin new runs")
        return {}


def _register(loggers: list[Guarded], folder: Path, columns: tuple[str, ...], callbacks: Callbacks) -> None:
    def on_fit_epoch_end(values, epoch, best_fitness, fitness) -> None:
        figures = {name: float(value) for name, value in zip(columns, values) if math.isfinite(value)}
        for logger in loggers:
            logger.call("write_epoch", figures, epoch)

    def on_train_end(last, best, epoch, results) -> None:
        pictures = [file for kind in ("*.jpg", "*.png") for file in sorted(folder.glob(kind))]
        model = next((file for file in (best, last) if file.is_file()), None)
        for logger in loggers:
            logger.call("write_files", pictures, model, epoch)

    def teardown() -> None:
        for logger in loggers:
            logger.call("close")
        for hook, function in hooks.items():
            actions = callbacks.get_registered_actions(hook)
            actions[:] = [action for action in actions if action["callback"] is not function]

    hooks = {"on_fit_epoch_end": on_fit_epoch_end, "on_train_end": on_train_end, "teardown": teardown}
    for hook, function in hooks.items():
        callbacks.register_action(hook, "loggers", function)


class Guarded:
    """A logger whose failure is said once, after which the training goes on without it."""

    def __init__(self, name: str):
        self.name, self.id, self._logger = name, "", None

    def start(self, run: RunInfo) -> None:
        """Import the logger's module and begin its run."""
        try:
            module = import_module(f"extras.loggers.{self.name}")
            self._logger = getattr(module, LOGGERS[self.name][1])(run)
        except Exception as error:  # of a foreign package
            self._give_up(error)
        else:
            self.id = self._logger.id
            LOGGER.info(f"{self.name}: {self._logger.where}")

    def call(self, method: str, *args) -> None:
        """Call a method of the logger, if there still is one."""
        if self._logger is not None:
            try:
                getattr(self._logger, method)(*args)
            except Exception as error:  # of a foreign package
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._logger = None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        LOGGER.warning(f"--logger {self.name} failed, the training goes on without it: {reason}")
