"""--budget: durations, the plan, its correction, and a training that ends in time."""

import csv
import time

import pytest
import torch
from kill_driver import MODEL

from engine.options import from_kwargs
from engine.train.device import choose_precision
from engine.train.run import fit
from engine.train.setup import set_up
from extras.budget.plan import Budget, first_plan, parse_duration, seconds_per_batch


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
    plan = first_plan(seconds, 1.0, batches, 16, val_images)
    val_seconds = val_images / 16 * 0.5
    epoch_seconds = (plan.images or batches * 16) / 16 + val_seconds / plan.val_period
    assert seconds * 0.9 < plan.epochs * epoch_seconds + val_seconds <= seconds
    assert val_seconds / plan.val_period <= 0.1 * epoch_seconds
    if expected and expected[1]:
        assert (plan.epochs, plan.images, plan.val_period) == expected


@pytest.mark.parametrize(
    "used, ends, planned, epochs",
    [
        (10, [], 7, 7),  # nothing is known yet
        (99, [], 7, 1),  # nothing is left
        (40, [10, 20, 30], 7, 9),  # 57 s are left for epochs of 10 s
        (40, [30, 35, 40], 7, 15),  # faster than planned
        (97, [10, 30], 7, 4),  # 1 s is left  # too late for a further one
        (150, [10, 100], 7, 4),
    ],
)
def test_correction(used, ends, planned, epochs):
    done = {0: 1, 2: 4, 3: 4}[len(ends)]
    assert Budget("100s", lambda: used).corrected(done, ends, planned, 0.5) == epochs


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
