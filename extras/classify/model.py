"""Image classifiers: EdgeViT's own, a detector's backbone with a Classify head, and torchvision's and timm's.

python -m extras.classify.model best.pt edgevit.pth    the tensors of a trained classifier alone, for other code
"""

import argparse
import copy
import io
from functools import partial
from pathlib import Path

import torch
from torch import nn

from extras.classify.networks import (
    IMAGENET,
    DropoutLinear,
    build_network,
    find_network,
    last_layer,
    load_library_weights,
    replace_layer,
    set_dropout,
    transfer,
)
from models import registry
from models.backbone import SLOTS, backbones, load_backbone_weights
from models.backbone.classifier import EdgeViTClassifier
from models.backbone.pretrained import load_matching_weights
from models.common import BATCH_NORM
from models.limits import check_size, limited_to, watched
from models.yolo import BaseModel, load_cfg, parse_model
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.console.text import aligned, brief
from utils.files import naming, write_atomic
from utils.general import find_file
from utils.logger import LOGGER, setup_logging
from utils.torch_utils import evaluating, initialize_weights, model_info

STRIDE_PX = 32
OFFICIAL_SIZES = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}  # channels of the first convolution -> YOLOv5's size
POOLINGS = ("SPP", "SPPF")  # A classifier does without these at the end of a detector's backbone.


class ClassificationModel(BaseModel):
    """Images [B, ch, H, W] of 0..1 -> logits [B, nc], in training and in eval mode alike.

    `model` is the network, `yaml` rebuilds it:
        model      edgevit_n, _t, _xxs, _xs or _s, torchvision/NAME, timm/NAME, or a model file's content that ends
                   with a Classify head
        nc, ch     classes and input channels
        dropout    before the last layer; None is the network's own
        normalize  what is taken off the images first: none, imagenet, or [mean, deviation] with a value per channel
    """

    task = "classify"

    def __init__(self, cfg="edgevit_xxs", ch=3, nc=None, dropout=None, normalize=None, load_backbones=True):
        """`cfg`: a value of `model` above, a model file, or such a `yaml`; the other arguments override its values."""
        super().__init__()
        self.yaml = {"model": cfg, "nc": 1000, "ch": ch, "dropout": None, "normalize": "none"}
        if isinstance(cfg, dict) and "model" in cfg:
            self.yaml |= copy.deepcopy(cfg)
        elif isinstance(cfg, dict) or str(cfg).endswith((".yaml", ".yml")):
            self.yaml["model"] = load_cfg(cfg)
            self.yaml |= {key: self.yaml["model"][key] for key in ("nc", "ch") if key in self.yaml["model"]}
        self.nc = self.yaml["nc"] = nc or self.yaml["nc"]
        self.has_rows = isinstance(self.yaml["model"], dict)
        if self.has_rows:
            self._build_rows(load_backbones)
        else:
            self.yaml["model"] = find_network(self.yaml["model"])
            build = partial(build_network, self.yaml["model"], self.nc, self.yaml["ch"])
            check_size(build)
            self.model = build()
        self.configure(
            self.yaml["dropout"] if dropout is None else dropout,
            self.yaml["normalize"] if normalize is None else normalize,
        )
        self.names = {i: str(i) for i in range(self.nc)}
        self.stride = torch.tensor([float(STRIDE_PX)])
        self.hyp = None
        self.imgsz = None  # px, of the training

    def configure(self, dropout=None, normalize=None) -> None:
        """Set these values of `yaml`; None keeps one."""
        if dropout is not None:
            set_dropout(self.model, dropout)
            self.yaml["dropout"] = dropout
        if normalize is not None:
            self.mean_std = _mean_and_deviation(normalize, self.yaml["ch"])
            self.yaml["normalize"] = normalize

    def _build_rows(self, load_backbones: bool) -> None:
        cfg = self.yaml["model"]
        cfg["nc"] = self.nc
        self.model, self.save = parse_model(cfg, self.yaml["ch"])
        if self.model[-1].type != "Classify":
            raise ValueError(f"the last row of a classifier must be Classify, found {self.model[-1].type}")
        try:
            with evaluating(self), torch.no_grad(), watched(self):
                super()._forward_once(torch.zeros(1, self.yaml["ch"], 2 * STRIDE_PX, 2 * STRIDE_PX))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(f"the maps of the classifier's rows do not fit: {error}") from error
        initialize_weights(self, **BATCH_NORM)
        for backbone in backbones(self) if load_backbones else []:
            if backbone.weights_file:
                load_backbone_weights(backbone, backbone.weights_file)

    @classmethod
    def from_checkpoint(cls, ckpt: Checkpoint, fuse: bool = False):
        """Return the model of a Checkpoint, ours or an official YOLOv5 -cls one: float32, in eval mode."""
        cfg = ckpt.yaml if "model" in ckpt.yaml else _official_yaml(ckpt)
        with limited_to(ckpt.state_dict):
            model = cls(cfg, nc=ckpt.nc, load_backbones=False)
        model.load_checkpoint_state(ckpt.state_dict)
        model.names, model.hyp, model.imgsz = dict(ckpt.names), ckpt.hyp, ckpt.imgsz
        model.eval()
        return model.fuse() if fuse else model

    def _forward_once(self, x, profile=False, visualize=False):
        if self.mean_std:
            mean, deviation = (x.new_tensor(values).view(-1, 1, 1) for values in self.mean_std)
            x = (x - mean) / deviation
        if self.has_rows:
            return super()._forward_once(x, profile, visualize)
        output = self.model(x)
        return output if isinstance(output, torch.Tensor) else output[0]  # Inception adds auxiliary logits in training

    def fuse(self):
        """Fold what can be folded exactly, in place; a patch embedding takes up the normalisation, as it pads nothing.

        For inference only; returns self.
        """
        super().fuse()
        if self.mean_std and isinstance(self.model, EdgeViTClassifier):
            mean, deviation = (torch.tensor(values) for values in self.mean_std)
            fold_input(self.model.patch_embed1.proj, 1 / deviation, -mean / deviation)
            self.mean_std = None
        return self

    def info(self, verbose=False, img_size=224) -> str:
        """Log and return layers, parameters, gradients and GFLOPs at `img_size` px."""
        return model_info(self if self.has_rows else self.model, verbose, img_size)

    def layer_table(self) -> str:
        """Return a line for each row as in a detector's table, or for each part of a network without rows."""
        if self.has_rows:
            return super().layer_table()
        rows = [("", "params", "part", "module")]
        for i, (name, part) in enumerate(self.model.named_children()):
            rows.append((i, sum(p.numel() for p in part.parameters()), name, type(part).__name__))
        return aligned(rows, left=(2, 3))

    def export_state_dict(self) -> dict:
        """Return the network's tensors, float32, under its own names: those of published EdgeViT, torchvision or timm.

        They are for images without ImageNet's mean and deviation, as those codes feed them: an EdgeViT that was trained
        otherwise is rewritten exactly. Other networks stay as they are.
        """
        network = copy.deepcopy(self.model).float()
        own, usual = (torch.tensor(pair) for pair in (self.mean_std or ([0.0] * 3, [1.0] * 3), IMAGENET))
        if isinstance(network, EdgeViTClassifier) and self.yaml["ch"] == 3:
            scale = usual[1] / own[1]  # (usual input * usual deviation + usual mean - own mean) / own deviation
            fold_input(network.patch_embed1.proj, scale, (usual[0] - own[0]) / own[1])
        return network.state_dict()


