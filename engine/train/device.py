"""Where and how precisely a training computes: device, mixed precision, memory layout, repeatable algorithms."""

import argparse
from contextlib import contextmanager
from typing import NamedTuple

import torch

from utils import dist
from utils.torch_utils import select_device

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Precision(NamedTuple):
    """The device of this process with the number type (None: float32) and the memory layout of its maps."""

    device: torch.device
    amp: torch.dtype | None
    memory_format: torch.memory_format


def choose_precision(opt: argparse.Namespace, device: torch.device) -> Precision:
    """Return what opt.amp means on the device. ValueError if the device cannot."""
    # Convolutions are a sixth faster with channels-last maps on a CPU, and EdgeViT is not slower.
    memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
    return Precision(device, amp_dtype(opt.amp, device), memory_format)


def to_input(images: torch.Tensor, device: torch.device, memory_format: torch.memory_format) -> torch.Tensor:
    """Return uint8 images [B, 3, H, W] as float 0..1 on the device."""
    return images.to(device, non_blocking=True).to(torch.float32, memory_format=memory_format).div_(255)


def choose_device(opt: argparse.Namespace) -> torch.device:
    """Return the device of this process: under torchrun its local rank's GPU (or the CPU), else that of --device."""
    if dist.world_size() > 1:
        cuda = torch.cuda.is_available() and opt.device != "cpu"
        return torch.device("cuda", dist.local_rank()) if cuda else torch.device("cpu")
    if "," in str(opt.device):
        count = len(opt.device.split(","))
        raise ValueError(
            f"--device {opt.device}: start one process per GPU: torchrun --nproc_per_node {count} train.py ..."
        )
    return select_device(opt.device, opt.batch_size)


def check_options(opt: argparse.Namespace, device: torch.device) -> None:
    """ValueError for options that cannot work here, or not together."""
    ranks = dist.world_size()
    if opt.epochs < 1:
        raise ValueError(f"--epochs: expected at least 1, found {opt.epochs}")
    if opt.batch_size < 1 and opt.batch_size != -1:
        raise ValueError(f"--batch-size: expected at least 1, or -1 to measure it, found {opt.batch_size}")
    if opt.sync_bn and (ranks == 1 or device.type != "cuda"):
        raise ValueError("--sync-bn needs several GPUs: torchrun --nproc_per_node N train.py ...")
    if ranks == 1:
        return
    if opt.batch_size % ranks:
        raise ValueError(f"--batch-size {opt.batch_size} must be a positive multiple of the {ranks} processes")
    if opt.evolve:
        raise ValueError("--evolve runs in one process, not under torchrun")


def amp_dtype(choice: str, device: torch.device) -> torch.dtype | None:
    """Return the type of --amp's mixed precision on this device, None for float32. ValueError if it cannot be."""
    if choice == "auto":
        choice = "fp16" if device.type == "cuda" else "off"
    if choice == "off":
        return None
    if choice == "fp16" and device.type != "cuda":
        raise ValueError(f"--amp fp16 needs a CUDA device, found {device.type}; bf16 and off work there")
    if choice == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("--amp bf16: this GPU has no bfloat16; use fp16")
    return AMP_DTYPES[choice]


@contextmanager
def repeatable():
    """Inside, torch uses only algorithms that give the same result each time; afterwards its settings are as before."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill
