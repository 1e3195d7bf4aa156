"""`--budget 15m`: as many epochs as fit into a wall time, planned from the first batches, and anew as they go.

The clock starts with the run, so that everything counts: reading labels, anchors, training, validation, the end.
How fast a machine is may change while it trains. So the learning rate falls with the share of the time that is used,
and after each epoch the plan is compared with the clock: see replanned().
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, pairwise, repeat

import torch
from torch import nn

from engine.train import recipe
from engine.train.build import set_bn_momentum
from engine.train.device import Precision, to_input
from engine.train.loop import Learner
from engine.train.progress import RunClock
from engine.train.schedule import scaled_weight_decay
from engine.train.setup import Options, Training, follow_plan
from engine.train.state import TrainState
from utils import dist
from utils.logger import LOGGER
from utils.torch_utils import nested_tensors

TARGET = 0.98  # share of the budget: late is worse than early
LEAST_EPOCHS = 20  # where fewer passes over the data fit, an epoch takes fewer images, so that the end can be met
VALIDATION_PART = 0.1  # most time for validation, as a part of that for training; else not every epoch has one
RESERVED_PART = 0.2  # most of the time that is kept for validations at the end: they are judged by a moment's pace
FORWARD_PART = 0.5  # share of a training step's time that validating as many images takes, until it was seen
MEASURED_PART, LEAST_MEASURED = 0.01, 5  # share of the budget, and batches, that are measured before the first epoch
LONGEST_MEASURED = 3  # times that share: a machine that is so slow is measured by fewer batches
RECENT = 5  # epochs that the time of the next ones is judged by
CHANGED = 1.25  # a length that differs by this factor changes all that was chosen by it
LEAST_PART = 0.2  # of an epoch, for a last one of fewer images


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
    """What is to be trained; a part of the checkpoint, so that a resumed run goes on by it."""

    epochs: int  # in all
    images: int | None = None  # in the next one, None for all
    val_period: int = 1  # epochs from one validation to the next
    steps: int = 0  # batches in all that the hyperparameters fit
    progress: float = 0.0  # share of the time that is used when the next epoch begins
    began: float = 0.0  # seconds used when the first epoch began
    val_batches: float = 0.0  # batches of training that take as long as a validation
    batch_seconds: list[float] = field(default_factory=list)  # of a batch, in each of the newest epochs
    is_ending: bool = False  # the next epoch is the last one, whatever the clock says

    @property
    def pace(self) -> float:
        """Seconds a batch: the lower median, as a disturbance makes a batch slow but never quick."""
        return statistics.median_low(self.batch_seconds)


def first_plan(seconds: float, batch_seconds: float, batches: int, batch_size: int, val_batches: float) -> Plan:
    """Return the Plan for the `seconds` that are left.

    batch_seconds: for one batch of training. batches: with all images. val_batches: as Plan has it.
    """
    val_seconds = min(val_batches * batch_seconds, RESERVED_PART * seconds)
    seconds -= val_seconds  # the best model is validated once more at the end
    taken = min(batches, max(int(seconds / LEAST_EPOCHS / batch_seconds), 1))
    train_seconds = taken * batch_seconds
    period = max(math.ceil(val_seconds / (VALIDATION_PART * train_seconds)), 1)
    epochs = max(int(seconds / (train_seconds + val_seconds / period)), 1)
    images = taken * batch_size if taken < batches else None
    return Plan(epochs, images, period, epochs * taken, val_batches=val_batches, batch_seconds=[batch_seconds])


def replanned(plan: Plan, done: int, steps: int, total: float, used: float, batches: int, batch_size: int) -> Plan:
    """Return the Plan after `done` epochs with `steps` batches in all, when `used` of the `total` seconds are used.

    The number of epochs always follows the clock. The images in an epoch (of all: `batches`), the validations and
    Plan.steps stay until the length differs by CHANGED. The last epoch takes the images that there is time for.
    """
    val_seconds, whole = plan.val_batches * plan.pace, total - plan.began
    plan = replace(plan, progress=min(max((used - plan.began) / max(whole, 1e-9), 0.0), 1.0))
    if plan.is_ending:
        return replace(plan, epochs=done)
    reserved = min(2 * val_seconds, RESERVED_PART * whole)  # a validation of this epoch, and one of the best model
    left = total - used - reserved
    taken = plan.images // batch_size if plan.images else batches
    more = max(left / (taken * plan.pace + val_seconds / plan.val_period), 0)
    if more > 1 and not 1 / CHANGED <= (steps + more * taken) / max(plan.steps, 1) <= CHANGED:
        fresh = first_plan(whole, plan.pace, batches, batch_size, plan.val_batches)
        taken = fresh.steps // fresh.epochs
        more = max(left / (taken * plan.pace + val_seconds / fresh.val_period), 0)
        plan = replace(plan, images=fresh.images, val_period=fresh.val_period, steps=steps + round(more * taken))
    if more >= 1:
        return replace(plan, epochs=done + int(more + 1 - LEAST_PART))
    fitting = int(left / max(plan.pace, plan.batch_seconds[-1]))  # late is worse than early
    if fitting < max(LEAST_PART * taken, 1):
        return replace(plan, epochs=done)
    return replace(plan, epochs=done + 1, images=min(fitting, taken) * batch_size, is_ending=True)


class Budget:
    """The time that a training may take.

    Args:
        text: as parse_duration() takes it.
        clock: that of the run.
    """

    def __init__(self, text, clock: RunClock):
        self.text, self.seconds, self.clock = text, parse_duration(text), clock
        self._marks = 0.0, 0.0  # seconds of training and of validation when the newest epoch was judged

    def plan(self, model: nn.Module, loader, val_images: int, precision: Precision, batch_size: int) -> Plan:
        """Time some batches, then plan."""
        measured = seconds_per_batch(model, loader, precision, self.seconds * MEASURED_PART)
        left = self.seconds * TARGET - self.clock.seconds()
        plan = first_plan(left, measured, len(loader), batch_size, val_images / batch_size * FORWARD_PART)
        LOGGER.info(f"budget {self.text}: {_described(plan)}, validation after every {plan.val_period}")
        return plan

    def start(self, state: TrainState) -> None:
        """Begin to count the time of epochs, after the setup of a new or a resumed run."""
        self._marks = self._seconds()
        if state.epoch == 0:
            state.plan["began"] = self.clock.seconds()

    def replan(self, training: Training) -> Options:
        """Plan the epochs that are left after one, let all that depends on it know, and return the options."""
        state, learner, loader = training.state, training.learner, training.loader
        batch_size, before, batches_before = training.opt.batch_size, Plan(**state.plan), len(loader)
        judged = self._judged(before, batches_before)
        loader.sampler.limit = None  # so that the loader counts all images
        plan = replanned(
            judged, state.epoch, learner.batches, self.seconds * TARGET, self.clock.seconds(), len(loader), batch_size
        )
        state.plan = dist.broadcast_object(asdict(plan))
        plan = Plan(**state.plan)
        training.opt = Options.changed(training.opt, epochs=plan.epochs)
        follow_plan(training.opt, state, learner, loader)
        if plan.steps != before.steps:
            changed = refitted(training.opt, training.hyp, (before.steps, batches_before), (plan.steps, len(loader)))
            training.hyp |= changed
            apply(learner, training.hyp, batch_size)
            values = "".join(f", {key} {value:.3g}" for key, value in changed.items())
            LOGGER.info(f"budget {self.text}, planned anew: {_described(plan)}{values}")
        return training.opt

    def _judged(self, plan: Plan, batches: int) -> Plan:
        """Return the plan with what the newest epoch, of so many batches, and the validation before it have shown."""
        trained, validated = (now - mark for now, mark in zip(self._seconds(), self._marks))
        self._marks = self._seconds()
        newest = [*plan.batch_seconds, trained / batches][-RECENT:]
        plan = replace(plan, batch_seconds=newest)
        # Between two epochs of different speed, the slower one says least of what the validation takes at the other's.
        return replace(plan, val_batches=validated / max(newest[-2:])) if validated else plan

    def _seconds(self) -> tuple[float, float]:
        validated = self.clock.val_seconds
        return self.clock.seconds() - validated, validated


def _described(plan: Plan) -> str:
    images = f"{plan.images} images" if plan.images else "all images"
    return f"{plan.pace:.3g} s a batch, so {plan.epochs} epochs of {images}"


def refitted(opt: argparse.Namespace, hyp: dict, before: tuple[int, int], after: tuple[int, int]) -> dict:
    """Return the hyperparameters that a new length changes: those that were chosen for the one before.

    before, after: batches in all and in an epoch.
    """
    if opt.hyp != recipe.AUTO:
        return {}
    old, new = (recipe.by_length(hyp["lr0"], *length, opt.batch_size) for length in (before, after))
    return {key: value for key, value in new.items() if hyp[key] == old[key]}


def apply(learner: Learner, hyp: dict, batch_size: int) -> None:
    """Give the learner the hyperparameters of refitted()."""
    learner.schedule = replace(learner.schedule, hyp=hyp)
    learner.ema.decay_limit, learner.ema.tau = hyp["ema_decay"], hyp["ema_tau"]
    set_bn_momentum(learner.model, hyp["bn_momentum"])
    for group in learner.optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = scaled_weight_decay(hyp, batch_size)


def seconds_per_batch(model: nn.Module, loader, precision: Precision, at_least: float) -> float:
    """Return the usual time of a batch of training with its loading. Leaves the model as it was.

    It is the median without the first batch: of `at_least` seconds and LEAST_MEASURED batches, or of fewer batches in
    LONGEST_MEASURED times as long.
    """
    model.train()
    device, amp, memory_format = precision
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loader.sampler.set_epoch(0)
    ends = []
    for images, *_ in chain.from_iterable(repeat(loader)):
        inputs = to_input(images, device, memory_format)
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            outputs = model(inputs)
        sum(tensor.float().mean() for tensor in nested_tensors(outputs)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()  # which waits for a GPU
        ends.append(time.perf_counter())
        seconds, least = ends[-1] - ends[0], LEAST_MEASURED if ends[-1] - ends[0] < LONGEST_MEASURED * at_least else 1
        if len(ends) > least and seconds > at_least:
            break
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return statistics.median(after - before for before, after in pairwise(ends))
