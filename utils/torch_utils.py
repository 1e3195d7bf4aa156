"""Devices, model size and speed, folding of batch-norms, weight average, early stopping."""

import copy
import ctypes
import math
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from utils.console.text import aligned
from utils.extras import lazy
from utils.logger import LOGGER
from utils.timing import Profile
from utils.timing import time_sync as time_sync  # YOLOv5 users import it from here.

__getattr__ = lazy({"smart_optimizer": "utils.optimizers"}, __name__)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt(3)
GREY = 0.447  # mean of ImageNet's pixels, the padding of scaled images


def select_device(device="", batch_size: int = 0) -> torch.device:
    """Return the torch.device for 'cpu', 'mps', a GPU index such as '0' or 'cuda:0', or '0,1'; '' chooses.

    Of several GPUs the first is returned (torchrun starts one process for each). ValueError for what this machine does
    not have, and for a batch size that does not divide over the GPUs.
    """
    name = str(device).strip().lower().replace("cuda:", "").replace("none", "").replace(" ", "")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device 'mps' was asked for, but this machine has no Apple GPU that torch can use")
        return torch.device("mps")
    if name in ("", "cuda"):
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        if name == "cuda":
            raise ValueError(_no_cuda(device))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    return _select_cuda(device, name.strip(","), batch_size)


def _select_cuda(device, name: str, batch_size: int) -> torch.device:
    indices = name.split(",")
    if not all(index.isdigit() for index in indices):
        raise ValueError(f"device '{device}': expected cpu, mps, a GPU index such as 0, or several such as 0,1")
    if not torch.cuda.is_available():
        raise ValueError(_no_cuda(device))
    count = torch.cuda.device_count()
    if missing := [index for index in indices if int(index) >= count]:
        raise ValueError(f"device '{device}': no GPU {', '.join(missing)}, this machine has {count} (0 to {count - 1})")
    if len(indices) > 1 and batch_size > 0 and batch_size % len(indices):
        raise ValueError(f"batch size {batch_size} must be a multiple of the {len(indices)} GPUs of device '{device}'")
    return torch.device("cuda", int(indices[0]))


def _no_cuda(device) -> str:
    return f"device '{device}' was asked for, but torch {torch.__version__} finds no CUDA GPU here; use --device cpu"


def device_summary(device: torch.device) -> str:
    """Return one line about the device, such as 'CUDA:0 (NVIDIA T4, 15102 MiB)' or 'CPU (2 threads)'."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"CUDA:{device.index or 0} ({properties.name}, {properties.total_memory // 2**20} MiB)"
    return "MPS" if device.type == "mps" else f"CPU ({torch.get_num_threads()} threads)"


def smart_inference_mode():
    """Decorator: the function runs in torch.inference_mode, unless that is already on."""

    def decorate(function):
        @wraps(function)
        def wrapper(*args, **kwargs):
            if torch.is_inference_mode_enabled():
                return function(*args, **kwargs)
            with torch.inference_mode():
                return function(*args, **kwargs)

        return wrapper

    return decorate


def de_parallel(model: nn.Module) -> nn.Module:
    """Return the model inside a DataParallel or DistributedDataParallel wrapper, or the model itself."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def copy_attr(target, source, include=(), exclude=()) -> None:
    """Copy the public attributes of `source` (only `include` if given, never `exclude`) to `target`."""
    for name, value in vars(source).items():
        if not name.startswith("_") and name not in exclude and (not include or name in include):
            setattr(target, name, value)


def is_backbone(module: nn.Module) -> bool:
    """True for a module that keeps the backbone contract: it returns a list of maps and declares what they are."""
    return hasattr(module, "out_channels") and hasattr(module, "out_strides")


def initialize_weights(model: nn.Module, eps: float, momentum: float) -> None:
    """Give every batch-norm this eps and momentum, except inside a backbone, which has its own."""
    if is_backbone(model):
        return
    if isinstance(model, BATCH_NORMS):
        model.eps, model.momentum = eps, momentum
    for child in model.children():
        initialize_weights(child, eps, momentum)


