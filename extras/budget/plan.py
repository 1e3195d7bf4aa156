"""`--budget 15m`: as many epochs as fit into a wall time, planned from the first batches, corrected as they go.

The clock starts with the run, so that everything counts: reading labels, anchors, training, validation, the end.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import torch
from torch import nn

from engine.train.device import Precision, to_input
from utils.logger import LOGGER

TARGET = 0.98  # share of the budget: late is worse than early
LEAST_EPOCHS = 20  # where fewer passes over the data fit, an epoch takes fewer images, so that the end can be met
VALIDATION_PART = 0.1  # most time for validation, as a part of that for training; else not every epoch has one
FORWARD_PART = 0.5  # share of a training step's time that validating as many images takes, until it was seen
MEASURED_PART, LEAST_MEASURED = 0.01, 3  # share of the budget, and batches, that are measured before the first epoch
RECENT = 5  # epochs that the time of the next ones is judged by


def parse_duration(text) -> float:
    """Return seconds of "90s", "15m", "1h30m" or "15" (minutes). ValueError for anything else."""
    text = f"{text}m" if re.fullmatch(r"[\d.]+", str(text)) else str(text)
    number = r"(\d+(?:\.\d+)?)"
    parts = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text)
    seconds = sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1))) if parts else 0
    if seconds <= 0:
        raise ValueError(f"--budget: expected a time such as 15m, 90s or 1h30m, found '{text}'")
    return seconds


@dataclass
class Plan:
    """Epochs, images in each (None: all) and epochs from one validation to the next."""

    epochs: int
    images: int | None = None
    val_period: int = 1


def first_plan(seconds: float, batch_seconds: float, batches: int, batch_size: int, val_images: int) -> Plan:
    """Return the Plan for the `seconds` that are left, from the time of one batch of training."""
    val_seconds = val_images * batch_seconds / batch_size * FORWARD_PART
    seconds -= val_seconds  # the best model is validated once more at the end
    taken = min(batches, max(int(seconds / LEAST_EPOCHS / batch_seconds), 1))
    train_seconds = taken * batch_seconds
    period = max(math.ceil(val_seconds / (VALIDATION_PART * train_seconds)), 1)
    epochs = max(int(seconds / (train_seconds + val_seconds / period)), 1)
    return Plan(epochs, taken * batch_size if taken < batches else None, period)


class Budget:
    """The time that a training may take.

    Args:
        text: as parse_duration() takes it.
        seconds_used: a function; the seconds since the start of the run.
    """

    def __init__(self, text, seconds_used):
        self.text, self.seconds = text, parse_duration(text)
        self.seconds_used = seconds_used
        self.planned_at = []  # the seconds used when the first epoch began, unless it was in an earlier process

    def left(self) -> float:
        return self.seconds * TARGET - self.seconds_used()

    def plan(self, model: nn.Module, loader, val_images: int, precision: Precision, batch_size: int) -> Plan:
        """Time some batches, then plan."""
        batch_seconds = seconds_per_batch(model, loader, precision, self.seconds * MEASURED_PART)
        plan = first_plan(self.left(), batch_seconds, len(loader), batch_size, val_images)
        images = f"{plan.images} images" if plan.images else "all images"
        LOGGER.info(
            f"budget {self.text}: {batch_seconds:.3g} s a batch, so {plan.epochs} epochs of {images}, "
            f"validation after every {plan.val_period}"
        )
        self.planned_at = [self.seconds_used()]
        return plan

    def corrected(self, done: int, seconds: list[float], planned: int, val_seconds: float) -> int:
        """Return the number of epochs, at least `done`, from the times at which the finished ones ended.

        There is room for two validations, of the epoch that ends now and of the best model.
        """
        durations = np.diff([*self.planned_at, *seconds])[-RECENT:]
        if not len(durations):
            return planned if self.left() > 0 else done
        return done + max(int((self.left() - 2 * val_seconds) / durations.mean()), 0)


def seconds_per_batch(model: nn.Module, loader, precision: Precision, at_least: float) -> float:
    """Return the time of a batch of training with its loading, from `at_least` seconds. Leaves the model as it was."""
    model.train()
    device, amp, memory_format = precision
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loader.sampler.set_epoch(0)
    ends = []
    for images, *_ in chain.from_iterable(repeat(loader)):
        inputs = to_input(images, device, memory_format)
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            outputs = model(inputs)
        sum(tensor.float().mean() for tensor in _tensors(outputs)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()  # which waits for a GPU
        ends.append(time.perf_counter())
        if len(ends) > LEAST_MEASURED and ends[-1] - ends[0] > at_least:
            break
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def _tensors(outputs) -> list:
    """Return the tensors of nested lists and tuples."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in _tensors(part)]
