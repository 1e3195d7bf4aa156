"""Frozen networks that another network learns from: detectors, and networks of timm and torchvision."""

import os
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn
from torch.nn import functional as F

from models.backbone.lite import DEVIATION, LITES, MEAN, lite_tensors
from models.backbone.pretrained import load_matching_weights
from models.backbone.timm import TimmBackbone
from models.load import attempt_load, model_of
from models.yolo import BaseModel
from utils.checkpoint import load_checkpoint, load_state_dict_file, state_sha256
from utils.console.text import did_you_mean
from utils.general import find_file

STRIDES = (4, 8, 16, 32)  # px, of the maps that a backbone learns
PROBE_PX = 256  # side of the image that finds the strides; a multiple of the largest one, 128
LEAST_DEVIATION = 0.02  # among a patch's values, 0..1: below it is noise


class Teacher(nn.Module):
    """A network in evaluation mode without gradients: images -> feature maps and, of a detector, boxes.

    Called with images float [B, 3, H, W] RGB in 0..1, it returns a map [B, C, H / s, W / s] for each of its `strides`
    (px, finest first), whose C are its `channels`. `description` is plain data that identifies the network.
    """

    def __init__(self, network: nn.Module, description: dict, normalize=None, strides: tuple | None = STRIDES):
        """Find the network's maps by an image of PROBE_PX; of several maps of one stride the last one counts.

        network: images -> a list of maps, behind which a detector's output may follow.
        normalize: mean and deviation [3] of the network's images, None for 0..1 as it is.
        strides: those to keep, None for all.
        ValueError if it cannot be run, or has no such map.
        """
        super().__init__()
        self.network, self.normalize = network.requires_grad_(False), normalize
        self.eval()
        self.description = {**description, "teacher sha256": state_sha256(network.state_dict())}
        name = description["teacher"]
        try:
            outputs = self._outputs(torch.zeros(1, 3, PROBE_PX, PROBE_PX))
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"teacher {name}: expected maps of an image of {PROBE_PX} px, found: {error}") from error
        maps = {i: made for i, made in enumerate(outputs) if isinstance(made, torch.Tensor)}
        last = {
            PROBE_PX / made.shape[3]: i for i, made in maps.items() if made.ndim == 4 and made.shape[2] == made.shape[3]
        }
        self.strides = [stride for stride in strides or sorted(last) if stride in last]
        if not self.strides:
            shapes = ", ".join(str(list(made.shape)) for made in maps.values())
            raise ValueError(f"teacher {name}: expected a map of stride 4, 8, 16 or 32, found maps {shapes}")
        self.picked = [last[stride] for stride in self.strides]
        self.channels = [maps[i].shape[1] for i in self.picked]

    @torch.no_grad()
    def _outputs(self, images: torch.Tensor) -> list:
        if self.normalize:
            mean, deviation = (images.new_tensor(values).view(-1, 1, 1) for values in self.normalize)
            images = (images - mean) / deviation
        return list(self.network(images))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        outputs = self._outputs(images)
        return [outputs[i] for i in self.picked]

    def detect(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return a detector's maps, and its boxes [B, N, no] as the Detect head gives them."""
        outputs = self._outputs(images)
        return [outputs[i] for i in self.picked], outputs[-1][0]


def with_maps(model: BaseModel, sources: list[int]) -> BaseModel:
    """Let a model return the maps of these row numbers (-1: the last row's output) as a list, in place."""
    reader = nn.Identity()
    reader.i, reader.f, reader.type = -1, sources, "Identity"
    model.save = sorted({*model.save, *sources})
    model.model.add_module("reader", reader)
    return model


def open_detector(file: str) -> tuple[Teacher, dict[int, str]]:
    """Return the teacher of a whole detector, with the maps that its head reads, and its class names."""
    model = attempt_load(file)
    if model.task != "detect":
        raise ValueError(f"--teacher {file}: expected a detection model, found one for '{model.task}'")
    read = [model.head.i - 1 if i == -1 else i for i in model.head.f]
    return Teacher(with_maps(model, [*read, -1]), {"teacher": file}, strides=None), model.names


def open_teacher(source: str, weights: str = "", download: bool = False) -> Teacher:
    """Return the teacher of a backbone.

    Args:
        source: a detector's checkpoint, ours or an official YOLOv5 one; timm:NAME or torchvision:NAME; one of LITES.
        weights: for a name: the file with its tensors. '' looks into the library's cache.
        download: fetch what is not on this machine.

    ValueError or FileNotFoundError if there is no such teacher, or no weights for it; ImportError without its package.
    """
    library, _, name = str(source).partition(":")
    if library in ("timm", "torchvision"):
        return (_from_timm if library == "timm" else _from_torchvision)(name, weights, download)
    if weights:
        raise ValueError(f"--teacher-weights: expected only with --teacher timm:NAME or torchvision:NAME, not {source}")
    return _from_package(source) if source in LITES else _from_detector(source, download)


def _from_detector(source: str, download: bool) -> Teacher:
    """Return the maps of a checkpoint's backbone, not of its neck: those taught less in a short measurement."""
    if not Path(source).exists() and not download:
        hint = "--download fetches a file of YOLOv5's release; a library's network is timm:NAME or torchvision:NAME"
        raise FileNotFoundError(f"teacher '{source}': no such file ({hint})")
    ckpt = load_checkpoint(source)
    if ckpt.task not in ("detect", "segment"):
        raise ValueError(f"teacher {source}: expected a detector, found a model for '{ckpt.task}'")
    model = model_of(ckpt, source, fuse=True)
    rows = list(model.model)[: len(model.yaml["backbone"])]
    model.model = nn.Sequential(*rows)
    with_maps(model, [i for row in rows for i in getattr(row, "slots", [row.i])])
    return Teacher(model, {"teacher": str(source), "teacher licence": ckpt.meta.get("licence", "unknown")})


def _from_timm(name: str, weights: str, download: bool) -> Teacher:
    try:
        network = TimmBackbone(name)
    except (RuntimeError, AssertionError, AttributeError) as error:  # timm raises these for a model without maps.
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
    data = timm.data
    normalize = (cfg.mean, cfg.std) if cfg else (data.IMAGENET_DEFAULT_MEAN, data.IMAGENET_DEFAULT_STD)
    licence = getattr(cfg, "license", None) or "unknown"
    return Teacher(network, {"teacher": f"timm:{name}", "teacher licence": licence}, normalize)


def _timm_cache(cfg) -> str | None:
    """Return the file of these weights in the caches of huggingface_hub and torch, None if it is in neither."""
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


def _torch_cache(url: str) -> str | None:
    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    return file if os.path.isfile(file) else None


def _from_package(name: str) -> Teacher:
    """Return one of LITES with the weights that its package carries; nothing is fetched."""
    tensors = lite_tensors(name)
    import timm

    network = timm.create_model(f"tf_{name}")
    network.load_state_dict(tensors)
    description = {"teacher": name, "teacher licence": "Apache-2.0"}
    return Teacher(ClassMaps(network), description, ([MEAN] * 3, [DEVIATION] * 3))


class ClassMaps(nn.Module):
    """A timm classifier: an image -> its maps; the last has also, as further channels, the classes' logits there.

    The mean of these logits over all cells is the classifier's answer for the whole image.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features, maps = self.network.forward_intermediates(x)
        last = self.network.classifier
        logits = F.conv2d(features, last.weight[:, :, None, None], last.bias)
        return [*maps[:-1], torch.cat([maps[-1], logits], 1)]


def _from_torchvision(name: str, weights: str, download: bool) -> Teacher:
    from torchvision import models as vision

    known = vision.list_models(module=vision)
    if name not in known:
        raise ValueError(f"torchvision has no model '{name}'{did_you_mean(name, known, n=3)}")
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
    description = {"teacher": f"torchvision:{name}", "teacher licence": "that of torchvision's weights"}
    preset = published.transforms()
    return Teacher(PartOutputs(network), description, (preset.mean, preset.std))


class PartOutputs(nn.Module):
    """The parts of a torchvision classifier up to its pooling, one after the other: an image -> their outputs."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList()
        for part in network.features if hasattr(network, "features") else network.children():
            if isinstance(part, (nn.AdaptiveAvgPool2d, nn.Linear)):
                break
            self.parts.append(part)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for part in self.parts:
            x = part(x)
            maps.append(x)
        return maps


def _no_weights(name: str, published: bool) -> str:
    hint = "--download fetches them, " if published else "none are published, "
    return f"teacher {name}: its weights are not on this machine: {hint}--teacher-weights FILE names a file"


class Pixels(nn.Module):
    """The image itself, cut into patches of s x s px; their values are the channels.

    A backbone learns to keep, at each point, what is to be seen there. As in MAE (arXiv 2111.06377) each patch is
    normalised, for its content counts and not its brightness; but nothing is hidden, which takes longer to help.
    """

    strides = [8, 16, 32]
    channels = [3 * stride**2 for stride in strides]
    description = {"teacher": "none"}

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self._normalised(F.pixel_unshuffle(images, stride)) for stride in self.strides]

    @staticmethod
    def _normalised(patches: torch.Tensor) -> torch.Tensor:
        """Return [B, C, h, w] with mean 0 and deviation 1 over C; a patch almost without contrast stays small."""
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

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [made for teacher in self.teachers for made in teacher(images)]
