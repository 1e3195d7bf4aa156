"""Detection and segmentation models from YAML files.

Usage: python models/yolo.py --cfg yolov5s.yaml [--img 640] [--device cpu] [--profile] [--line-profile] [--latency]
"""

import runpy
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import nn

if __name__ == "__main__":  # Only a script lacks the project's root on its path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import registry
from models.backbone import SLOTS, backbones, is_backbone, load_backbone_weights, slots
from models.backends.thresholds import KEY as THRESHOLDS
from models.backends.thresholds import Thresholds
from models.common import BATCH_NORM
from models.config import ModelSettings, checked_row, load_cfg
from models.heads import Detect, Segment
from models.limits import Meter, limited_to, watched
from models.onednn import use_pointwise
from utils.console.text import aligned, brief
from utils.extras import lazy, load_extra
from utils.files.values import same_kind
from utils.files.yaml import load_yaml
from utils.general import check_yaml
from utils.logger import LOGGER
from utils.timing import Profile
from utils.torch_utils import evaluating, initialize_weights, model_info, scale_img

PROBE_PX = 256  # side of the image that finds the strides; a multiple of the largest stride, 128
TTA_VIEWS = ((1.0, None), (0.83, 3), (0.67, None))  # scale and flipped axis of each view


def parse_model(cfg: dict, ch: int) -> tuple[nn.Sequential, list[int]]:
    """Build the rows of a model dict for images of `ch` channels.

    Returns an nn.Sequential whose names are the rows' indices, and the sorted indices of the maps that later rows read.
    Each row module has i (index), f (its input: -1 is the row before, other numbers are indices), type (its name), np
    (parameters), repeats and args. A backbone takes SLOTS indices. ValueError, naming the row, if it cannot be built.
    """
    settings = ModelSettings.of(cfg)
    channels = {-1: ch}  # index -> channels of the map there, None without a map; -1 is the image
    rows, save, index, meter = OrderedDict(), set(), 0, Meter()
    for row in [*cfg["backbone"], *cfg["head"]]:
        build = partial(_build_row, row, index, channels, settings)
        try:
            meter.try_row(build)
            layer, made = build()
        except ValueError as error:
            raise ValueError(f"row {index} {brief(row)}: {error}") from error
        rows[str(index)] = layer
        save.update(source for source in _listed(layer.f) if source != -1)
        channels |= made
        index += len(made)
    return nn.Sequential(rows), sorted(save)


def _build_row(row, index: int, channels: dict, settings: ModelSettings) -> tuple[nn.Module, dict]:
    """Return the module of one row, and the channels of the map at each index that the row takes."""
    source, number, name, args = checked_row(row)
    entry = registry.find_layer(name)
    source = _absolute(_listed(source) if entry.rule in registry.MANY_INPUTS else source, index, channels)
    c_in = [channels[index - 1 if i == -1 else i] for i in _listed(source)]
    args = [registry.resolve(arg, settings) for arg in args]
    keywords = args.pop() if args and isinstance(args[-1], dict) else {}
    args, c_out, repeats = entry.rule(args, c_in, settings.depth(number), settings)
    if repeats > 1 and c_out != c_in[0]:
        raise ValueError(f"{repeats} in sequence need equal input and output channels, found {c_in[0]} and {c_out}")
    layers = [registry.build(entry.cls, args, keywords, settings) for _ in range(repeats)]
    layer = nn.Sequential(*layers) if repeats > 1 else layers[0]
    layer.i, layer.f, layer.type = index, source, name
    layer.np = sum(p.numel() for p in layer.parameters())
    layer.repeats, layer.args = settings.depth(number), [*args, keywords] if keywords else args
    if not is_backbone(layer):
        return layer, {index: c_out}
    layer.slots = [index + slot for slot in slots(layer)]  # the index of each of its maps
    empty = dict.fromkeys(range(index, index + SLOTS))
    return layer, empty | dict(zip(layer.slots, layer.out_channels))


