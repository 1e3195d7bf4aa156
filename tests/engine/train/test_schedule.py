"""Learning rate, warm-up and accumulation as functions of the iteration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.hyperparameters import default_hyp
from engine.train.schedule import Schedule, multi_scale_size, scaled_loss_gains, scaled_weight_decay


def schedule(epochs=100, batches=50, batch_size=16, cosine=False, **hyp):
    return Schedule(epochs, batches, batch_size, {**default_hyp(), **hyp}, cosine)


@pytest.mark.parametrize(
    ("epochs", "batches", "warmup_epochs", "iterations"),
    [
        (100, 50, 3.0, 150),  # three epochs
        (100, 10, 3.0, 100),  # YOLOv5's shortest warm-up
        (3, 50, 3.0, 50),  # never more than a third of the training
        (2, 1, 3.0, 0),  # two iterations: no warm-up at all
    ],
)
def test_length_of_the_warm_up(epochs, batches, warmup_epochs, iterations):
    assert schedule(epochs, batches, warmup_epochs=warmup_epochs).warmup_iterations == iterations


def test_the_warm_up_starts_at_its_values():
    first = schedule().at(0)
    assert first.lrs == [0.1, 0.0, 0.0]  # biases start high, the others at zero
    assert first.momentum == 0.8
    assert first.accumulate == 1


def test_the_middle_of_the_warm_up_is_half_way():
    plan = schedule()
    middle, lr = plan.at(75), 0.01 * plan.lr_part(1)
    assert middle.lrs == pytest.approx([(0.1 + lr) / 2, lr / 2, lr / 2])
    assert middle.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert middle.accumulate == 2  # 2.5, rounded to even


def test_after_the_warm_up_only_the_epoch_counts():
    plan = schedule()
    assert plan.at(150) == plan.at(199)
    assert plan.at(150).lrs == [0.01 * plan.lr_part(3)] * 3
    assert plan.at(150).momentum == 0.937
    assert plan.at(150).accumulate == 4


@pytest.mark.parametrize("cosine", [False, True])
def test_the_rate_falls_from_lr0_to_lr0_times_lrf(cosine):
    plan = schedule(cosine=cosine, lrf=0.1)
    parts = [plan.lr_part(epoch) for epoch in range(101)]
    assert parts[0] == 1 and parts[100] == pytest.approx(0.1)
    assert np.all(np.diff(parts) < 0)
    assert parts[50] == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "decay"),
    [
        (16, 4, 0.0005),  # 4 x 16 = 64
        (64, 1, 0.0005),
        (128, 1, 0.001),  # twice the nominal batch in one step
        (24, 3, 0.0005 * 72 / 64),
    ],
)
def test_nominal_batch(batch_size, accumulate, decay):
    plan = schedule(batch_size=batch_size)
    assert plan.accumulate == accumulate
    assert scaled_weight_decay(plan.hyp, batch_size) == pytest.approx(decay)


def test_loss_gains():
    hyp = default_hyp()
    assert scaled_loss_gains(hyp, nl=3, nc=80, imgsz=640) == hyp  # what the values are made for
    scaled = scaled_loss_gains(hyp, nl=4, nc=20, imgsz=320)
    assert scaled["box"] == pytest.approx(0.05 * 0.75)
    assert scaled["cls"] == pytest.approx(0.5 * 0.25 * 0.75)
    assert scaled["obj"] == pytest.approx(1.0 * 0.25 * 0.75)


@settings(max_examples=50, deadline=None)
@given(imgsz=st.integers(1, 40), seed=st.integers(0, 1000))
def test_multi_scale_sizes_are_multiples_within_half_and_one_and_a_half(imgsz, seed):
    imgsz *= 32
    size = multi_scale_size(imgsz, 32, np.random.default_rng(seed))
    assert size % 32 == 0 and size >= 32
    assert size <= imgsz * 1.5
    assert size >= imgsz * 0.5 or imgsz == 32
