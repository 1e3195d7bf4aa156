"""Any timm model that can return feature maps (https://github.com/huggingface/pytorch-image-models) as a backbone.

timm is an extra: pip install timm. In a model file: [-1, 1, timm, [resnet18]].
"""

import inspect
import re

import torch
from torch import fx, nn

from models.backbone.pretrained import load_backbone_weights
from models.limits import MAX_CHANNELS, MAX_REPEATS
from utils.console.text import brief, did_you_mean
from utils.logger import LOGGER
from utils.torch_utils import BATCH_NORMS, fuse_conv_and_bn

STRIDES = (2, 4, 8, 16, 32)


class TimmBackbone(nn.Module):
    """A features_only timm model: its maps of strides 2 to 32, finest first, [B, C, H, W]."""

    def __init__(self, name: str, in_chans: int = 3, **kwargs):
        super().__init__()
        self.name, self.model = name, _create(name, in_chans, **kwargs)
        if "img_size" not in kwargs:
            _check_free_size(name, self.model)
        info = self.model.feature_info
        declared = list(zip(info.channels(), info.reduction()))
        deepest = {stride: i for i, (_, stride) in enumerate(declared) if stride in STRIDES}
        self.picked = [deepest[stride] for stride in sorted(deepest)]
        self.out_channels = [declared[i][0] for i in self.picked]
        self.out_strides = [declared[i][1] for i in self.picked]
        self.channels_are_last = getattr(self.model, "output_fmt", None) == "NHWC"

    def forward(self, x):
        try:
            maps = self.model(x)
        except torch.cuda.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError) as error:  # as timm's models refuse sizes
            raise ValueError(f"timm {self.name}: images of {list(x.shape[2:])} px do not fit it: {error}") from error
        return [maps[i].permute(0, 3, 1, 2) if self.channels_are_last else maps[i] for i in self.picked]

    def fuse(self):
        """Fold each batch-norm that alone reads a convolution into it, where torch.fx can follow the model."""
        try:
            graph = _Tracer().trace(self.model)
        except Exception as error:  # A model that torch.fx cannot follow may raise anything.
            LOGGER.warning(f"the timm backbone keeps its batch-norms: {error}")
            return
        for node in graph.nodes:
            source = node.args[0] if node.args else None
            if node.op != "call_module" or not isinstance(source, fx.Node) or source.op != "call_module":
                continue
            bn, conv = self.model.get_submodule(node.target), self.model.get_submodule(source.target)
            if isinstance(bn, BATCH_NORMS) and isinstance(conv, nn.Conv2d) and len(source.users) == 1:
                self.model.set_submodule(source.target, fuse_conv_and_bn(conv, bn))
                rest = [getattr(bn, name, nn.Identity()) for name in ("drop", "act")]  # timm puts these into norms
                self.model.set_submodule(node.target, nn.Sequential(*rest))


class _Tracer(fx.Tracer):
    """A tracer that keeps convolutions and batch-norms whole, timm's own kinds too."""

    def is_leaf_module(self, module, name):
        return isinstance(module, (nn.Conv2d, *BATCH_NORMS)) or super().is_leaf_module(module, name)


def _create(name: str, in_chans: int, **kwargs) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ImportError(f"the backbone 'timm {name}' needs timm: pip install timm") from None
    if not timm.is_model(name):
        raise ValueError(f"timm has no model '{name}'{did_you_mean(name, timm.list_models(), n=3)}")
    return timm.create_model(name, features_only=True, in_chans=in_chans, **kwargs)


def _check_free_size(name: str, model: nn.Module) -> None:
    """Check that a timm model takes images of any size; ValueError, with the keyword that makes it so, if not."""
    fixed = next((part for part in model.modules() if getattr(part, "strict_img_size", False)), None)
    if fixed is not None and fixed.img_size is not None:
        is_vit = "dynamic_img_size" in inspect.signature(type(getattr(model, "model", model)).__init__).parameters
        keyword = "{dynamic_img_size: true}" if is_vit else "{strict_img_size: false}"
        h, w = fixed.img_size
        raise ValueError(f"timm {name} takes images of {h} x {w} px alone; with {keyword} behind its name it takes all")


def timm_backbone(in_chans: int, name: str, weights=None, **kwargs) -> TimmBackbone:
    """Return a backbone. `name`: as in timm.list_models(); `weights`: a file; other keywords: for timm.create_model.

    ValueError for keywords that name files or addresses, and for numbers that are no sizes of a network.
    """
    for key, value in kwargs.items():
        if key.startswith(("pretrained", "checkpoint", "cache")):
            raise ValueError(f"the keyword '{key}' is not for a model file: `weights` names a file to start from")
        most = MAX_REPEATS if re.search("depth|layer|block|num", key) else MAX_CHANNELS
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(number, (int, float)) and number > most for number in numbers):
            raise ValueError(f"{key}: expected at most {most}, found {brief(value)}")
    model = TimmBackbone(name, in_chans, **kwargs)
    if weights:
        load_backbone_weights(model, weights)
    return model
