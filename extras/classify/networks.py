"""Networks of classifiers, EdgeViT's own and those of torchvision and timm: names, weights, last layer."""

import re

import torch.nn.functional as F
from torch import nn

from models.backbone.classifier import EdgeViTClassifier
from models.backbone.Edgevit import VARIANTS
from utils.checkpoint import intersect_dicts
from utils.console.text import brief, did_you_mean
from utils.logger import LOGGER

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and deviation of R, G, B in 0..1


def find_network(name: str) -> str:
    """Return `name` as `yaml` stores it: one of VARIANTS, torchvision/NAME or timm/NAME; torchvision has precedence.

    ValueError with the nearest names if there is none.
    """
    from torchvision import models as vision

    plain = {re.sub("[-_. ]", "", known): known for known in VARIANTS}
    if variant := plain.get(re.sub("[-_. ]", "", str(name)).lower()):
        return variant
    library, _, short = str(name).rpartition("/")
    known = {"torchvision": vision.list_models(module=vision), "timm": _timm_names()}
    for found in [library] if library else known:
        if short.split(".")[0] in known.get(found, ()):
            return f"{found}/{short}"
    everything = [*VARIANTS, *known["torchvision"], *known["timm"]]
    nearest = did_you_mean(short, dict.fromkeys(everything), n=3)
    nearest = nearest or f", did you mean {' or '.join([*VARIANTS, 'resnet18'])}?"
    hint = "" if known["timm"] else " (timm's names need timm: pip install timm)"
    raise ValueError(f"no classifier '{name}'{nearest}{hint}")


def _timm_names() -> list:
    try:
        import timm
    except ImportError:
        return []
    return timm.list_models()


def build_network(name: str, nc: int, ch: int = 3) -> nn.Module:
    """Return the network that find_network() names, with `nc` outputs, from scratch."""
    if name in VARIANTS:
        return EdgeViTClassifier(**VARIANTS[name], nc=nc, in_chans=ch)
    library, _, short = name.partition("/")
    if library == "timm":
        import timm

        return timm.create_model(short, num_classes=nc, in_chans=ch)
    if ch != 3:
        raise ValueError(f"{name}: torchvision's models take 3 input channels, found ch={ch}")
    from torchvision import models as vision

    quiet = {"init_weights": True} if short in ("googlenet", "inception_v3") else {}  # else torchvision warns
    return vision.get_model(short, weights=None, num_classes=nc, **quiet)


def load_library_weights(network: nn.Module, name: str) -> str:
    """Download the weights that torchvision or timm has for `name` into `network`, whose last layer may differ.

    Returns the `normalize` that they were trained with.
    """
    library, _, short = name.partition("/")
    if library == "timm":
        import timm

        source = timm.create_model(short, pretrained=True)
        pair = [list(source.pretrained_cfg[key]) for key in ("mean", "std")]
        normalize = "imagenet" if pair == list(IMAGENET) else "none" if pair == [[0.0] * 3, [1.0] * 3] else pair
        tensors = source.state_dict()
    elif library == "torchvision":
        from torchvision import models as vision

        tensors, normalize = vision.get_model_weights(short).DEFAULT.get_state_dict(progress=True), "imagenet"
    else:
        raise ValueError(f"there is no address of weights for {name}: give a file, --pretrained {name}.pth")
    transfer(network, tensors, name)
    return normalize


def transfer(network: nn.Module, tensors: dict, source) -> dict:
    """Load those of `tensors` that fit by name and shape; returns them."""
    fitting = intersect_dicts(tensors, network.state_dict())
    network.load_state_dict(fitting, strict=False)
    LOGGER.info(f"Transferred {len(fitting)}/{len(network.state_dict())} items from {source}")
    return fitting


def last_layer(network: nn.Module) -> tuple:
    """Return (name, module) of the linear layer or convolution that makes the logits: the last one."""
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise ValueError(f"{type(network).__name__}: expected a classifier, found no linear layer or convolution")
    return layers[-1]


class DropoutLinear(nn.Linear):
    """A linear layer with dropout before it, for networks that have none. Its tensors' names are a linear layer's."""

    def __init__(self, linear: nn.Linear, p: float):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias, self.p = linear.weight, linear.bias, p

    def forward(self, x):
        return super().forward(F.dropout(x, self.p, self.training))


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own_name = name.rpartition(".")
    setattr(network.get_submodule(parent), own_name, layer)


def set_dropout(network: nn.Module, p: float) -> None:
    """Drop inputs of the last layer with probability `p`."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout: expected a probability of at least 0 and below 1, found {brief(p)}")
    name, layer = last_layer(network)
    parent = network.get_submodule(name.rpartition(".")[0])
    beside = [module for module in parent.children() if isinstance(module, (nn.Dropout, DropoutLinear))]
    if beside:
        beside[-1].p = p
    elif isinstance(layer, nn.Linear):
        replace_layer(network, name, DropoutLinear(layer, p))
    else:
        raise ValueError(f"dropout: expected a linear last layer in {type(network).__name__}, found {layer}")
