"""Frozen networks whose maps a backbone learns to reproduce: detectors, and networks of timm and torchvision.

A teacher takes images float [B, 3, H, W] RGB in 0..1 and returns a map [B, C, H / s, W / s] for each of its `strides`
(px, finest first), whose C are its `channels`. `description` is plain data that says which one it is.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn
from torch.nn import functional as F

from extras.classify.model import IMAGENET
from models.backbone.pretrained import load_matching_weights
from models.backbone.timm import TimmBackbone
from models.experimental import class_for
from utils.checkpoint import load_checkpoint, load_state_dict_file, state_sha256
from utils.general import find_file

STRIDES = (4, 8, 16, 32)  # px, of the maps that are learned
PROBE_PX = 256  # side of the image that finds the strides; a multiple of the largest one, 128
LIBRARIES = ("timm", "torchvision")
LEAST_DEVIATION = 0.02  # of a patch's values, 0..1: below it is noise


class Teacher(nn.Module):
    """A network in evaluation mode without gradients. Of several maps of one stride the last one counts."""

    def __init__(self, network: nn.Module, description: dict, normalize=None):
        """network: images -> a list of maps; normalize: mean and deviation [3] of its images, None for 0..1 as is.

        ValueError if it cannot be run, or has no map of STRIDES.
        """
        super().__init__()
        self.network, self.normalize = network.eval().requires_grad_(False), normalize
        self.description = {**description, "teacher sha256": state_sha256(network.state_dict())}
        name = description["teacher"]
        try:
            maps = self._all_maps(torch.zeros(1, 3, PROBE_PX, PROBE_PX))
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"teacher {name}: expected maps of an image of {PROBE_PX} px, found: {error}") from error
        last = {}
        for i, made in enumerate(maps):
            if made.ndim == 4 and made.shape[2] == made.shape[3]:
                last[PROBE_PX / made.shape[3]] = i
        self.strides = [stride for stride in STRIDES if stride in last]
        if not self.strides:
            shapes = ", ".join(str(list(made.shape)) for made in maps)
            raise ValueError(f"teacher {name}: expected a map of stride 4, 8, 16 or 32, found maps {shapes}")
        self.picked = [last[stride] for stride in self.strides]
        self.channels = [maps[i].shape[1] for i in self.picked]

    @torch.no_grad()
    def _all_maps(self, images: torch.Tensor) -> list:
        if self.normalize:
            mean, deviation = (images.new_tensor(values).view(-1, 1, 1) for values in self.normalize)
            images = (images - mean) / deviation
        return list(self.network(images))

    def forward(self, images: torch.Tensor) -> list:
        maps = self._all_maps(images)
        return [maps[i] for i in self.picked]


class Pixels(nn.Module):
    """The image itself, cut into patches of s x s px; their values are the channels.

    A backbone learns to keep, at each place, what is to be seen there. As in MAE (arXiv 2111.06377) each patch is
    normalised, for what is in it counts and not how bright all is; but nothing is hidden, which takes longer to help.
    """

    strides = [8, 16, 32]
    channels = [3 * stride**2 for stride in strides]
    description = {"teacher": "none"}

    def forward(self, images: torch.Tensor) -> list:
        return [normalised(F.pixel_unshuffle(images, stride)) for stride in self.strides]


def normalised(patches: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] with mean 0 and deviation 1 over C; what hardly differs in a patch stays small."""
    deviation, mean = torch.std_mean(patches, 1, keepdim=True)
    return (patches - mean) / (deviation + LEAST_DEVIATION)


class Together(nn.Module):
    """Several teachers as one: the maps of them all, one teacher's after the other's."""

    def __init__(self, *teachers):
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.strides = [stride for teacher in teachers for stride in teacher.strides]
        self.channels = [channels for teacher in teachers for channels in teacher.channels]
        self.description = teachers[0].description

    def forward(self, images: torch.Tensor) -> list:
        return [made for teacher in self.teachers for made in teacher(images)]


def load_teacher(source: str, weights: str = "", download: bool = False) -> Teacher:
    """The teacher that --teacher names.

    Args:
        source: a detector's checkpoint, ours or an official YOLOv5 one; timm:NAME or torchvision:NAME.
        weights: for a name: the file with its tensors. '' looks into the library's cache.
        download: fetch what is not on this machine.

    ValueError or FileNotFoundError if there is no such teacher, or no weights for it.
    """
    library, _, name = str(source).partition(":")
    if library in LIBRARIES:
        return (timm_teacher if library == "timm" else torchvision_teacher)(name, weights, download)
    if weights:
        raise ValueError(f"--teacher-weights: expected only with --teacher timm:NAME or torchvision:NAME, not {source}")
    return detector_teacher(source, download)


