"""PyTorch: our checkpoints and official YOLOv5 ones (.pt), one or an ensemble of several."""

from functools import partial

import numpy as np
import torch

from models.backends.base import MOST_AT_ONCE, Backend, one_or_tuple
from models.backends.metadata import OUTPUT_DIMS
from models.heads import Detect
from models.load import attempt_load
from utils.data.ahead import map_ahead, prefetch
from utils.logger import LOGGER
from utils.torch_utils import keep_freed_memory, multiplies_bfloat16, select_device


class PyTorchBackend(Backend):
    """The model itself, in `.model`: a DetectionModel, or an Ensemble."""

    def __init__(self, weights, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        self.device = device if isinstance(device, torch.device) else select_device(device)
        if threads:
            torch.set_num_threads(threads)
        on_cpu = self.device.type == "cpu"
        self.fp16, self.bf16 = bool(fp16) and not on_cpu, bool(fp16) and on_cpu and multiplies_bfloat16()
        if fp16 and not (self.fp16 or self.bf16):
            LOGGER.warning("--half: this CPU does not multiply bfloat16 (AMX, AVX512-BF16), float32 is used")
        self.dtype = torch.float16 if self.fp16 else torch.bfloat16 if self.bf16 else torch.float32
        if dnn:
            LOGGER.warning("--dnn is for ONNX files, PyTorch is used")
        model = attempt_load(weights, device=self.device, fuse=fuse)
        model = convert(model.float(), self.dtype)
        self.model = model.to(memory_format=torch.channels_last)  # convolutions take a sixth less time on CPUs
        self.names, self.task = as_mapping(model.names), getattr(model, "task", "detect")  # an Ensemble detects
        # The backbone may go deeper than the coarsest head, and EdgeViT's attention needs multiples of 32
        self.stride = max(int(max(model.stride)), 32)
        self.imgsz = getattr(model, "imgsz", None)
        self.thresholds, self.yaml = getattr(model, "thresholds", None), getattr(model, "yaml", {})

    def prepare(self, images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        return (x.half() if self.fp16 else x.float()).div_(255)

    def forward(self, images: torch.Tensor, augment: bool = False, visualize=False):
        images = images.to(self.device, self.dtype)
        if self.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return self._forward_side_by_side(images, augment, visualize)
        return one_or_tuple(self._outputs(images, augment, visualize))

    def _outputs(self, images: torch.Tensor, augment: bool, visualize) -> list:
        """Return what forward() gives, as a list."""
        asked = {"augment": augment} if augment else {}  # not every model can
        output = self.model(images, visualize=visualize, **asked)
        outputs = output if isinstance(output, (list, tuple)) else [output]
        results = outputs[: len(OUTPUT_DIMS[self.task])]  # raw maps come behind
        return [result.float() for result in results] if self.bf16 else results

    def _forward_side_by_side(self, images: torch.Tensor, augment: bool, visualize):
        """Run forward() without gradients on a CPU, each of many images by itself: its maps stay in the cache."""
        run = torch.inference_mode()(partial(self._outputs, augment=augment, visualize=visualize))
        one_by_one = len(images) > 1 and len(images) >= pictures_at_once()
        outputs = list(self.parallel_map(run, images.split(1))) if one_by_one else [run(images)]
        with torch.inference_mode(False):  # tensors that the caller may change
            return one_or_tuple([torch.cat(parts) for parts in zip(*outputs)])

    @torch.inference_mode()
    def predict(self, images: np.ndarray, augment: bool = False, visualize=False):
        return super().predict(images, augment, visualize)

    def parallel_map(self, function, items):
        """On a CPU several pictures at once with few threads each: no thread waits at the end of every layer."""
        if self.device.type != "cpu":
            yield from prefetch(map(function, items), 1)
            return
        threads, workers = torch.get_num_threads(), pictures_at_once()
        try:
            yield from map_ahead(function, items, workers, partial(torch.set_num_threads, threads // workers))
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def warmup(self, imgsz=(1, 3, 640, 640)) -> None:
        if self.device.type == "cpu":  # it has nothing to compile, a pass would only cost time
            keep_freed_memory()
        else:
            self.forward(torch.zeros(*imgsz))


def convert(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Return a float32 model in this type; anchors keep theirs, as bfloat16 would move their boxes by pixels."""
    heads = [module for module in model.modules() if isinstance(module, Detect)]
    anchors = [(head.anchors, head.stride) for head in heads]
    model = model.to(dtype)
    if dtype == torch.bfloat16:
        for head, (head_anchors, stride_px) in zip(heads, anchors):
            head.anchors, head.stride = head_anchors, stride_px
    return model


def pictures_at_once() -> int:
    """Return how many pictures go through a model side by side on a CPU."""
    return min(torch.get_num_threads(), MOST_AT_ONCE)


def as_mapping(names) -> dict:
    """Return class names as {number: name}; official checkpoints hold a list or a mapping."""
    return dict(names) if isinstance(names, dict) else dict(enumerate(names))
