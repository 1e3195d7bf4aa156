"""What a training starts from: random numbers, the shipped file, a checkpoint, or a backbone's file."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from torch import nn

from models.backbone.pretrained import backbones, copy_matching, load_backbone_weights, shipped_weights
from models.heads import Detect
from utils.checkpoint import Checkpoint, intersect_dicts, load_checkpoint, load_state_dict_file
from utils.files import naming
from utils.general import check_yaml
from utils.logger import LOGGER

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


def start_kind(opt: argparse.Namespace, start: Checkpoint | None, model: nn.Module) -> str:
    """Return what a training starts from, a key of engine.train.recipe.STARTS; the model has its names already."""
    if start is not None:
        is_new = set(start.names.values()) != set(model.names.values())
        return "start" if is_new and backbones(model) else "detector"
    if opt.backbone_weights:
        return "backbone"
    shipped = _shipped_start(opt, model)
    return "nothing" if shipped is None else "start" if _fits(model, load_state_dict_file(shipped)) else "backbone"


def build_model(
    opt: argparse.Namespace,
    hyp: dict,
    names: dict[int, str],
    task,
    start: Checkpoint | None,
    resumed: Checkpoint | None,
):
    """Return the model of --cfg or of a checkpoint for the classes `names`, on the CPU.

    From `start`, or without any weights from the shipped file, it takes the tensors that fit by name and shape, and of
    a head for other classes what they share; then the backbone takes those of --backbone-weights. With --cfg a
    detector can start a segmentation model, and the other way round.
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
        model = task.model_class(cfg, nc=len(names), anchors=hyp["anchors"] or None, load_backbones=load_backbones)
    if resumed is not None:
        return model
    if start is not None:
        # anchors belong to --cfg or to the hyperparameters where one of them names some
        exclude = ("anchor",) if opt.cfg or hyp["anchors"] else ()
        take_over(model, start.state_dict, names, start.names, opt.weights, exclude)
    elif shipped := _shipped_start(opt, model):
        _load_shipped(model, shipped, names)
    if opt.backbone_weights:
        load_backbone_weights(model, opt.backbone_weights)
    return model


def take_over(model: nn.Module, tensors: dict, names: dict, old_names: dict, source, exclude=()) -> None:
    """Copy the tensors that fit by name and shape into the model for the classes `names`, and log their number.

    Where the last layer alone is for other classes, the outputs for boxes, objectness and classes of equal name are
    copied. `old_names`: the classes of `tensors`; `source`: what the log line calls them; `exclude`: parts of names.
    """
    own = model.state_dict()
    fitting = intersect_dicts(tensors, own, exclude)
    line = f"Transferred {len(fitting)}/{len(own)} items from {source}"
    last, head = list(model.model.named_children())[-1]
    if isinstance(head, Detect):
        prefix = f"model.{last}."
        outputs = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix) and k not in fitting}
        rows = rows_by_class(head, outputs, names, old_names)
        fitting |= {prefix + name: tensor for name, tensor in rows.items()}
        common = len(set(names.values()) & set(old_names.values()))
        line += f"; of {len(rows)} more the outputs for boxes, objectness and {common} classes" if rows else ""
    model.load_state_dict(fitting, strict=False)
    LOGGER.info(line)


def rows_by_class(head: Detect, tensors: dict, names: dict[int, str], old_names: dict[int, str]) -> dict:
    """Return the head's tensors with the outputs that another head has too: boxes, objectness, masks, equal classes.

    Outputs that it does not have stay as they are in `head`.

    Args:
        head: for the classes `names`.
        tensors: m.0.weight, m.0.bias ... of the other head, which is for `old_names`; others are left out.
    """
    numbers = {name: number for number, name in old_names.items()}
    classes = [(new, numbers[name]) for new, name in names.items() if name in numbers]
    found = {}
    for key, own in head.state_dict().items():
        old = tensors.get(key)
        if not key.startswith("m.") or old is None or old.shape[1:] != own.shape[1:] or len(old) % head.na:
            continue
        old = old.view(head.na, -1, *old.shape[1:])
        nm = old.shape[1] - 5 - len(old_names)  # coefficients of masks
        if nm < 0:
            continue
        new = own.clone().view(head.na, head.no, *own.shape[1:])
        new[:, :5] = old[:, :5]
        for number, old_number in classes:
            new[:, 5 + number] = old[:, 5 + old_number]
        if nm == head.nm:
            new[:, head.no - nm :] = old[:, old.shape[1] - nm :]
        found[key] = new.view(own.shape)
    return found


def _shipped_start(opt: argparse.Namespace, model: nn.Module) -> Path | None:
    """Return the shipped file for the model's backbone, None if there is none or the user has named other weights."""
    return None if opt.backbone_weights or opt.weights else shipped_weights(model.yaml["backbone"])


def _load_shipped(model: nn.Module, file: Path, names: dict[int, str]) -> None:
    """Copy the shipped detector into the model, or its backbone alone where neck and head are others."""
    tensors = load_state_dict_file(file)
    if _fits(model, tensors):
        take_over(model, tensors, names, {}, file, exclude=("anchor",))
    else:
        copy_matching(backbones(model)[0], {k: v for k, v in tensors.items() if k.startswith("model.0.")}, file)


def _fits(model: nn.Module, tensors: dict) -> bool:
    """Return whether all tensors but those of the last layer are the model's by name and shape."""
    last = f"model.{list(dict(model.model.named_children()))[-1]}."
    return all(k.startswith(last) for k in tensors.keys() - intersect_dicts(tensors, model.state_dict()).keys())
