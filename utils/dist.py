"""Ranks, barriers and set-up of data-parallel training started by torchrun. Reads LOCAL_RANK, RANK and WORLD_SIZE."""

import os
from contextlib import contextmanager

import torch
import torch.distributed


def local_rank() -> int:
    """Return the index of this process on its machine; -1 outside torchrun."""
    return int(os.environ.get("LOCAL_RANK", -1))


def rank() -> int:
    """Return the index of this process among all; -1 outside torchrun."""
    return int(os.environ.get("RANK", -1))


def world_size() -> int:
    """Return the number of processes; 1 outside torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Return whether this is the one process that prints, validates and saves."""
    return rank() in (-1, 0)


def is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def setup() -> None:
    """Join the process group that torchrun describes: NCCL with CUDA, gloo without. No-op outside torchrun."""
    if rank() == -1 or is_distributed():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        if local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK {local_rank()} needs {local_rank() + 1} GPUs, found {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank())
    torch.distributed.init_process_group(backend="nccl" if cuda else "gloo")


def cleanup() -> None:
    if is_distributed():
        torch.distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here. No-op in a single process."""
    if is_distributed():
        torch.distributed.barrier()


@contextmanager
def main_first():
    """Let the main process run the block first (it fills caches and downloads), then the others."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def broadcast_object(value):
    """Return the main process's plain-data `value` in every process."""
    if not is_distributed():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
