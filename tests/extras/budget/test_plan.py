"""--budget: durations, the plan, its correction, and a training that ends in time."""

import csv
import time
from dataclasses import replace

import pytest
import torch
from conftest import SHARED, needs_shared, write_tiny_dataset
from kill_driver import MODEL

from engine.options import from_kwargs
from engine.task import DETECT
from engine.train import recipe
from engine.train.device import choose_precision, repeatable
from engine.train.loop import train_one_epoch
from engine.train.resume import resume
from engine.train.run import fit, train_epochs
from engine.train.setup import set_up
from extras.budget.plan import (
    CHANGED,
    LEAST_EPOCHS,
    RECENT,
    Plan,
    first_plan,
    parse_duration,
    refitted,
    replanned,
    seconds_per_batch,
)  # fmt: skip
from utils.callbacks import Callbacks
from utils.checkpoint import state_sha256


@pytest.mark.parametrize(
    "text, seconds",
    [("15m", 900), ("90s", 90), ("40s", 40), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400), ("15", 900), (15, 900)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "15 minutes", "m", "30m1h", "1d", "."])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="--budget: expected a time such as 15m"):
        parse_duration(text)


@pytest.mark.parametrize(
    "seconds, batches, val_images, expected",
    [
        (620, 10, 40, None),  # all images in each epoch
        (100, 10, 0, (20, 80, 1)),  # an epoch of all images is too long: half as many
        (100, 1000, 0, (20, 80, 1)),  # of a large data set a small part
        (600, 10, 400, None),  # validation as long as training: not after every epoch
    ],
)
def test_first_plan(seconds, batches, val_images, expected):
    val_seconds = val_images / 16 * 0.5
    plan = first_plan(seconds, 1.0, batches, 16, val_seconds / 1.0)
    epoch_seconds = (plan.images or batches * 16) / 16 + val_seconds / plan.val_period
    assert seconds * 0.9 < plan.epochs * epoch_seconds + val_seconds <= seconds
    assert val_seconds / plan.val_period <= 0.1 * epoch_seconds
    if expected and expected[1]:
        assert (plan.epochs, plan.images, plan.val_period) == expected


BATCHES, BATCH_SIZE, BATCH_S, TOTAL_S = 25, 8, 0.1, 98.0
VAL_BATCHES = 6  # that a validation takes as long as; planned with 4
SPEEDS = {
    "even": lambda now: 1,
    "slow for the first 30 s": lambda now: 10 if now < 30 else 1,
    "hardly moving for the first 30 s": lambda now: 30 if now < 30 else 1,
    "slow in the middle third": lambda now: 3 if 33 < now < 66 else 1,
    "quick at first": lambda now: 1 if now < 10 else 4,
    "a batch in 20 stalls": lambda now: 10 if int(now * 10) % 29 == 0 else 1,
}


def simulated(slowness, batches=BATCHES, total=TOTAL_S) -> tuple[list[Plan], list[int], float]:
    """Run a training by a clock that only work moves: the plans, the batches in each epoch, the seconds at the end."""
    now, epochs, steps, trained = 2.0, 0, 0, []

    def work(seconds):
        nonlocal now
        now += seconds * slowness(now)

    plan = first_plan(total - now, BATCH_S * slowness(now), batches, BATCH_SIZE, 4)
    plans = [replace(plan, began=now)]
    while epochs < (plan := plans[-1]).epochs:
        start, taken = now, plan.images // BATCH_SIZE if plan.images else batches
        for _ in range(taken):
            work(BATCH_S)
        epochs, steps = epochs + 1, steps + taken
        trained.append(taken)
        plan = replace(plan, batch_seconds=[*plan.batch_seconds, (now - start) / taken][-RECENT:])
        plans.append(replanned(plan, epochs, steps, total, now, batches, BATCH_SIZE))
        if epochs % plans[-1].val_period == 0 or epochs == plans[-1].epochs:
            start = now
            work(VAL_BATCHES * BATCH_S)
            plans[-1].val_batches = (now - start) / plans[-1].batch_seconds[-1]
    work(VAL_BATCHES * BATCH_S)  # the best model's
    return plans, trained, now


@pytest.mark.parametrize("total", [TOTAL_S, 1000.0])
@pytest.mark.parametrize("batches", [BATCHES, 2000])
@pytest.mark.parametrize("name", SPEEDS)
def test_the_plan_follows_the_clock(name, batches, total):
    plans, trained, end = simulated(SPEEDS[name], batches, total)
    assert total * 0.97 <= end <= total * 1.01
    progress = [plan.progress for plan in plans[:-1]]  # of each epoch's begin
    assert progress == sorted(progress) and progress[0] == 0 and 0.9 < progress[-1] < 1
    # Epochs are as long as they would be had the machine always been as fast as in the end: a part of the whole time.
    usual = trained[len(trained) * 3 // 4]
    wanted = min(batches, total / LEAST_EPOCHS / BATCH_S / SPEEDS[name](total))
    assert wanted / CHANGED**2 <= usual <= wanted * CHANGED
    # The hyperparameters fit the batches that were really trained.
    assert 1 / CHANGED <= sum(trained) / plans[-1].steps <= CHANGED


def test_an_even_run_is_planned_once():
    plans, trained, _ = simulated(SPEEDS["even"])
    assert len({plan.steps for plan in plans}) == 1
    assert set(trained[:-1]) == {BATCHES} and trained[-1] <= BATCHES


def test_one_stall_changes_nothing():
    plan = replace(first_plan(100, 0.1, BATCHES, BATCH_SIZE, 0), batch_seconds=[0.1, 0.1, 30 / BATCHES])
    after = replanned(plan, 2, 2 * BATCHES, 100, 32.5, BATCHES, BATCH_SIZE)
    assert (after.images, after.val_period, after.epochs) == (None, 1, 2 + 27)  # 67.5 s of 2.5 s an epoch


def test_values_that_follow_from_the_length_follow_the_new_one():
    opt = from_kwargs("train", {"hyp": recipe.AUTO, "batch_size": 8})
    hyp = {"lr0": 0.004, **recipe.by_length(0.004, 338, 1, 8)}
    assert refitted(opt, hyp, (338, 1), (3000, 26)) == recipe.by_length(0.004, 3000, 26, 8)
    own = {**hyp, "weight_decay": 0.0005}
    assert "weight_decay" not in refitted(opt, own, (338, 1), (3000, 26))  # not chosen by the length
    given = from_kwargs("train", {"hyp": "hyp.scratch-low.yaml"})
    assert refitted(given, hyp, (338, 1), (3000, 26)) == {}


@pytest.fixture
def options(tiny_dataset, tmp_path):
    base = {
        "cfg": MODEL,
        "data": str(tiny_dataset),
        "imgsz": 64,
        "batch_size": 4,
        "workers": 0,
        "noplots": True,
        "patience": 0,
    }
    return {**base, "project": str(tmp_path)}


def test_the_training_ends_in_time(options, tmp_path):
    start = time.perf_counter()
    trainer = fit(from_kwargs("train", {**options, "budget": "20s"}))
    assert time.perf_counter() - start < 40  # a machine may stall; what counts is that no 100 epochs were trained
    rows = list(csv.DictReader((tmp_path / "exp" / "results.csv").open()))
    assert len(rows) == trainer.opt.epochs == trainer.state.epoch
    ends = [float(row["time"]) for row in rows]
    assert ends == sorted(ends) and ends[-1] < 21
    assert float(rows[-1]["x/lr2"]) < float(rows[len(rows) // 2]["x/lr2"])  # the decay fits the length


def test_epochs_and_budget_exclude_each_other(options):
    with pytest.raises(ValueError, match="leave --epochs away"):
        fit(from_kwargs("train", {**options, "budget": "20s", "epochs": 3}))


def test_measuring_leaves_the_model_alone(options):
    training = set_up(from_kwargs("train", {**options, "epochs": 1}))
    model = training.learner.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert seconds_per_batch(model, training.loader, choose_precision(training.opt, torch.device("cpu")), 0.1) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def slowed(monkeypatch, slowness) -> None:
    """Make each training step, also the measured ones, slowness(seconds since now) times as long."""
    began = last = time.perf_counter()
    clip = torch.nn.utils.clip_grad_norm_

    def slow_clip(*args, **kwargs):
        nonlocal last
        now = time.perf_counter()
        time.sleep(min((now - last) * (slowness(now - began) - 1), 5))
        last = time.perf_counter()
        return clip(*args, **kwargs)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", slow_clip)


def test_what_was_planned_anew_is_resumed_to_the_bit(tmp_path, options):
    data = write_tiny_dataset(tmp_path / "more", train=64)
    callbacks, slow = Callbacks(), [0.3] * 40
    callbacks.register_action("on_train_batch_start", callback=lambda: time.sleep(slow.pop()))
    callbacks.register_action("on_train_epoch_start", callback=lambda: slow[20:] or [][0])  # an IndexError ends it
    training = set_up(from_kwargs("train", {**options, "data": str(data), "budget": "60s"}), callbacks)
    first = dict(training.state.plan)
    with repeatable(), pytest.raises(IndexError):
        train_epochs(training)
    plan = training.state.plan
    assert plan["steps"] < first["steps"] / CHANGED and 0 < plan["progress"] < 1  # as it was slower than measured
    opt, checkpoint, folder = resume(from_kwargs("train", {"resume": str(training.run.last)}), DETECT)
    resumed = set_up(opt, resumed=checkpoint, folder=folder)
    learners = training.learner, resumed.learner
    assert resumed.state.plan == plan and resumed.opt.epochs == training.opt.epochs
    assert len({len(each.loader) for each in (training, resumed)}) == 1
    assert len({str(learner.schedule.at(learner.batches)) for learner in learners}) == 1
    assert len({(learner.ema.tau, learner.ema.decay_limit) for learner in learners}) == 1
    momenta = [[m.momentum for m in learner.model.modules() if hasattr(m, "running_var")] for learner in learners]
    assert momenta[0] == momenta[1] and momenta[0][-1] == resumed.hyp["bn_momentum"] > 0.03
    slow += [0] * 100
    for each in (training, resumed):
        with repeatable():
            train_one_epoch(each.learner, each.loader, each.state.epoch, each.opt.seed)
    assert len({state_sha256(learner.model.state_dict()) for learner in learners}) == 1
    assert len({state_sha256(learner.ema.ema.state_dict()) for learner in learners}) == 1


DISTURBED = {
    "slow for the first 30 s": (lambda seconds: 8 if seconds < 30 else 1),
    "slow in the middle third": (lambda seconds: 3 if 30 < seconds < 60 else 1),
}


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", DISTURBED)
def test_a_machine_that_is_slow_for_a_while(name, tmp_path, monkeypatch):
    options = {"cfg": "yolov5n.yaml", "data": str(SHARED / "datasets" / "bccd.yaml"), "imgsz": 160, "device": "cpu"}
    options |= {"workers": 1, "noplots": True, "budget": "90s", "project": str(tmp_path)}
    found = []
    for slowness in (lambda _: 1, DISTURBED[name]):
        with monkeypatch.context() as patch:
            slowed(patch, slowness)
            start = time.perf_counter()
            training = fit(from_kwargs("train", options))
            found.append((time.perf_counter() - start, training.learner.batches, training.result.map50))
    print(name, found)
    assert all(abs(seconds / 90 - 1) < 0.05 for seconds, _, _ in found)
    assert found[1][2] > 0.8 * found[0][2]
