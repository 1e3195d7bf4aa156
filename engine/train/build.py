"""The model of a training and its optimizer: starting weights, frozen layers, stochastic depth."""

import argparse
from contextlib import nullcontext

import torch
from torch import nn

from engine.train.schedule import scaled_weight_decay
from models.backbone.pretrained import backbones, load_backbone_weights, shipped_weights
from utils import dist
from utils.checkpoint import Checkpoint, intersect_dicts, load_checkpoint
from utils.console.text import did_you_mean
from utils.files import naming
from utils.general import check_yaml
from utils.logger import LOGGER
from utils.optimizers import smart_optimizer

NOTHING = "none"  # The value of --weights that starts from random numbers.


def load_start(opt: argparse.Namespace) -> Checkpoint | None:
    """Return the checkpoint of --weights, None without.

    ValueError or FileNotFoundError if it, or --cfg, cannot be used.
    """
    given = opt.weights if opt.weights != NOTHING else ""
    if not given and not opt.cfg:
        raise ValueError("nothing to train: give --cfg (a model file) or --weights (a checkpoint)")
    if isinstance(opt.cfg, str) and opt.cfg:
        check_yaml(opt.cfg)
    return load_checkpoint(given) if given else None


def backbone_file(opt: argparse.Namespace, model: nn.Module) -> str:
    """Return --backbone-weights, else the shipped file for the backbone if no weights are given, else ''."""
    if opt.backbone_weights or opt.weights:
        return opt.backbone_weights
    return str(shipped_weights(model.yaml["backbone"]) or "")


def start_kind(opt: argparse.Namespace, start: Checkpoint | None, model: nn.Module) -> str:
    """Return what a training starts from, a key of engine.train.recipe.STARTS."""
    if start is not None:
        return "detector"
    return "backbone" if backbone_file(opt, model) else "nothing"


def build_model(
    opt: argparse.Namespace, hyp: dict, nc: int, task, start: Checkpoint | None, resumed: Checkpoint | None
):
    """Return the model of --cfg or of a checkpoint for `nc` classes, on the CPU.

    From `start` it takes the tensors that fit by name and shape, then the backbone those of backbone_file(). With
    --cfg a detector can start a segmentation model, and the other way round.
    `resumed`, the checkpoint of an interrupted run, gives the model file only: its tensors are loaded later.
    """
    source = resumed or start
    other_layers = start is not None and opt.cfg and "classify" not in (start.task, task.name)
    if source is not None and source.task != task.name and not other_layers:
        hint = "; with --cfg its tensors can start another model" if start and start.task != "classify" else ""
        raise ValueError(f"{opt.weights}: expected a model for '{task.name}', found one for '{source.task}'{hint}")
    cfg = source.yaml if resumed or not opt.cfg else opt.cfg
    # only --cfg may name a backbone file: what a checkpoint's row names is in its own tensors
    load_backbones = bool(opt.cfg) and resumed is None
    with naming(opt.weights) if start is not None and not opt.cfg else nullcontext():
        model = task.model_class(cfg, nc=nc, anchors=hyp["anchors"] or None, load_backbones=load_backbones)
    if resumed is not None:
        return model
    if start is not None:
        # anchors belong to --cfg or to the hyperparameters where one of them names some
        exclude = ("anchor",) if opt.cfg or hyp["anchors"] else ()
        fitting = intersect_dicts(start.state_dict, model.state_dict(), exclude=exclude)
        model.load_state_dict(fitting, strict=False)
        LOGGER.info(f"Transferred {len(fitting)}/{len(model.state_dict())} items from {opt.weights}")
    file = backbone_file(opt, model)
    if file:
        load_backbone_weights(model, file)
    return model


def freeze_layers(model: nn.Module, specs: list) -> list[str]:
    """Stop the training of layers; returns the names of the frozen parameters.

    One number N: the model file's rows 0 to N - 1, or the first N parts of a network without rows. Several numbers:
    those rows. A name such as "model.7.m" or "attn": every parameter with these parts in its dotted name. As in YOLOv5
    the batch-norm statistics of a frozen layer go on following the data.
    """
    given = " ".join(map(str, specs))
    specs = [int(spec) if str(spec).isdigit() else str(spec) for spec in specs]
    if len(specs) == 1 and isinstance(specs[0], int):
        specs = list(range(specs[0]))
    children = [name for name, _ in model.model.named_children()]
    rows = range(int(children[-1]) + 1) if children[-1].isdigit() else children  # a backbone's row takes many numbers
    names = [name for name, _ in model.named_parameters()]
    parts = [f"model.{rows[min(spec, len(rows) - 1)]}" if isinstance(spec, int) else spec for spec in specs]
    for spec, part in zip(specs, parts):
        if isinstance(spec, int) and spec >= len(rows):
            raise ValueError(f"--freeze: the model's last row is {len(rows) - 1}, found {spec}")
        if isinstance(spec, str) and not any(_has_parts(name, part) for name in names):
            hint = did_you_mean(part, {part for name in names for part in _prefixes(name)}, " ({})")
            raise ValueError(f"--freeze: no parameter has '{spec}' in its name{hint}")
    frozen = [name for name in names if any(_has_parts(name, part) for part in parts)]
    if len(frozen) == len(names):
        raise ValueError(f"--freeze {given}: nothing is left to train, all of the model is frozen")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return frozen


def backbone_parameters(model: nn.Module) -> list:
    """Return the parameters of the modules that are backbones, else those of a model file's backbone rows."""
    parts = list(backbones(model))
    if not parts and getattr(model, "yaml", None) and "backbone" in model.yaml:
        parts = list(model.model)[: len(model.yaml["backbone"])]
    return [parameter for part in parts for parameter in part.parameters()]


def output_parameters(model: nn.Module) -> list:
    """Return the parameters of a detector's head, or of the last layer of another network."""
    last = getattr(model, "head", None) or list(model.modules())[-1]
    return list(last.parameters())


def make_optimizer(model: nn.Module, opt: argparse.Namespace, hyp: dict) -> torch.optim.Optimizer:
    """Return the optimizer of --optimizer, with its own learning rate for the backbone and none for frozen layers."""
    return smart_optimizer(
        model,
        opt.optimizer,
        hyp["lr0"],
        hyp["momentum"],
        scaled_weight_decay(hyp, opt.batch_size),
        slow=backbone_parameters(model),
        slow_part=hyp.get("lr_backbone", 1.0),
        outputs=output_parameters(model),
    )


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Stochastic depth for the model's backbones; 0 leaves them as they are. ValueError if none has any."""
    if rate == 0:
        return
    able = [module for module in backbones(model) if hasattr(module, "set_drop_path")]
    if not able:
        raise ValueError("hyp: drop_path: expected 0, as the model's backbone has no stochastic depth")
    for module in able:
        module.set_drop_path(rate)


def _has_parts(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def _prefixes(name: str) -> list[str]:
    """Dotted prefixes and single parts of a parameter's name."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))] + [part for part in parts if not part.isdigit()]


def parallelize(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model itself in a single process, else wrapped so that the ranks' gradients are averaged."""
    if not dist.is_distributed():
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def use_fused_steps(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let the optimizer update a whole group in one kernel: about three times as fast as a loop, also on a CPU."""
    for group in optimizer.param_groups:
        if "fused" in group and device.type in ("cpu", "cuda"):
            group["fused"] = True
