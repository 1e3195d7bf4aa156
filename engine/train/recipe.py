"""The choices of a training that neither --hyp nor --optimizer makes: by data, model and length, with the reason.

The figures behind these choices are in bench/notes.md. `--hyp FILE` turns all of this off; `--hyp hyp.scratch-low.yaml
--optimizer SGD` is YOLOv5's own recipe.
"""

import argparse
from dataclasses import dataclass, field

import torch

from engine.hyperparameters import default_hyp
from engine.train.schedule import LONGEST_WARMUP_PART
from models.common import BATCH_NORM
from utils.logger import LOGGER
from utils.torch_utils import multiplies_bfloat16

AUTO = "auto"
MANY_STEPS = 20_000  # optimizer steps from which YOLOv5's own recipe has the time that it needs
USUAL_BATCH, LEAST_BATCH = 16, 4
WANTED_BATCHES = 25  # in an epoch
LAST_LR = 0.01  # as a part of the first
MUON_DECAY = 7.5  # weight decay added up over a training at lr0; the cosine halves it
LEAST_STEPS = 500  # that it is spread over: in fewer the weights would be gone before they are learned
WARMUP_PART, SHORTEST_WARMUP, LONGEST_WARMUP = 0.1, 100, 1000  # share of all steps; steps
EMA_PART = 0.05  # share of all steps that the weights are averaged over
USUAL_BN_MOMENTUM = BATCH_NORM["momentum"]
LEAST_BN_IMAGES = 64  # that batch-norm's averages reach back


@dataclass(frozen=True)
class Start:
    """The values that fit what a training starts from.

    `lr0`: at most, and at most lr0_image for each image of a batch; `lr_backbone`: the backbone's part of it.
    """

    optimizer: str
    lr0: float
    lr0_image: float
    lr_backbone: float
    forgets: bool  # With Muon, weights decay so much that the first steps are forgotten by the end.
    why: str


# "start": a detector of other things, the shipped one or a given EdgeViT; "detector": any other one.
STARTS = {
    "nothing": Start("Muon", 0.004, 0.0005, 1.0, True, "from scratch"),
    "backbone": Start("Muon", 0.004, 0.0005, 0.3, False, "the backbone has learned already, neck and head have not"),
    "start": Start("Muon", 0.004, 0.001, 0.5, False, "a detector of other things has learned already"),
    "detector": Start("AdamW", 0.001, 0.0005, 1.0, False, "pretrained weights are to be kept"),
}


@dataclass
class Recipe:
    """Choices with their reasons: `hyp` and `options` hold the values, by key."""

    hyp: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    lines: list = field(default_factory=list)

    def choose(self, what: str, why: str, options: dict | None = None, **hyp) -> None:
        self.options |= options or {}
        self.hyp |= hyp
        self.lines.append(f"{what}: {why}")


