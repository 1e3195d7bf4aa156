"""What a training chooses by itself, and what it leaves alone."""

import pytest
import torch

from engine.hyperparameters import default_hyp
from engine.options import from_kwargs
from engine.train import build
from engine.train.recipe import AUTO, MANY_STEPS, MUON_DECAY, batch_size, fill, precision
from models.backbone import edgevit_xxs
from models.backbone.Edgevit import DropPath
from models.yolo import DetectionModel
from utils.torch_utils import multiplies_bfloat16


def filled(epochs=50, images=205, batches=13, start="nothing", given=False, **options):
    opt = from_kwargs("train", {"epochs": epochs, "batch_size": 16, "optimizer": AUTO, "hyp": AUTO, **options})
    return opt, fill(opt, default_hyp(), images, batches, start, given)


@pytest.mark.parametrize(
    "start, optimizer", [("nothing", "Muon"), ("backbone", "Muon"), ("start", "Muon"), ("detector", "AdamW")]
)
def test_a_short_training_gets_quick_steps_one_for_each_batch(start, optimizer):
    opt, hyp = filled(start=start)
    assert (opt.optimizer, opt.cos_lr) == (optimizer, True)
    assert hyp["nominal_batch"] == 16 and hyp["lr0"] < 0.01
    assert hyp.keys() == default_hyp().keys()


@pytest.mark.parametrize("start, batch, lr0", [
    ("nothing", 4, 0.002), ("nothing", 8, 0.004), ("nothing", 16, 0.004), ("backbone", 4, 0.002),
    ("start", 2, 0.002), ("start", 4, 0.004), ("start", 16, 0.004), ("detector", 4, 0.001),
])  # fmt: skip
def test_small_batches_step_less_far(start, batch, lr0):
    assert filled(start=start, batch_size=batch)[1]["lr0"] == pytest.approx(lr0)


@pytest.mark.parametrize(
    "images, ranks, hyp, expected",
    [
        (2, 1, AUTO, 4),
        (128, 1, AUTO, 4),
        (205, 1, AUTO, 8),
        (399, 1, AUTO, 8),
        (400, 1, AUTO, 16),
        (100_000, 1, AUTO, 16),
        (205, 2, AUTO, 16),  # several GPUs share a batch
        (205, 1, "hyp.yaml", 16),  # YOLOv5's
    ],
)
def test_small_sets_get_small_batches(images, ranks, hyp, expected):
    assert batch_size(from_kwargs("train", {"hyp": hyp}), images, ranks) == expected


@pytest.mark.parametrize(
    "options, device, on_a_capable_cpu",
    [
        ({}, "cpu", "bf16"),
        ({}, "cuda", "auto"),
        ({"hyp": "hyp.yaml"}, "cpu", "auto"),  # YOLOv5's
        ({"amp": "off"}, "cpu", "off"),
    ],
)
def test_bfloat16_where_it_is_faster_and_nothing_else_was_said(options, device, on_a_capable_cpu):
    expected = on_a_capable_cpu if multiplies_bfloat16() else options.get("amp", "auto")
    assert precision(from_kwargs("train", {"hyp": AUTO, **options}), torch.device(device)) == expected


def test_the_average_and_the_warm_up_fit_the_length():
    short, long = filled(epochs=10)[1], filled(epochs=100)[1]
    assert 1 < short["ema_tau"] < long["ema_tau"] < 100 * 13
    assert 16 / 64 >= short["bn_momentum"] > long["bn_momentum"] == default_hyp()["bn_momentum"]
    assert filled(epochs=2, batch_size=4)[1]["bn_momentum"] == 4 / 64  # Fewer pictures say too little.
    assert short["ema_decay"] < long["ema_decay"] < default_hyp()["ema_decay"]
    assert 0 < short["warmup_epochs"] * 13 <= 10 * 13 / 3


@pytest.mark.parametrize(
    "options, optimizer",
    [
        ({"epochs": MANY_STEPS // 13 + 1}, "SGD"),  # long: YOLOv5's own values
        ({"hyp": "data/hyps/hyp.scratch-low.yaml"}, "SGD"),  # a given file is taken as it is
        ({"given": True}, "SGD"),  # so are values from Python
        ({"optimizer": "SGD"}, "SGD"),
        ({"hyp": "data/hyps/hyp.scratch-low.yaml", "optimizer": "AdamW"}, "AdamW"),
    ],
)
def test_yolov5s_own_values_stay(options, optimizer):
    opt, hyp = filled(**options)
    assert (opt.optimizer, opt.cos_lr, opt.close_mosaic) == (optimizer, False, 0)
    assert hyp == default_hyp()


@pytest.mark.parametrize("optimizer, decays", [(AUTO, True), ("Muon", True), ("AdamW", False), ("Adam", False)])
def test_only_muon_lets_weights_decay_much_and_as_much_in_any_length(optimizer, decays):
    for epochs in (50, 100):
        hyp = filled(epochs=epochs, optimizer=optimizer)[1]
        whole = hyp["weight_decay"] * hyp["lr0"] * 13 * epochs
        assert whole == pytest.approx(MUON_DECAY) if decays else whole < 0.1


def test_a_few_steps_do_not_take_the_weights_away():
    hyp = filled(epochs=1)[1]
    assert hyp["weight_decay"] * hyp["lr0"] < 0.02


def test_what_is_given_stays():
    opt, hyp = filled(optimizer="Adam", close_mosaic=7)
    assert (opt.optimizer, opt.close_mosaic) == ("Adam", 7)
    assert hyp["lr0"] < default_hyp()["lr0"]


def test_fine_tuning_takes_smaller_steps():
    assert filled(start="detector")[1]["lr0"] < filled()[1]["lr0"]


def test_each_choice_is_printed_with_its_reason(caplog):
    with caplog.at_level("INFO"):
        filled()
    lines = [record.message for record in caplog.records if record.message.startswith("chosen: ")]
    assert len(lines) >= 4 and all(": " in line.removeprefix("chosen: ") for line in lines)


@pytest.mark.parametrize(
    "cfg, share",
    [
        ("yolov5_edgevit.yaml", 3_778_128),  # the four stages, without the neck's SPPF
        (
            "yolov5n.yaml",
            sum(p.numel() for row in list(DetectionModel("yolov5n.yaml").model)[:10] for p in row.parameters()),
        ),
    ],
)
def test_parameters_of_the_backbone(cfg, share):
    assert sum(p.numel() for p in build.backbone_parameters(DetectionModel(cfg))) == share


def test_drop_path_grows_with_depth():
    model = edgevit_xxs()
    build.set_drop_path(model, 0.3)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx(sorted(rates)) and rates[0] == 0 and rates[-1] == pytest.approx(0.3)
    x = torch.rand(2, 3, 64, 64)
    model.eval()
    assert torch.equal(model(x)[-1], model(x)[-1])  # nothing is dropped outside of training


def test_drop_path_needs_a_backbone_that_has_it():
    build.set_drop_path(DetectionModel("yolov5n.yaml"), 0)
    with pytest.raises(ValueError, match="no stochastic depth"):
        build.set_drop_path(DetectionModel("yolov5n.yaml"), 0.1)


@pytest.mark.parametrize("start", ["backbone", "start"])
def test_what_has_learned_is_not_forgotten(start):
    _, hyp = filled(start=start)
    assert hyp["lr_backbone"] < 1 and hyp["weight_decay"] == default_hyp()["weight_decay"]
