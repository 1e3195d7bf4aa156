"""What a training needs before its first step: model, frozen layers, precision and data loaders."""

from __future__ import annotations

import argparse
import math
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.backbone.pretrained import backbones, load_backbone_weights
from utils import dist
from utils.checkpoint import Checkpoint, intersect_dicts, load_checkpoint
from utils.general import check_yaml
from utils.logger import LOGGER
from utils.torch_utils import select_device

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(opt: argparse.Namespace) -> torch.device:
    """The device of this process: under torchrun the GPU of its local rank (or the CPU), else that of --device."""
    if dist.world_size() > 1:
        cuda = torch.cuda.is_available() and opt.device != "cpu"
        return torch.device("cuda", dist.local_rank()) if cuda else torch.device("cpu")
    if "," in str(opt.device):
        count = len(opt.device.split(","))
        raise ValueError(
            f"--device {opt.device}: start one process per GPU: torchrun --nproc_per_node {count} train.py ..."
        )
    return select_device(opt.device, opt.batch_size)


def check_options(opt: argparse.Namespace, device: torch.device) -> None:
    """ValueError for options that cannot work here, or not together."""
    ranks = dist.world_size()
    if opt.epochs < 1:
        raise ValueError(f"--epochs: expected at least 1, found {opt.epochs}")
    if opt.batch_size < 1 and opt.batch_size != -1:
        raise ValueError(f"--batch-size: expected at least 1, or -1 to measure it, found {opt.batch_size}")
    if opt.sync_bn and (ranks == 1 or device.type != "cuda"):
        raise ValueError("--sync-bn needs several GPUs: torchrun --nproc_per_node N train.py ...")
    if ranks == 1:
        return
    if opt.batch_size % ranks:
        raise ValueError(f"--batch-size {opt.batch_size} must be a positive multiple of the {ranks} processes")
    if opt.evolve:
        raise ValueError("--evolve runs in one process, not under torchrun")


def load_start(opt: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint of --weights, None without. ValueError or FileNotFoundError if it, or --cfg, cannot be used."""
    if not opt.weights and not opt.cfg:
        raise ValueError("nothing to train: give --cfg (a model file) or --weights (a checkpoint)")
    if isinstance(opt.cfg, str) and opt.cfg:
        check_yaml(opt.cfg)
    return load_checkpoint(opt.weights) if opt.weights else None


def build_model(
    opt: argparse.Namespace, hyp: dict, nc: int, task, start: Checkpoint | None, resumed: Checkpoint | None
):
    """The model of --cfg or of a checkpoint for `nc` classes, on the CPU.

    From `start` it takes the tensors that fit by name and shape, then the backbone those of --backbone-weights. With
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
    model = task.model_class(cfg, nc=nc, anchors=hyp["anchors"] or None, load_backbones=load_backbones)
    if resumed is not None:
        return model
    if start is not None:
        # anchors belong to --cfg or to the hyperparameters where one of them names some
        exclude = ("anchor",) if opt.cfg or hyp["anchors"] else ()
        fitting = intersect_dicts(start.state_dict, model.state_dict(), exclude=exclude)
        model.load_state_dict(fitting, strict=False)
        LOGGER.info(f"Transferred {len(fitting)}/{len(model.state_dict())} items from {opt.weights}")
    if opt.backbone_weights:
        load_backbone_weights(model, opt.backbone_weights)
    return model


def freeze_layers(model: nn.Module, specs: list) -> list[str]:
    """Stop the training of layers; returns the names of the frozen parameters.

    One number N: the model file's rows 0 to N - 1, or the first N parts of a network without rows. Several numbers:
    those rows. A name such as "model.7.m" or "attn": every parameter with these parts in its dotted name. As in YOLOv5
    the batch-norm statistics of a frozen layer go on following the data.
    """
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
            match = get_close_matches(part, {part for name in names for part in _prefixes(name)}, n=1)
            raise ValueError(
                f"--freeze: no parameter has '{spec}' in its name{f' (did you mean {match[0]}?)' if match else ''}"
            )
    frozen = [name for name in names if any(_has_parts(name, part) for part in parts)]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return frozen


def backbone_parameters(model: nn.Module) -> list:
    """The parameters of the modules that are backbones, else those of a model file's backbone rows."""
    parts = list(backbones(model))
    if not parts and getattr(model, "yaml", None) and "backbone" in model.yaml:
        parts = list(model.model)[: len(model.yaml["backbone"])]
    return [parameter for part in parts for parameter in part.parameters()]


def output_parameters(model: nn.Module) -> list:
    """The parameters of a detector's head, or of the last layer of another network."""
    last = getattr(model, "head", None) or list(model.modules())[-1]
    return list(last.parameters())


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


def amp_dtype(choice: str, device: torch.device) -> torch.dtype | None:
    """The type of --amp's mixed precision on this device, None for plain float32. ValueError if the device cannot."""
    if choice == "auto":
        choice = "fp16" if device.type == "cuda" else "off"
    if choice == "off":
        return None
    if choice == "fp16" and device.type != "cuda":
        raise ValueError(f"--amp fp16 needs a CUDA device, found {device.type}; bf16 and off work there")
    if choice == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("--amp bf16: this GPU has no bfloat16; use fp16")
    return AMP_DTYPES[choice]


def parallelize(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself in a single process, else wrapped so that the ranks' gradients are averaged."""
    if not dist.is_distributed():
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


@contextmanager
def repeatable():
    """Inside, torch uses only algorithms that give the same result each time; afterwards its settings are as before."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill


def use_fused_steps(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let the optimizer update a whole group in one kernel: about three times as fast as a loop, also on a CPU."""
    for group in optimizer.param_groups:
        if "fused" in group and device.type in ("cpu", "cuda"):
            group["fused"] = True


def resize_batch(images: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Scale [B, 3, H, W] so that the longer side is `size` px and both are multiples of `stride`."""
    gain = size / max(images.shape[2:])
    if gain == 1:
        return images
    shape_hw = [math.ceil(side * gain / stride) * stride for side in images.shape[2:]]
    return F.interpolate(images, size=shape_hw, mode="bilinear", align_corners=False)


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of everything random that has no generator of its own (stochastic depth, dropout) in one epoch."""
    return int(np.random.SeedSequence([seed, epoch, max(rank, 0)]).generate_state(1)[0])


def tensorboard(folder: Path, columns: tuple):
    """A TensorBoard writer for a run folder, None where the package is not installed."""
    if find_spec("tensorboard") is None:
        return None
    from utils.loggers.tensorboard import TensorBoardLogger

    LOGGER.info(f"TensorBoard: tensorboard --logdir {folder.parent}")
    return TensorBoardLogger(folder, columns)