def detector_teacher(source, download: bool) -> Teacher:
    """The maps of a checkpoint's backbone, not of its neck: those taught less in a short measurement."""
    if not Path(source).exists() and not download:
        hint = "--download fetches a file of YOLOv5's release; a library's network is timm:NAME or torchvision:NAME"
        raise FileNotFoundError(f"teacher '{source}': no such file ({hint})")
    ckpt = load_checkpoint(source)
    if ckpt.task not in ("detect", "segment"):
        raise ValueError(f"teacher {source}: expected a detector, found a model for '{ckpt.task}'")
    model = class_for(ckpt.task).from_checkpoint(ckpt, fuse=True)
    rows, reader = list(model.model)[: len(model.yaml["backbone"])], nn.Identity()
    reader.i, reader.f, reader.type = -1, [i for row in rows for i in getattr(row, "slots", [row.i])], "Identity"
    model.model, model.save = nn.Sequential(*rows, reader), reader.f  # the backbone alone, which returns all its maps
    licence = ckpt.meta.get("licence", "unknown")
    return Teacher(model, {"teacher": str(source), "teacher licence": licence})


def timm_teacher(name: str, weights: str, download: bool) -> Teacher:
    try:
        network = TimmBackbone(name)
    except (RuntimeError, AssertionError, AttributeError) as error:  # what timm raises for a model without maps
        raise ValueError(f"teacher timm:{name}: timm gives no maps of it: {error}") from error
    import timm

    cfg = timm.get_pretrained_cfg(name)
    file = weights or _timm_cache(cfg)
    if file:
        load_matching_weights(network, file, "teacher")
    elif download and cfg is not None:
        network = TimmBackbone(name, pretrained=True)
    else:
        raise FileNotFoundError(_no_weights(f"timm:{name}", cfg is not None))
    normalize = (list(cfg.mean), list(cfg.std)) if cfg is not None else IMAGENET
    return Teacher(
        network, {"teacher": f"timm:{name}", "teacher licence": getattr(cfg, "license", None) or "unknown"}, normalize
    )


def _timm_cache(cfg):
    """The file of these weights in the caches of huggingface_hub and torch, None if it is in neither."""
    if cfg is None:
        return None
    if cfg.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        for name in names:
            file = try_to_load_from_cache(cfg.hf_hub_id, name)
            if isinstance(file, str):
                return file
    return _torch_cache(cfg.url) if cfg.url else None


def _torch_cache(url: str):
    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    return file if os.path.isfile(file) else None


def torchvision_teacher(name: str, weights: str, download: bool) -> Teacher:
    from torchvision import models as vision

    known = vision.list_models(module=vision)
    if name not in known:
        nearest = get_close_matches(name, known, n=3)
        hint = f", did you mean {' or '.join(nearest)}?" if nearest else ""
        raise ValueError(f"torchvision has no model '{name}'{hint}")
    network, published = vision.get_model(name, weights=None), vision.get_model_weights(name).DEFAULT
    file = weights or _torch_cache(published.url)
    if file:
        tensors = load_state_dict_file(find_file(file))
    elif download:
        tensors = published.get_state_dict(progress=True)
    else:
        raise FileNotFoundError(_no_weights(f"torchvision:{name}", True))
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{file or name}: the tensors do not fit torchvision's {name}: {error}") from None
    return Teacher(
        Stages(network),
        {"teacher": f"torchvision:{name}", "teacher licence": "that of torchvision's weights"},
        IMAGENET,
    )


class Stages(nn.Module):
    """The parts of a torchvision classifier up to its pooling, one after the other: an image -> their outputs."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList()
        for part in network.features if hasattr(network, "features") else network.children():
            if isinstance(part, (nn.AdaptiveAvgPool2d, nn.Linear)):
                break
            self.parts.append(part)

    def forward(self, x) -> list:
        maps = []
        for part in self.parts:
            x = part(x)
            maps.append(x)
        return maps


def _no_weights(name: str, published: bool) -> str:
    hint = "--download fetches them, " if published else "none are published, "
    return f"teacher {name}: its weights are not on this machine: {hint}--teacher-weights FILE names a file"