def batch_size(opt: argparse.Namespace, images: int, ranks: int = 1) -> int:
    """Return the batch for a training set of so many images."""
    if opt.hyp != AUTO or ranks > 1:
        return USUAL_BATCH
    wanted = max(images // WANTED_BATCHES, 1)
    chosen = min(max(2 ** (wanted.bit_length() - 1), LEAST_BATCH), USUAL_BATCH)
    if chosen < USUAL_BATCH:
        LOGGER.info(
            f"chosen: batches of {chosen}: {images} images make few steps in an epoch, and more steps learn more"
        )
    return chosen


def precision(opt: argparse.Namespace, device: torch.device) -> str:
    """Return the value of --amp, where it is open bf16 on a CPU that is faster with it."""
    if opt.amp != AUTO or opt.hyp != AUTO or device.type != "cpu" or not multiplies_bfloat16():
        return opt.amp
    LOGGER.info("chosen: bfloat16 (--amp bf16): this CPU multiplies it, a step takes about three quarters of the time")
    return "bf16"


def fill(opt: argparse.Namespace, hyp: dict, images: int, batches: int, start: str, given: bool) -> dict:
    """Give the options that are "auto" or None their values; returns hyp with what was chosen, and prints the reasons.

    images: in the training set; batches: in an epoch; start: a key of STARTS; given: whether hyp came from elsewhere
    than opt.hyp, and stays.
    """
    recipe = Recipe()
    if opt.hyp == AUTO and not given:
        recipe = chosen(opt, images, batches, STARTS[start])
    for key, fallback in (("optimizer", "SGD"), ("close_mosaic", 0)):
        if getattr(opt, key) in (AUTO, None):
            setattr(opt, key, recipe.options.get(key, fallback))
    opt.cos_lr |= recipe.options.get("cos_lr", False)
    for line in recipe.lines:
        LOGGER.info(f"chosen: {line}")
    return {**hyp, **recipe.hyp}


def chosen(opt: argparse.Namespace, images: int, batches: int, start: Start) -> Recipe:
    """Return the recipe for a training of opt.epochs epochs."""
    recipe = Recipe()
    steps = batches * opt.epochs
    if opt.optimizer not in (AUTO, "Adam", "AdamW", "Muon"):
        return recipe  # the rates below are not those of the others
    if opt.optimizer == AUTO and steps > MANY_STEPS:
        recipe.choose("optimizer SGD and YOLOv5's values", f"{steps} steps are enough for them")
        return recipe
    lr0 = min(start.lr0, start.lr0_image * opt.batch_size)
    optimizer = opt.optimizer if opt.optimizer != AUTO else start.optimizer
    recipe.choose(
        f"{optimizer}, lr0 {lr0:g}, cosine",
        f"{start.why}, and {steps} steps are few: SGD would need tens of thousands",
        options={"optimizer": optimizer, "cos_lr": True},
        lr0=lr0,
        lrf=LAST_LR,
        lr_backbone=start.lr_backbone,
        warmup_bias_lr=0.01,
    )
    recipe.choose(
        f"a step for each batch of {opt.batch_size}",
        f"{images} images make {batches} steps in an epoch, gathered to 64 only {max(images // 64, 1)}",
        nominal_batch=opt.batch_size,
    )
    fitting = by_length(lr0, steps, batches, opt.batch_size)
    forgets = optimizer == "Muon" and start.forgets
    _choose_regularization(recipe, opt, fitting["weight_decay"] if forgets else None)
    recipe.choose(
        f"warm-up over {round(fitting['warmup_epochs'] * batches)} steps",
        f"{WARMUP_PART:.0%} of all, at least {SHORTEST_WARMUP}, at most a third",
        warmup_epochs=fitting["warmup_epochs"],
        warmup_least=0,
    )
    recipe.choose(
        f"average of the last {fitting['ema_tau']} steps' weights",
        f"{EMA_PART:.0%} of all; YOLOv5's 10,000 would average next to nothing so early",
        ema_decay=fitting["ema_decay"],
        ema_tau=fitting["ema_tau"],
    )
    if fitting["bn_momentum"] > USUAL_BN_MOMENTUM:
        recipe.choose(
            f"momentum {fitting['bn_momentum']:.2g} of batch-norm's averages",
            "by YOLOv5's 0.03 they would lag behind the weights of so few steps",
            bn_momentum=fitting["bn_momentum"],
        )
    return recipe


def by_length(lr0: float, steps: int, batches: int, batch_size: int) -> dict:
    """Return the hyperparameters that follow from the length: `steps` in all, `batches` of them in an epoch.

    weight_decay is that of Muon from a start that is forgotten.
    """
    warmup = round(min(max(steps * WARMUP_PART, SHORTEST_WARMUP), LONGEST_WARMUP, steps * LONGEST_WARMUP_PART))
    horizon = max(round(steps * EMA_PART), 1)
    return {
        "weight_decay": MUON_DECAY / (lr0 * max(steps, LEAST_STEPS)),
        "warmup_epochs": warmup / batches,
        "ema_decay": 1 - 1 / horizon,
        "ema_tau": horizon,
        "bn_momentum": max(min(1 / horizon, batch_size / LEAST_BN_IMAGES), USUAL_BN_MOMENTUM),
    }


def _choose_regularization(recipe: Recipe, opt: argparse.Namespace, decay: float | None) -> None:
    """Choose weight decay, None for YOLOv5's, mosaic and drop path."""
    if decay is not None:
        recipe.choose(
            f"weight decay {decay:.3g}",
            "Muon's steps are as long for large weights as for small ones; so they stay small and forget early steps",
            weight_decay=decay,
        )
    else:
        decay = default_hyp()["weight_decay"]
        recipe.choose(f"weight decay {decay:g}", "YOLOv5's, and little beside the steps: a start is to be kept")
    if opt.close_mosaic is None:
        recipe.choose(
            "mosaic to the last epoch", "without it in the last fifth AP changed by less than from seed to seed"
        )
    recipe.choose("no drop path", "0.1 cost EdgeViT 1.5 points of mAP50-95 in so few steps", drop_path=0.0)