def _mean_and_deviation(normalize, ch: int):
    """Return (mean, deviation), each [ch], for a value of `normalize`, or None. ValueError for another value."""
    if normalize == "none":
        return None
    pair = IMAGENET if normalize == "imagenet" else normalize
    if not isinstance(pair, (list, tuple)) or [len(values) for values in pair] != [ch, ch]:
        expected = f"none, imagenet, or mean and deviation of {ch} channels"
        raise ValueError(f"normalize: expected {expected}, found {brief(normalize)}")
    return tuple(pair)


@torch.no_grad()
def fold_input(conv: nn.Conv2d, scale, shift) -> None:
    """Make conv(x) what conv(x * scale + shift) was, in place. scale, shift [input channels]; exact without padding."""
    conv.bias += (conv.weight * shift.to(conv.weight).view(1, -1, 1, 1)).sum((1, 2, 3))
    conv.weight *= scale.to(conv.weight).view(1, -1, 1, 1)


def _official_yaml(ckpt: Checkpoint) -> dict:
    """Return the yaml for an official YOLOv5 -cls checkpoint, which has none: its first convolution tells the size."""
    stem = ckpt.state_dict.get("model.0.conv.weight")
    size = OFFICIAL_SIZES.get(len(stem)) if stem is not None else None
    if size is None:
        found = ", ".join(list(ckpt.state_dict)[:3])
        raise ValueError(f"expected a classifier of this project or a YOLOv5 v6 one, found a model with {found} ...")
    return {"model": cut_detector(load_cfg(f"yolov5{size}.yaml")), "normalize": "imagenet"}


def reshape_classifier_output(model: nn.Module, n: int = 1000) -> nn.Module:
    """Give a classifier `n` outputs: its last layer is made anew, every other tensor stays. Returns the model."""
    network = model.model if isinstance(model, ClassificationModel) else model
    name, layer = last_layer(network)
    has_bias, outputs = layer.bias is not None, layer.weight.shape[0]
    if outputs == n:
        return model
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, n, has_bias)
        new = DropoutLinear(new, layer.p) if isinstance(layer, DropoutLinear) else new
    else:
        new = nn.Conv2d(layer.in_channels, n, layer.kernel_size, layer.stride, bias=has_bias)
    replace_layer(network, name, new.to(layer.weight))
    if isinstance(model, ClassificationModel):
        model.nc = model.yaml["nc"] = n
        model.names = {i: str(i) for i in range(n)}
        if model.has_rows:
            model.yaml["model"]["nc"] = n
    return model