def _absolute(source, index: int, channels: dict):
    """Return `from` as -1 or an index, or a list of them. ValueError where there is no map."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("'from' is an empty list")
        return [_absolute(item, index, channels) for item in source]
    if not isinstance(source, int) or isinstance(source, bool):
        raise ValueError(f"'from' must be an index or a list of indices, found {brief(source)}")
    target = index + source if source < 0 else source
    if target >= index or target < -1 or (target == -1 and source != -1):
        raise ValueError(f"'from' {source} is no earlier row, expected 0 to {index - 1} or a negative distance")
    if channels[target] is None:
        filled = [i for i, c in channels.items() if i >= 0 and c is not None]
        raise ValueError(f"'from' {source} is index {target}, which has no map; there are maps at {filled}")
    return -1 if source == -1 else target


def _listed(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


class BaseModel(nn.Module):
    """A sequence of rows with connections back to earlier rows."""

    export = False  # leave out what would become a needless part of an exported graph

    def forward(self, x, profile=False, visualize=False):
        return self._forward_once(x, profile, visualize)

    def _forward_once(self, x, profile=False, visualize=False):
        """Pass images over the rows. `profile` logs the time of each row, `visualize` (a folder) draws the maps."""
        if x.device.type == "cpu" and not self.export:
            x = x.contiguous(memory_format=torch.channels_last)  # every row keeps it; CPUs convolve a fifth faster
        maps = {}  # index -> map, of those that later rows read
        for row in self.model:
            inputs = [x if i == -1 else maps[i] for i in _listed(row.f)]
            inputs = inputs if isinstance(row.f, list) else inputs[0]
            x = self._time_row(row, inputs) if profile else row(inputs)
            made = dict(zip(row.slots, x)) if is_backbone(row) else {row.i: x}  # a backbone fills several slots
            if visualize:
                self._visualize_row(row, made, visualize)
            maps |= {i: made[i] for i in made if i in self.save}
            x = made[max(made)]  # the next row's input, of a backbone its coarsest map
        return x

    @staticmethod
    def _visualize_row(row, made: dict, save_dir) -> None:
        from utils.plots.pictures import feature_visualization

        for i, feature_map in made.items():
            if isinstance(feature_map, torch.Tensor):
                feature_visualization(feature_map, row.type, i, save_dir=Path(save_dir))

    def _time_row(self, row, inputs, runs: int = 10):
        if row is self.model[0]:
            LOGGER.info(f"{'row':>4}{'time (ms)':>12}{'parameters':>12}  module")
            self.row_ms = {}
        output = row(inputs)
        with Profile(device=next(self.parameters()).device) as profile:
            for _ in range(runs):
                row(inputs)
        self.row_ms[row.i] = profile.t / runs * 1e3
        LOGGER.info(f"{row.i:>4}{self.row_ms[row.i]:>12.2f}{row.np:>12}  {row.type}")
        if row is self.model[-1]:
            LOGGER.info(f"{'all':>4}{sum(self.row_ms.values()):>12.2f}{sum(r.np for r in self.model):>12}")
        return output

    def fuse(self):
        """Fold batch-norms and all else that can be folded exactly, in place, and return self. For inference only."""
        for module in list(self.modules()):
            if module is not self and hasattr(module, "fuse"):
                module.fuse()
        use_pointwise(self)
        return self

    def load_checkpoint_state(self, state_dict: dict) -> None:
        """Load every tensor but old YOLOv5 files' anchor_grid. ValueError if they are not this model's."""
        own = self.state_dict()
        tensors = {name: tensor for name, tensor in state_dict.items() if not name.endswith(".anchor_grid")}
        wrong = [f"{name} is missing" for name in own if name not in tensors]
        wrong += [f"{name} is not known" for name in tensors if name not in own]
        pairs = [(name, tensor, own[name]) for name, tensor in tensors.items() if name in own]
        wrong += [f"{n} has shape {list(a.shape)}, expected {list(b.shape)}" for n, a, b in pairs if a.shape != b.shape]
        wrong += [f"{n} holds {a.dtype}, expected {b.dtype}" for n, a, b in pairs if not same_kind(a, b)]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"the checkpoint's tensors do not fit its model description: {'; '.join(wrong[:5])}{more}")
        self.load_state_dict(tensors)

    def layer_table(self) -> str:
        """Return a line for each row: index, from, number of modules, parameters, module, arguments."""
        rows = [(row.i, row.f, row.repeats, row.np, row.type, row.args) for row in self.model]
        return aligned([("", "from", "n", "params", "module", "arguments"), *rows], left=(4, 5))

    def info(self, verbose=False, img_size=640) -> str:
        """Log and return layers, parameters, gradients and GFLOPs at `img_size` px."""
        return model_info(self, verbose, img_size)


class DetectionModel(BaseModel):
    """A model file with a Detect head at its end.

    Training: a list of raw maps [B, na, ny, nx, no]. Eval: ([B, N, no] boxes as xywh in px with scores, maps).
    """

    task = "detect"
    head_class = Detect

    def __init__(self, cfg="yolov5s.yaml", ch=3, nc=None, anchors=None, load_backbones=True):
        """`cfg`: path, bare name or dict; `nc` and `anchors` override its values; its own `ch` overrides `ch`."""
        super().__init__()
        source = "model dict" if isinstance(cfg, dict) else str(cfg)
        self.yaml = load_cfg(cfg)
        ch = self.yaml["ch"] = self.yaml.get("ch", ch)
        for key, value in (("nc", nc), ("anchors", anchors)):
            if value and value != self.yaml.get(key):
                LOGGER.info(f"{source}: {key} {self.yaml.get(key)} is overridden by {value}")
                self.yaml[key] = round(value) if isinstance(value, float) else value
        try:
            self.model, self.save = parse_model(self.yaml, ch)
            self._set_strides(ch)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        self.nc = self.yaml["nc"]
        self.names = {i: str(i) for i in range(self.nc)}
        self.inplace = self.head.inplace = self.yaml.get("inplace", True)
        self.hyp = None
        self.imgsz = None  # px, of the training
        self.thresholds: Thresholds | None = None
        initialize_weights(self, **BATCH_NORM)
        self.head.initialize_biases()
        for backbone in backbones(self) if load_backbones else []:
            if backbone.weights_file:
                load_backbone_weights(backbone, backbone.weights_file)

    def autoshape(self) -> nn.Module:
        """Return the model with a shell for pictures of any kind and size, as scripts for YOLOv5 v5 get it."""
        return load_extra("hub.autoshape").AutoShape(self)

    @classmethod
    def from_checkpoint(cls, ckpt, fuse: bool = False) -> "DetectionModel":
        """Return the model of a utils.checkpoint.Checkpoint: float32, in eval mode."""
        with limited_to(ckpt.state_dict):
            model = cls(ckpt.yaml, nc=ckpt.nc, load_backbones=False)
        model.load_checkpoint_state(ckpt.state_dict)
        model.names = dict(ckpt.names)
        model.hyp = ckpt.hyp
        model.imgsz = ckpt.imgsz
        if own := ckpt.meta.get(THRESHOLDS):
            model.thresholds = Thresholds.from_dict(own, ckpt.nc, "the checkpoint")
        return model.eval().fuse() if fuse else model.eval()

    @property
    def head(self) -> Detect:
        return self.model[-1]

    def _set_strides(self, ch: int) -> None:
        """Measure the stride of each map, in eval mode, so that no batch-norm statistic moves."""
        if type(self.head) is not self.head_class:
            expected = self.head_class.__name__
            raise ValueError(f"the last row of a model for '{self.task}' must be {expected}, found {self.head.type}")
        entered = []
        hooks = [row.register_forward_pre_hook(lambda row, _: entered.append(row)) for row in self.model]
        try:
            with evaluating(self), torch.no_grad(), watched(self):
                *_, maps = self._forward_once(torch.zeros(1, ch, PROBE_PX, PROBE_PX))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            row = entered[-1]
            raise ValueError(f"row {row.i} {row.type}, from {row.f}: the maps do not fit: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        self.stride = torch.tensor([PROBE_PX / raw.shape[2] for raw in maps])
        self.head.set_stride(self.stride)

    def forward(self, x, augment=False, profile=False, visualize=False):
        return self._forward_augment(x) if augment else self._forward_once(x, profile, visualize)

    def _forward_augment(self, x):
        """Return the boxes of all TTA_VIEWS, in the image's coordinates (test-time augmentation)."""
        height, width = x.shape[2:]
        views = []
        for scale, flip in TTA_VIEWS:
            view = scale_img(x.flip(flip) if flip else x, scale, gs=int(self.stride.max()))
            boxes = self._forward_once(view)[0]
            shrink_xy = boxes.new_tensor([int(width * scale) / width, int(height * scale) / height])
            boxes[..., :4] /= shrink_xy.repeat(2)
            if flip:
                boxes[..., 0] = width - boxes[..., 0]
            views.append(boxes)
        return torch.cat(views, 1), None


Model = DetectionModel  # YOLOv5's older name
__getattr__ = lazy({"ClassificationModel": "extras.classify.model"}, __name__)  # YOLOv5 has it here


class SegmentationModel(DetectionModel):
    """A model file with a Segment head at its end.

    Training: (maps, prototypes). Eval: (predictions, prototypes, maps); their shapes are the Segment head's.
    """

    task = "segment"
    head_class = Segment

    def _forward_augment(self, x):
        raise ValueError("expected augment=False for a segmentation model: several views have no common prototypes")


def model_class(cfg) -> type:
    """Return SegmentationModel for a model file (path, name or dict) that ends with Segment, else DetectionModel."""
    content = cfg if isinstance(cfg, dict) else load_yaml(check_yaml(cfg))
    rows = content.get("head")
    last = rows[-1] if isinstance(rows, list) and rows else None
    return SegmentationModel if isinstance(last, list) and "Segment" in last else DetectionModel


if __name__ == "__main__":
    runpy.run_module("models.describe", run_name="__main__")
