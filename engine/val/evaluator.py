"""Validation: run a model over a loader, score it, write the files. The loop of val.py and of trainings.

Evaluator is the loop that all tasks share; engine.val.detection adds what detection needs.
"""

import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.console.text import progress_bar
from utils.logger import LOGGER
from utils.timing import UNTIMED, Profile, Untimed

PLOTTED_BATCHES = 3


@dataclass(frozen=True)
class EvalOptions:
    """How to validate; the fields are val.py's flags of the same names."""

    half: bool = False  # fp16 autocast for a model on CUDA; a DetectMultiBackend has its own precision
    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    single_cls: bool = False
    augment: bool = False
    plots: bool = False
    save_dir: Path | None = None  # folder of every file below; must exist if one is written
    save_txt: bool = False
    save_hybrid: bool = False
    save_conf: bool = False
    save_json: bool = False
    verbose: bool = False
    v5_map: bool = False  # also print YOLOv5's own figures
    evidence: str = ""  # the dataset file, to write evidence.npz and print the intervals of a detector's mAP
    hooks: tuple = ()  # engine.hooks.ValHook objects
    predictor: Callable | None = None  # (paths, shapes) -> boxes [B, n, 6] in input pixels, in the place of the model
    progress: bool = True  # a progress bar, on a terminal

    def __post_init__(self):
        if self.save_dir is None and (self.plots or self.save_txt or self.save_json or self.evidence):
            raise ValueError("plots, save_txt, save_json and evidence need a save_dir, found None")


@contextmanager
def undisturbed(model):
    """Keep evaluation mode inside; afterwards every module's mode and all random states are as before."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, torch.nn.Module) else []
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else None
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)


class Evaluator:
    """The loop over a loader, its times, losses and hooks. A task's evaluator adds what is not implemented here."""

    header = ""  # the table's first line
    loss_names: tuple[str, ...] = ()  # as the task has them
    timed = ("pre-process", "inference", "post-process")

    def __init__(self, model, names, device, options, compute_loss=None, callbacks=None, times: Untimed = UNTIMED):
        self.model, self.device, self.options, self.compute_loss = model, device, options, compute_loss
        self.names = {0: names[0] if len(names) == 1 else "object"} if options.single_cls else names
        self.fire = callbacks.run if callbacks is not None else lambda *args: None
        self.times = times
        self.timers = [Profile(device=device) for _ in self.timed]
        self.losses = torch.zeros(len(self.loss_names), device=device)
        self.images = 0
        self.known = None  # a KnownClasses, where the pictures do not answer for every class

    def run(self, loader):
        self.known = getattr(getattr(loader, "dataset", None), "known", None)
        self.fire("on_val_start")
        LOGGER.info(self.header)
        batches = self.times.each("waiting", progress_bar(loader, "validating", self.options.progress))
        for i, batch in enumerate(batches):
            self.fire("on_val_batch_start")
            self.images += len(batch[0])
            self.step(i, *batch)
        self.times.count(self.images)
        with self.times("metrics"):
            result = self.compute(
                losses=tuple((self.losses / max(len(loader), 1)).tolist()),
                speed_ms=tuple(timer.t * 1000 / max(self.images, 1) for timer in self.timers),
            )
        self.report(result)
        if self.options.plots:
            with self.times("plots"):
                self.plot(result)
        self.close(result)
        return result

    def step(self, batch_i, images, targets, paths, shapes) -> None:
        """Predict one batch and record every image of it."""
        raise NotImplementedError

    def compute(self, losses: tuple, speed_ms: tuple):
        """Return the result; losses are the means over the batches, speed_ms the milliseconds per image of `timed`."""
        raise NotImplementedError

    def report(self, result) -> None:
        """Print the rows of the table."""
        raise NotImplementedError

    def plot(self, result) -> None:
        """Draw the curves and matrices of the result."""
        raise NotImplementedError

    def close(self, result) -> None:
        """Finish files, fire the last hook."""

    def to_input(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 images as 0 to 1 on the device, in the model's precision."""
        images = images.to(self.device, non_blocking=True)
        return images.half() / 255 if getattr(self.model, "fp16", False) else images.float() / 255

    def precision(self):
        """Return a context of float16 autocast with the option half, on CUDA alone."""
        return torch.autocast(self.device.type, torch.float16, enabled=self.options.half and self.device.type == "cuda")

    def add_losses(self, outputs, targets, known=None) -> None:
        if self.compute_loss is not None and outputs is not None:
            self.losses += self.compute_loss(outputs, targets, *(() if known is None else (known,)))[1]
