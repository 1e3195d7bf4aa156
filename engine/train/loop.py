"""The training loop: train_one_epoch -> Learner.step -> Learner.optimizer_step."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.hooks import TrainHook
from engine.train.device import to_input
from engine.train.progress import EpochProgress, MeanLosses
from engine.train.schedule import Schedule, Settings, epoch_seed
from utils import dist
from utils.callbacks import Callbacks
from utils.data.sets import KnownClasses
from utils.general import init_seeds
from utils.timing import UNTIMED, Untimed
from utils.torch_utils import ModelEMA

GRADIENT_NORM = 10.0  # Longer gradients are scaled down to this.
GPU_CHECK_EVERY = 10  # Batches between looks at the losses on a GPU, where each look waits for it.


@dataclass
class Learner:
    """The model with all that turns a batch into better weights."""

    model: nn.Module
    train_model: nn.Module  # the model itself, or its wrapper that averages the gradients of several processes
    criterion: Callable  # (outputs, targets[, known]) -> (loss, items [len(loss_names)], detached)
    loss_names: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: ModelEMA
    device: torch.device
    amp: torch.dtype | None  # mixed precision's type, None for float32
    memory_format: torch.memory_format
    known: KnownClasses | None = None  # where the training pictures do not answer for every class
    resize: Callable | None = None  # (images, iteration) -> images of another size, for --multi-scale
    loss_factor: int = 1  # on the loss of a batch; 4 with --quad, whose batches have a quarter of the images
    hooks: list[TrainHook] = field(default_factory=list)
    callbacks: Callbacks = field(default_factory=Callbacks)
    times: Untimed = UNTIMED
    pending: int = 0  # batches whose gradients wait for an optimizer step
    batches: int = 0  # trained so far, over all epochs

    def to_input(self, images: torch.Tensor, iteration: int) -> torch.Tensor:
        """Return uint8 images [B, 3, H, W] as float 0..1 on the device, with --multi-scale in another size."""
        images = to_input(images, self.device, self.memory_format)
        return self.resize(images, iteration) if self.resize else images

    def step(self, images: torch.Tensor, targets, iteration: int, is_last: bool, paths: Sequence[str] = ()):
        """Add the gradients of one batch, and make an optimizer step where enough are gathered or none will follow.

        images [B, 3, H, W] in 0..1; targets and paths as the task's loader gives them. Returns the loss terms [k],
        detached.
        """
        settings = self.schedule.at(iteration)
        self.apply(settings)
        steps_now = is_last or self.pending + 1 >= settings.accumulate
        with nullcontext() if steps_now or self.train_model is self.model else self.train_model.no_sync():
            loss, items = self.loss(images, targets, paths)
            with self.times("backward"):
                self.scaler.scale(loss).backward()
        self.pending += 1
        self.batches += 1
        self.times.count(len(images))
        if steps_now:
            with self.times("step"):
                self.optimizer_step()
        return items

    def loss(self, images: torch.Tensor, targets, paths: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a batch as it is differentiated, and its terms."""
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            with self.times("forward"):
                outputs = self.train_model(images)
            with self.times("loss"):
                known = () if self.known is None else (self.known.of(paths).to(self.device),)
                loss, items = self.criterion(outputs, targets.to(self.device, non_blocking=True), *known)
                for hook in self.hooks:
                    added = hook.loss(outputs)
                    loss = loss if added is None else loss + added
        # DDP averages over the processes where a single one would sum.
        return loss * dist.world_size() * self.loss_factor, items

    def optimizer_step(self) -> None:
        """Update the weights and their average with the gathered gradients."""
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        for hook in self.hooks:
            hook.optimizer_step(self.scaler)
        self.scaler.update()
        self.callbacks.run("optimizer_step")
        self.callbacks.run("on_before_zero_grad")
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        self.pending = 0

    def apply(self, settings: Settings) -> None:
        """Give the optimizer's groups their learning rates and momentum."""
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lrs[group["kind"]] * group["lr_part"]
            if "momentum" in group:
                group["momentum"] = settings.momentum


def train_one_epoch(
    learner: Learner, loader: DataLoader, epoch: int, seed: int, chances: np.ndarray | None = None, draw=None
) -> list[float]:
    """Train once on every batch of `loader`; return the means of the loss terms.

    All that is random follows from (seed, epoch). chances [n] of the images, None for equal ones; draw is called with
    (iteration, images, targets, paths) of each batch, in the main process. NonFiniteLossError if the loss diverges.
    """
    total, names, callbacks = len(loader), learner.loss_names, learner.callbacks
    learner.train_model.train()
    callbacks.run("on_train_epoch_start")
    views = [hook.before_epoch(epoch) for hook in learner.hooks]
    sampler: Any = loader.sampler  # one of utils.data.loader
    sampler.set_epoch(epoch, chances, next((view for view in views if view is not None), None))
    batches = iter(loader)
    # Making the iterator draws from the same generator, a new one more often than a used one: the seed comes after it.
    init_seeds(epoch_seed(seed, epoch, dist.rank()), deterministic=True)
    losses = MeanLosses(names, learner.device)
    look_every = GPU_CHECK_EVERY if learner.device.type == "cuda" else 1
    progress = EpochProgress(batches, total, epoch, learner.schedule.epochs, names, learner.device, dist.is_main())
    for i, (images, targets, paths, _) in enumerate(learner.times.each("waiting", progress)):
        callbacks.run("on_train_batch_start")
        iteration = learner.batches
        for hook in learner.hooks:
            hook.before_batch(images, i)
        images = learner.to_input(images, iteration)
        losses.add(learner.step(images, targets, iteration, is_last=i + 1 == total, paths=paths))
        if i % look_every == 0 or i + 1 == total:
            progress.update(losses.values(f"epoch {epoch}, batch {i}"), len(targets), max(images.shape[2:]))
        if dist.is_main():
            callbacks.run("on_train_batch_end", learner.model, iteration, images, targets, paths, list(losses.mean))
            if draw:
                draw(iteration, images, targets, paths)
        if callbacks.stop_training and not dist.is_distributed():  # Other processes would wait for this one.
            break
    if learner.pending:
        learner.optimizer_step()
    means = losses.values(f"epoch {epoch}")
    for hook in learner.hooks:
        hook.after_epoch(epoch)
    return means
