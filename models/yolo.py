"""Detection and segmentation models from YAML files.

Usage: python models/yolo.py --cfg yolov5s.yaml [--batch-size 1] [--device cpu] [--profile] [--line-profile] [--test]
"""

import argparse
import copy
import sys
from collections import OrderedDict
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

if __name__ == "__main__":  # run as a script: only then is the project's root not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import registry
from models.backbone import SLOTS, backbones, is_backbone, load_backbone_weights, slots
from models.common import BATCH_NORM
from models.heads import Detect, Segment
from models.onednn import use_pointwise
from utils.general import ROOT, check_yaml, main_guard
from utils.logger import LOGGER, setup_logging
from utils.torch_utils import (
    evaluating,
    initialize_weights,
    model_info,
    profile,
    scale_img,
    select_device,
    time_sync,
)
from utils.yaml_files import load_yaml

MODEL_KEYS = (
    "nc ch names anchors depth_multiple width_multiple channel_multiple activation inplace backbone head".split()
)
PROBE_PX = 256  # side of the image that finds the strides; a multiple of the largest stride, 128
TTA_VIEWS = ((1.0, None), (0.83, 3), (0.67, None))  # scale and flipped axis of each view


def load_cfg(cfg) -> dict:
    """A model file's content, as an independent dict. `cfg`: path, bare name, or the dict itself."""
    source = "model dict" if isinstance(cfg, dict) else str(cfg)
    content = copy.deepcopy(cfg) if isinstance(cfg, dict) else load_yaml(check_yaml(cfg))
    for key in content:
        if key not in MODEL_KEYS:
            nearest = get_close_matches(str(key), MODEL_KEYS, n=1)
            LOGGER.warning(
                f"{source}: unknown key '{key}' is not used" + (f", did you mean {nearest[0]}?" if nearest else "")
            )
    for key in ("nc", "backbone", "head"):
        if key not in content:
            raise ValueError(f"{source}: key '{key}' is missing; found {', '.join(map(str, content))}")
    for key in ("backbone", "head"):
        if not isinstance(content[key], list):
            raise ValueError(f"{source}: '{key}' must be a list of rows, found {content[key]!r}")
    if not content["backbone"] + content["head"]:
        raise ValueError(f"{source}: expected at least one row in 'backbone' and 'head', found none")
    return content


def parse_model(cfg: dict, ch: int):
    """Build the rows of a model dict for images of `ch` channels.

    Returns an nn.Sequential whose names are the rows' indices, and the sorted indices of the maps that later rows read.
    Each row module has i (index), f (its input: -1 is the row before, other numbers are indices), type (its name), np
    (parameters), repeats and args. A backbone takes SLOTS indices. ValueError, naming the row, if it cannot be built.
    """
    settings = registry.Settings.of(cfg)
    channels = {-1: ch}  # index -> channels of the map there; -1 is the image
    rows, save, index = OrderedDict(), set(), 0
    for row in [*cfg["backbone"], *cfg["head"]]:
        try:
            layer = _build_row(row, index, channels, settings)
        except ValueError as error:
            raise ValueError(f"row {index} {row}: {error}") from error
        rows[str(index)] = layer
        save.update(source for source in _listed(layer.f) if source != -1)
        index += SLOTS if is_backbone(layer) else 1
    return nn.Sequential(rows), sorted(save)


def _build_row(row, index: int, channels: dict, settings: registry.Settings) -> nn.Module:
    """The module of one row; its output channels are added to `channels`."""
    if not isinstance(row, (list, tuple)) or len(row) != 4:
        raise ValueError("expected [from, number, module, args]")
    source, number, name, args = row
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"expected a positive number of repeats, found {number!r}")
    if not isinstance(args, (list, tuple)):
        raise ValueError(f"expected a list of arguments, found {args!r}")
    entry = registry.find_layer(name)
    source = _absolute(_listed(source) if entry.rule in registry.MANY_INPUTS else source, index, channels)
    inputs = [channels[index - 1 if i == -1 else i] for i in _listed(source)]
    args = [registry.resolve(arg, settings) for arg in args]
    keywords = args.pop() if args and isinstance(args[-1], dict) else {}
    args, c_out, repeats = entry.rule(args, inputs, settings.depth(number), settings)
    layer = registry.build(entry.cls, args, keywords, settings)
    if repeats > 1:
        if c_out != inputs[0]:
            raise ValueError(
                f"{repeats} in sequence need equal input and output channels, found {inputs[0]} and {c_out}"
            )
        layer = nn.Sequential(layer, *(registry.build(entry.cls, args, keywords, settings) for _ in range(repeats - 1)))
    layer.i, layer.f, layer.type = index, source, name
    layer.np = sum(p.numel() for p in layer.parameters())
    layer.repeats, layer.args = settings.depth(number), [*args, keywords] if keywords else args
    if is_backbone(layer):
        layer.slots = [index + slot for slot in slots(layer)]
        channels.update({index + slot: None for slot in range(SLOTS)})
        channels.update(zip(layer.slots, layer.out_channels))
    else:
        channels[index] = c_out
    return layer