def _scale_and_shift(bn: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch-norm with its running statistics as x * scale + shift, each [channels]."""
    scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
    return scale, bn.bias - bn.running_mean * scale


@torch.no_grad()
def fold_batchnorm(convs: Sequence[nn.Module], bn: nn.Module) -> None:
    """Fold `bn`, which alone reads the concatenated outputs of (transposed) convolutions, into them, in place.

    Exact for the batch-norm's running statistics.
    """
    channels = [conv.out_channels for conv in convs]
    for conv, scale, shift in zip(convs, *(vector.split(channels) for vector in _scale_and_shift(bn))):
        if isinstance(conv, nn.ConvTranspose2d):  # weight [in, out / groups, k, k]
            weight = conv.weight.unflatten(0, (conv.groups, -1)) * scale.view(conv.groups, 1, -1, 1, 1)
            weight = weight.flatten(0, 1)
        else:
            weight = conv.weight * scale.view(-1, 1, 1, 1)
        bias = shift if conv.bias is None else shift + conv.bias * scale
        conv.weight, conv.bias = (nn.Parameter(x, conv.weight.requires_grad) for x in (weight, bias))


def fuse_conv_and_bn(conv: nn.Module, bn: nn.Module) -> nn.Module:
    """Return a copy of the (transposed) convolution that does what `conv` then `bn` (running statistics) do."""
    fused = copy.deepcopy(conv).requires_grad_(False)
    fold_batchnorm([fused], bn)
    return fused


@torch.no_grad()
def fuse_bn_and_conv(bn: nn.Module, conv: nn.Conv2d) -> nn.Conv2d:
    """Return a copy of the convolution that does what `bn` (running statistics) then `conv` do.

    Exact only without padding, whose zeros come after the batch-norm and so miss its shift: ValueError otherwise.
    """
    if conv.padding not in ((0, 0), "valid"):
        raise ValueError(f"a batch-norm cannot be folded into the padded convolution after it: {conv}")
    scale, shift = (vector.view(conv.groups, 1, -1, 1, 1) for vector in _scale_and_shift(bn))
    fused = copy.deepcopy(conv)
    weight = conv.weight.unflatten(0, (conv.groups, -1))  # [groups, out / groups, in / groups, k, k]
    fused.weight.copy_((weight * scale).flatten(0, 1))
    bias = (weight * shift).sum((2, 3, 4)).flatten()
    fused.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias)
    return fused.requires_grad_(False)


@contextmanager
def evaluating(model):
    """Hold the model in eval mode; each module has its own mode back afterwards.

    Models that are no modules, such as DetectMultiBackend, need only an eval().
    """
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def count_flops(model: nn.Module, imgsz=640, ch: int = 3) -> int:
    """Return the operations (2 per multiply-add) of convolutions, matrix products and attention on one image.

    `imgsz`: pixels, an int or (height, width). Runs on the meta device: shapes without numbers, so it is quick.
    """
    from torch.utils.flop_counter import FlopCounterMode

    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    image = torch.empty(1, ch, height, width, device="meta", dtype=next(model.parameters()).dtype)
    with FlopCounterMode(display=False) as counter, evaluating(model), torch.no_grad():
        torch.func.functional_call(model, tensors, (image,))
    return counter.get_total_flops()


def model_info(model: nn.Module, verbose: bool = False, imgsz=640) -> str:
    """Log and return the line with layers (rows of the model file), parameters, gradients and GFLOPs at `imgsz` px.

    With `verbose` a line for every parameter comes first.
    """
    parameters = list(model.named_parameters())
    if verbose:
        rows = [("", "name", "gradient", "parameters", "shape", "mean", "std")]
        for i, (name, p) in enumerate(parameters):
            mean, std = f"{p.mean():.3g}", f"{p.std(correction=0):.3g}"
            rows.append((i, name, p.requires_grad, p.numel(), list(p.shape), mean, std))
        LOGGER.info(aligned(rows, left=(1, 4)))
    ch = getattr(model, "yaml", {}).get("ch", 3)
    rows = len(model.model) if hasattr(model, "model") else len(list(model.modules()))
    total = sum(p.numel() for _, p in parameters)
    gradients = sum(p.numel() for _, p in parameters if p.requires_grad)
    gflops = count_flops(model, imgsz, ch) / 1e9
    line = f"{rows} layers, {total} parameters, {gradients} gradients, {gflops:.1f} GFLOPs at {imgsz} px"
    LOGGER.info(f"{type(model).__name__}: {line}")
    return line


def scale_img(img: torch.Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> torch.Tensor:
    """Resize images [B, C, H, W] by `ratio`, then pad them grey to multiples of `gs` px, or to H, W (same_shape)."""
    if ratio == 1.0:
        return img
    height, width = img.shape[2:]
    size = int(height * ratio), int(width * ratio)
    img = F.interpolate(img, size=size, mode="bilinear", align_corners=False)
    if not same_shape:
        height, width = (math.ceil(x * ratio / gs) * gs for x in (height, width))
    return F.pad(img, [0, width - size[1], 0, height - size[0]], value=GREY)


def profile(inputs, ops, n: int = 10, device=None) -> list:
    """Time modules or functions. A dict for each: parameters, flops, forward_ms, backward_ms, input, output.

    The last two are shapes. Also logged as a table. backward_ms is nan where there is nothing to differentiate.
    """
    device = select_device("") if device is None else torch.device(device)
    results, rows = [], [("parameters", "GFLOPs", "forward (ms)", "backward (ms)", "input", "output")]
    for x in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
        for op in ops if isinstance(ops, (list, tuple)) else [ops]:
            x = x.to(device).requires_grad_()
            result = _profile_one(op.to(device) if isinstance(op, nn.Module) else op, x, n)
            results.append(result)
            figures = [f"{result['flops'] / 1e9:.2f}", f"{result['forward_ms']:.2f}", f"{result['backward_ms']:.2f}"]
            rows.append((result["parameters"], *figures, result["input"], result["output"]))
    LOGGER.info(aligned(rows))
    return results


def _profile_one(op, x: torch.Tensor, n: int) -> dict:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        y = op(x)
    forward, backward = Profile(device=x.device), Profile(device=x.device)
    for _ in range(n):
        with forward:
            y = op(x)
        tensors = [t for t in nested_tensors(y) if t.requires_grad]
        if tensors:
            with backward:
                sum(t.sum() for t in tensors).backward()
    shapes = [tuple(t.shape) for t in nested_tensors(y)]
    return {
        "parameters": sum(p.numel() for p in op.parameters()) if isinstance(op, nn.Module) else 0,
        "flops": counter.get_total_flops(),
        "forward_ms": forward.t / n * 1e3,
        "backward_ms": backward.t / n * 1e3 if tensors else math.nan,
        "input": tuple(x.shape),
        "output": shapes[0] if len(shapes) == 1 else shapes,
    }


def nested_tensors(value) -> list:
    """Return all tensors in nested lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for item in value for t in nested_tensors(item)] if isinstance(value, (list, tuple)) else []