def cut_detector(cfg: dict, cutoff=None) -> dict:
    """Return a detector's model file content with a Classify head in the place of what follows its backbone.

    cutoff: indices that stay, that of the head included, as in YOLOv5 (10 for its v6 files). None: the head stands
    behind the backbone, in the place of a last SPP or SPPF. A content that has a Classify head already is returned.
    """
    cfg = load_cfg(cfg)
    rows = [*cfg["backbone"], *cfg["head"]]
    for i, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) != 4:
            raise ValueError(f"row {i} {row}: expected [from, number, module, args]")
    if rows[-1][2] == "Classify":
        return cfg
    starts, index = [], 0
    for row in rows:
        starts.append(index)
        index += SLOTS if registry.find_layer(row[2]).rule is registry.backbone else 1
    if cutoff is None:
        end = len(cfg["backbone"])
        end -= bool(end and rows[end - 1][2] in POOLINGS)
    elif cutoff - 1 in starts[1:]:
        end = starts.index(cutoff - 1)
    else:
        raise ValueError(f"cutoff: expected one of {[start + 1 for start in starts[1:]]}, found {cutoff}")
    kept = {key: value for key, value in cfg.items() if key != "anchors"}
    return copy.deepcopy({**kept, "backbone": rows[:end], "head": [[-1, 1, "Classify", ["nc"]]]})


def load_classifier(source, nc=None, *, pretrained=False, cutoff=None, dropout=None, normalize=None):
    """Return the ClassificationModel that `--model` names, to train for `nc` classes (None: its own number).

    Args:
        source: a name (edgevit_xxs, resnet18, timm/convnext_atto ...), a model file, or a checkpoint: a classifier, or
            a detector (ours or an official one), whose backbone is taken.
        pretrained: for a name: a file with its weights, or True to download those of torchvision or timm.
        cutoff: see cut_detector().
        dropout, normalize: see ClassificationModel. normalize None is what the weights were trained with.

    ValueError or FileNotFoundError if there is no such thing, or its tensors do not fit.
    """
    options = {"nc": nc, "dropout": dropout, "normalize": normalize}
    suffix = Path(str(source)).suffix
    if suffix in (".yaml", ".yml"):
        return ClassificationModel(cut_detector(load_cfg(source), cutoff), **options)
    if suffix == ".pt":
        ckpt = load_checkpoint(source)
        with naming(source):
            if ckpt.task != ClassificationModel.task:
                return _from_detector(ckpt, source, cutoff, options)
            model = ClassificationModel.from_checkpoint(ckpt)
        model.configure(dropout, normalize)
        return reshape_classifier_output(model, nc or model.nc)
    model = ClassificationModel(source, **options)
    if pretrained is True:
        used = load_library_weights(model.model, model.yaml["model"])
    elif pretrained:
        load_matching_weights(model.model, pretrained, "classifier")
        used = _normalize_of(find_file(pretrained))
    else:
        return model
    model.configure(normalize=normalize or used)
    return model


def _normalize_of(path):
    """Return the `normalize` of a weights file: that of a checkpoint with its model, imagenet for tensors alone."""
    try:
        return load_checkpoint(path).yaml.get("normalize", "none")
    except ValueError:
        return "imagenet"


def _from_detector(ckpt: Checkpoint, source, cutoff, options: dict) -> ClassificationModel:
    model = ClassificationModel(cut_detector(ckpt.yaml, cutoff), load_backbones=False, **options)
    fitting = transfer(model, ckpt.state_dict, source)
    head = f"model.{model.model[-1].i}."
    missing = [name for name in model.state_dict() if name not in fitting and not name.startswith(head)]
    if missing:
        raise ValueError(f"{source}: {len(missing)} tensors of its backbone are missing: {', '.join(missing[:3])} ...")
    return model


def export_weights(source, target) -> None:
    """Write the tensors of the classifier `source` alone, as export_state_dict() gives them.

    `target`: a .pt or .pth file, which holds them under "model" as EdgeViT's authors store them, or .safetensors.
    """
    ckpt = load_checkpoint(source)
    if ckpt.task != ClassificationModel.task:
        raise ValueError(f"{source}: expected a classification model, found one for the task '{ckpt.task}'")
    with naming(source):
        tensors = ClassificationModel.from_checkpoint(ckpt).export_state_dict()
    suffix = Path(target).suffix
    if suffix == ".safetensors":
        from safetensors.torch import save

        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    elif suffix in (".pt", ".pth"):
        buffer = io.BytesIO()
        torch.save({"model": tensors}, buffer)
        data = buffer.getvalue()
    else:
        raise ValueError(f"{target}: expected a file name ending in .pt, .pth or .safetensors")
    write_atomic(target, data)
    LOGGER.info(f"{len(tensors)} tensors of {source} saved as {target}")


def parse_opt(argv=None) -> argparse.Namespace:
    about = "Write the tensors of a trained classifier alone, for other code."
    parser = argparse.ArgumentParser(prog="python -m models.classify", description=about)
    parser.add_argument("source", help="checkpoint to read")
    parser.add_argument("target", help=".pth or .safetensors file to write")
    return parser.parse_args(argv)


def main(opt: argparse.Namespace) -> None:
    setup_logging()
    export_weights(opt.source, opt.target)