def _absolute(source, index: int, channels: dict):
    """`from` as -1 or an index, or a list of them, each of which has a map. ValueError if not."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("'from' is an empty list")
        return [_absolute(item, index, channels) for item in source]
    if not isinstance(source, int) or isinstance(source, bool):
        raise ValueError(f"'from' must be an index or a list of indices, found {source!r}")
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
        """One pass over the rows. `profile` logs the time of each, `visualize` (a folder) draws their maps."""
        if x.device.type == "cpu" and not self.export:
            x = x.contiguous(memory_format=torch.channels_last)  # every row keeps it; CPUs convolve a fifth faster
        maps = {}
        for row in self.model:
            inputs = x if row.f == -1 else self._gather(row.f, x, maps)
            x = self._time_row(row, inputs) if profile else row(inputs)
            made = dict(zip(row.slots, x)) if is_backbone(row) else {row.i: x}
            if visualize:
                self._visualize_row(row, made, visualize)
            maps.update((i, made[i]) for i in made if i in self.save)
            if is_backbone(row):
                x = x[-1]
        return x

    @staticmethod
    def _gather(source, x, maps: dict):
        if isinstance(source, int):
            return maps[source]
        return [x if i == -1 else maps[i] for i in source]

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
        start = time_sync()
        for _ in range(runs):
            row(inputs)
        self.row_ms[row.i] = (time_sync() - start) / runs * 1e3
        LOGGER.info(f"{row.i:>4}{self.row_ms[row.i]:>12.2f}{row.np:>12}  {row.type}")
        if row is self.model[-1]:
            LOGGER.info(f"{'all':>4}{sum(self.row_ms.values()):>12.2f}{sum(r.np for r in self.model):>12}")
        return output

    def fuse(self):
        """Fold batch-norms and what else can be folded exactly, in place. For inference only; returns self."""
        for module in list(self.modules()):
            if module is not self and hasattr(module, "fuse"):
                module.fuse()
        use_pointwise(self)
        return self

    def load_checkpoint_state(self, state_dict: dict) -> None:
        """Load every tensor; ValueError if they are not this model's. Old YOLOv5 files' anchor_grid is passed over."""
        own = {name: tensor.shape for name, tensor in self.state_dict().items()}
        tensors = {name: tensor for name, tensor in state_dict.items() if not name.endswith(".anchor_grid")}
        wrong = [f"{name} is missing" for name in own if name not in tensors]
        wrong += [f"{name} is not known" for name in tensors if name not in own]
        wrong += [
            f"{name} has shape {list(tensor.shape)}, expected {list(own[name])}"
            for name, tensor in tensors.items()
            if name in own and tensor.shape != own[name]
        ]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"the checkpoint's tensors do not fit its model description: {'; '.join(wrong[:5])}{more}")
        self.load_state_dict(tensors)

    def layer_table(self) -> str:
        """A line for each row: index, from, number of modules, parameters, module, arguments."""
        lines = [f"{'':>4}{'from':>18}{'n':>4}{'params':>12}  {'module':<28}arguments"]
        for row in self.model:
            lines.append(f"{row.i:>4}{row.f!s:>18}{row.repeats:>4}{row.np:>12}  {row.type:<28}{row.args}")
        return "\n".join(lines)

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
        initialize_weights(self, **BATCH_NORM)
        self.head.initialize_biases()
        if load_backbones:
            for backbone in backbones(self):
                if backbone.weights_file:
                    load_backbone_weights(backbone, backbone.weights_file)

    @classmethod
    def from_checkpoint(cls, ckpt, fuse=False):
        """The model of a utils.checkpoint.Checkpoint: float32, in eval mode."""
        model = cls(ckpt.yaml, nc=ckpt.nc, load_backbones=False)
        model.load_checkpoint_state(ckpt.state_dict)
        model.names = dict(ckpt.names)
        model.hyp = ckpt.hyp
        model.imgsz = ckpt.imgsz
        model.eval()
        return model.fuse() if fuse else model

    @property
    def head(self) -> Detect:
        return self.model[-1]

    def _set_strides(self, ch: int) -> None:
        """Measure each level's stride, in eval mode, so that no batch-norm statistic moves."""
        if type(self.head) is not self.head_class:
            expected = self.head_class.__name__
            raise ValueError(f"the last row of a model for '{self.task}' must be {expected}, found {self.head.type}")
        entered = []
        hooks = [row.register_forward_pre_hook(lambda row, _: entered.append(row)) for row in self.model]
        try:
            with evaluating(self), torch.no_grad():
                *_, maps = self._forward_once(torch.zeros(1, ch, PROBE_PX, PROBE_PX))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            row = entered[-1]
            raise ValueError(f"row {row.i} {row.type}, from {row.f}: the maps do not fit: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        stride = torch.tensor([PROBE_PX / raw.shape[2] for raw in maps])
        self.head.set_stride(stride)
        self.stride = stride

    def forward(self, x, augment=False, profile=False, visualize=False):
        return self._forward_augment(x) if augment else self._forward_once(x, profile, visualize)

    def _forward_augment(self, x):
        """Test-time augmentation: the boxes of TTA_VIEWS in the coordinates of the image, one view after the other."""
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


class SegmentationModel(DetectionModel):
    """A model file with a Segment head at its end.

    Training: (maps, prototypes). Eval: (predictions, prototypes, maps); their shapes are the Segment head's.
    """

    task = "segment"
    head_class = Segment

    def _forward_augment(self, x):
        raise ValueError(
            "expected augment=False for a segmentation model: the boxes of several views have no common prototypes"
        )


def model_class(cfg) -> type:
    """SegmentationModel for a model file (path, bare name, or dict) that ends with Segment, else DetectionModel."""
    content = cfg if isinstance(cfg, dict) else load_yaml(check_yaml(cfg))
    rows = content.get("head")
    last = rows[-1] if isinstance(rows, list) and rows else None
    return SegmentationModel if isinstance(last, list) and "Segment" in last else DetectionModel


def build_all() -> int:
    """Build every model file below models/; returns how many failed, after naming them.

    A file that needs an extra that is not installed is skipped.
    """
    files = sorted((ROOT / "models").rglob("*.yaml"))
    results = {"built": 0, "failed": 0, "skipped": 0}
    for file in files:
        name = file.relative_to(ROOT)
        try:
            model = model_class(file)(file)
            results["built"] += 1
            parameters = sum(p.numel() for p in model.parameters())
            LOGGER.info(f"{name}: {parameters} parameters, strides {model.stride.int().tolist()}")
        except ImportError as error:
            results["skipped"] += 1
            LOGGER.warning(f"{name}: skipped: {error}")
        except (ValueError, OSError) as error:
            results["failed"] += 1
            LOGGER.error(f"{name}: failed: {error}")
    LOGGER.info(", ".join(f"{count} {result}" for result, count in results.items()))
    return results["failed"]


def parse_opt(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="models/yolo.py", description="Build, print and run a model file.")
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model file: a path, or a name below models/")
    parser.add_argument("--batch-size", type=int, default=1, help="images in the batch that is run")
    parser.add_argument("--device", default="", help="cpu, mps or a GPU index such as 0; '' chooses")
    parser.add_argument("--profile", action="store_true", help="time the whole model and each row")
    parser.add_argument("--line-profile", action="store_true", help="time each row")
    parser.add_argument("--test", action="store_true", help="build every model file below models/")
    return parser.parse_args(argv)


def main(opt: argparse.Namespace) -> int:
    setup_logging()
    if opt.test:
        return min(build_all(), 1)
    device = select_device(opt.device)
    model = model_class(opt.cfg)(opt.cfg).to(device)
    images = torch.rand(opt.batch_size, model.yaml["ch"], 640, 640, device=device)
    LOGGER.info(model.layer_table())
    model.info()
    LOGGER.info(f"strides {model.stride.int().tolist()}")
    if opt.profile:
        profile(images, model, n=3, device=device)
    if opt.profile or opt.line_profile:
        with evaluating(model), torch.inference_mode():
            model(images, profile=True)
    output = model(images)
    tensors = [*output[0], output[1]] if isinstance(output, tuple) else output
    sum(tensor.float().mean() for tensor in tensors).backward()
    LOGGER.info(f"forward and backward: {list(images.shape)} -> {[list(tensor.shape) for tensor in tensors]}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main, parse_opt()))