def multiplies_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16; False where that is not known, off Linux on x86."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees; False where the C library is not glibc.

    Otherwise glibc gives each large tensor back to the system, and the next one is slow to fill: every page of it is
    fetched and zeroed anew. A training step of EdgeViT takes an eighth longer that way.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


class ModelEMA:
    """Exponential moving average of a model's weights and buffers: `ema`, always float32 and in eval mode.

    After `updates` updates the decay is decay * (1 - exp(-updates / tau)), so that early weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0):
        self.ema = copy.deepcopy(de_parallel(model)).float().eval().requires_grad_(False)
        self.decay_limit = decay
        self.tau = tau
        self.updates = updates

    def decay(self, updates: int) -> float:
        return self.decay_limit * (1 - math.exp(-updates / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step toward the weights of `model`."""
        self.updates += 1
        new = de_parallel(model).state_dict()
        averages, values = [], []
        for name, average in self.ema.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(new[name].to(average.dtype))
            else:
                average.copy_(new[name])
        torch._foreach_lerp_(averages, values, 1 - self.decay(self.updates))

    def update_attr(self, model: nn.Module, include=(), exclude=("process_group", "reducer")) -> None:
        copy_attr(self.ema, de_parallel(model), include, exclude)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "ema": self.ema.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        self.ema.load_state_dict(state["ema"])


class EarlyStopping:
    """Says stop when the fitness has not improved for `patience` epochs; 0 never stops."""

    def __init__(self, patience: int = 30):
        self.patience = patience or math.inf
        self.best_fitness = -math.inf
        self.best_epoch = 0
        self.possible_stop = False  # the next epoch may be the last

    def __call__(self, epoch: int, fitness: float) -> bool:
        if fitness >= self.best_fitness:
            self.best_fitness, self.best_epoch = float(fitness), epoch
        waited = epoch - self.best_epoch
        self.possible_stop = waited >= self.patience - 1
        if waited >= self.patience:
            LOGGER.info(
                f"stopping early: no improvement in the last {self.patience} epochs, best was epoch {self.best_epoch}; "
                "--patience N sets the number of epochs, --patience 0 never stops"
            )
        return waited >= self.patience

    def state_dict(self) -> dict:
        return {"best_fitness": self.best_fitness, "best_epoch": self.best_epoch, "possible_stop": self.possible_stop}

    def load_state_dict(self, state: dict) -> None:
        self.best_fitness = state["best_fitness"]
        self.best_epoch = state["best_epoch"]
        self.possible_stop = state["possible_stop"]
