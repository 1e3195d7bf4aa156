"""Weights of a backbone or classifier from a file: the tensors that fit by name and shape."""

import re
from pathlib import Path

import torch
from torch import nn

from models.backbone.lite import LITES, fold_normalization, lite_tensors
from utils.checkpoint import load_state_dict_file
from utils.files.values import same_kind
from utils.general import ROOT, find_file
from utils.logger import LOGGER
from utils.torch_utils import is_backbone

# What this project has trained, by the name of the backbone's row in a model file: docs/weights.md.
SHIPPED = {name: ROOT / "weights" / f"{name}_start.safetensors" for name in ("edgevit_n", "edgevit_xxs")}
LEAST_MATCH = 0.9  # share of the tensors that a file must hold
MOST_NAMED = 20  # tensors in a line of the log
WRAPPERS = re.compile(r"^((module|model|backbone|\d+)\.)+")  # prefixes of classifiers, detectors and DDP


def backbones(model: nn.Module) -> list[nn.Module]:
    """Return the backbones in `model`, itself included."""
    return [module for module in model.modules() if is_backbone(module)]


def shipped_weights(rows: list) -> Path | None:
    """Return the shipped file for the backbone in a model file's rows, None if there is none or a row has its own."""
    for _, _, name, arguments in rows:
        if name in SHIPPED and not any(isinstance(argument, str) for argument in arguments):
            return SHIPPED[name] if SHIPPED[name].is_file() else None
    return None


def load_backbone_weights(model: nn.Module, path) -> int:
    """Copy the tensors that fit by name and shape into the backbone, and return their number.

    `model`: a backbone, or a model that holds exactly one. `path`: a file, or one of models.backbone.lite.LITES.
    Logs what is left on both sides. ValueError, and nothing copied, if less than 90 % of the backbone's tensors fit.
    """
    found = backbones(model)
    if len(found) != 1:
        raise ValueError(f"{path}: expected a model with one backbone to load this file into, found {len(found)}")
    if str(path) in LITES:
        return copy_matching(found[0], fold_normalization(lite_tensors(path)), path, "backbone")
    return load_matching_weights(found[0], path, "backbone")


def load_matching_weights(network: nn.Module, path, what: str) -> int:
    """Do the same for a file and any network, which the messages call `what`."""
    return copy_matching(network, load_state_dict_file(find_file(path)), path, what)


def copy_matching(network: nn.Module, tensors: dict[str, torch.Tensor], path, what: str = "backbone") -> int:
    """Do the same for tensors that are read already."""
    own = network.state_dict()
    names = {_plain(name): name for name in own}
    loaded: dict[str, torch.Tensor] = {}
    unused = []
    for name, tensor in tensors.items():
        target = names.get(_plain(name))
        if target is None:
            unused.append(name)
        elif tensor.shape != own[target].shape:
            unused.append(f"{name} (shape {list(tensor.shape)}, expected {list(own[target].shape)})")
        elif not same_kind(tensor, own[target]):
            unused.append(f"{name} ({tensor.dtype}, expected {own[target].dtype})")
        else:
            loaded[target] = tensor
    missing = [name for name in own if name not in loaded]
    summary = f"{path}: {len(loaded)} of the {what}'s {len(own)} tensors match"
    rest = f"not in the file: {_listed(missing)}; in the file but not used: {_listed(unused)}"
    if len(loaded) < LEAST_MATCH * len(own):
        raise ValueError(f"{summary}, expected at least {LEAST_MATCH:.0%}; {rest}")
    network.load_state_dict(loaded, strict=False)
    LOGGER.info(f"{summary}; {rest}")
    return len(loaded)


def _plain(name: str) -> str:
    """Return a tensor's name without wrappers; timm's features_only models write some dots as underscores."""
    return WRAPPERS.sub("", name).replace(".", "_")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more or "none"
