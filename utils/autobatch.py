"""The largest training batch that fits a GPU, from a few measured steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from utils.extras import lazy
from utils.logger import LOGGER

__getattr__ = lazy({}, __name__)

DEFAULT_BATCH = 16  # where memory cannot be measured
TRIED_BATCHES = (1, 2, 4, 8, 16)
FRACTION = 0.8  # usable share of the free memory


def check_train_batch_size(model: nn.Module, imgsz: int = 640, amp: torch.dtype | None = None) -> int:
    """Return how many images of imgsz x imgsz px fit into a training batch, or 16 where the device is no GPU."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        LOGGER.info(f"autobatch: memory cannot be measured on {device.type}, using batch size {DEFAULT_BATCH}")
        return DEFAULT_BATCH
    torch.cuda.empty_cache()
    free_gb = torch.cuda.mem_get_info(device)[0] / 2**30
    used_gb = measure(model, imgsz, amp, device)
    batch = choose_batch(used_gb, free_gb * FRACTION)
    LOGGER.info(f"autobatch: {free_gb:.1f} GB free, used {used_gb}; batch size {batch} for {FRACTION:.0%} of it")
    return batch


def measure(model: nn.Module, imgsz: int, amp: torch.dtype | None, device: torch.device) -> dict[int, float]:
    """Peak GB of a training step for TRIED_BATCHES, up to the first that does not fit. Leaves the model as it was."""
    was_training, saved = model.training, {name: value.clone() for name, value in model.state_dict().items()}
    used_gb = {}
    model.train()
    try:
        for batch in TRIED_BATCHES:
            torch.cuda.reset_peak_memory_stats(device)
            images = torch.rand(batch, 3, imgsz, imgsz, device=device)
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                outputs = model(images)
            sum(output.float().mean() for output in outputs).backward()
            used_gb[batch] = round(torch.cuda.max_memory_reserved(device) / 2**30, 3)
    except torch.cuda.OutOfMemoryError:
        LOGGER.info(f"autobatch: batch size {batch} does not fit")
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(saved)
        model.train(was_training)
        torch.cuda.empty_cache()
    return used_gb


def choose_batch(used_gb: dict[int, float], limit_gb: float) -> int:
    """Return the largest batch whose memory, by a line through the measurements, is within the limit (at least 1).

    16 if there are too few measurements or they do not grow.
    """
    if len(used_gb) < 2:
        return 1 if used_gb else DEFAULT_BATCH
    slope, offset = np.polyfit(list(used_gb), list(used_gb.values()), 1)
    if slope <= 0:
        return DEFAULT_BATCH
    batch = max(int((limit_gb - offset) / slope), 1)
    return batch if len(used_gb) == len(TRIED_BATCHES) else min(batch, max(used_gb))
