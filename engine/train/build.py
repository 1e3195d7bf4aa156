"""The model of a training and its optimizer: frozen layers, groups of parameters, stochastic depth."""

import argparse

import torch
from torch import nn

from engine.train.schedule import scaled_weight_decay
from models.backbone.pretrained import backbones
from utils import dist
from utils.console.text import did_you_mean
from utils.optimizers import smart_optimizer
from utils.torch_utils import BATCH_NORMS, is_backbone


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


def set_bn_momentum(model: nn.Module, momentum: float) -> None:
    """Let each batch make this part of batch-norm's averages, except inside a backbone, which has its own momentum."""
    if is_backbone(model):
        return
    if isinstance(model, BATCH_NORMS):
        model.momentum = momentum
    for child in model.children():
        set_bn_momentum(child, momentum)


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
