"""Backbones: modules that return several feature maps.

The contract: a backbone declares `out_channels` and `out_strides` (finest first) and returns a list of maps in that
order. In a model file its row has five indices, one for each of the strides 2, 4, 8, 16, 32 (P1 to P5); the slots of
strides that it does not make are empty. Its factory takes the input channels, then the row's arguments, of which
`weights` is a file.
"""

import math

from torch import nn

from models.backbone.Edgevit import edgevit_n, edgevit_s, edgevit_t, edgevit_xs, edgevit_xxs
from models.backbone.pretrained import backbones, load_backbone_weights, shipped_weights
from models.backbone.timm import timm_backbone
from utils.torch_utils import is_backbone

__all__ = ["BACKBONES", "SLOTS", "backbones", "is_backbone", "load_backbone_weights", "shipped_weights", "slots"]

EDGEVITS = {make.__name__: make for make in (edgevit_n, edgevit_t, edgevit_xxs, edgevit_xs, edgevit_s)}
BACKBONES = {**EDGEVITS, "timm": timm_backbone}
SLOTS = 5  # P1 to P5


def slots(backbone: nn.Module) -> list[int]:
    """Return the slot, 0 to 4, of each map: log2(stride) - 1. ValueError if the backbone breaks the contract."""
    strides = list(backbone.out_strides)
    allowed = [2**i for i in range(1, SLOTS + 1)]
    if not strides or strides != sorted(set(strides)) or not set(strides) <= set(allowed):
        raise ValueError(f"backbone strides: expected some of {allowed}, finest first, found {strides}")
    if len(backbone.out_channels) != len(strides):
        raise ValueError(f"backbone: {len(strides)} strides but {len(backbone.out_channels)} channels")
    return [int(math.log2(stride)) - 1 for stride in strides]
