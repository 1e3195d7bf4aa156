"""The table that training prints, a header and a progress bar for each epoch, and the mean losses in it."""

import math
import time
from collections.abc import Iterator

import torch

from utils.console.text import progress_bar
from utils.logger import LOGGER

COLUMN = 11  # characters
BAR_FORMAT = "{desc} {percentage:3.0f}% {bar:10} {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt}"


class NonFiniteLossError(ValueError):
    """A loss term became infinite or not a number."""


class RunClock:
    """The time of a run in seconds, that of earlier processes included, and the ends of its epochs."""

    def __init__(self):
        self._started = time.perf_counter()
        self.epoch_ends: list[float] = []
        self.val_seconds = 0.0  # of this process's validations

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self._started

    def go_on(self, epoch_ends: list[float]) -> None:
        """Count on from the last of the epochs that earlier processes finished."""
        self.epoch_ends = epoch_ends
        self._started -= epoch_ends[-1] if epoch_ends else 0

    def end_epoch(self) -> None:
        """Note that an epoch ends now."""
        self.epoch_ends.append(self.seconds())


class MeanLosses:
    """The means of an epoch's loss terms, kept on the device: reading a value makes the CPU wait for a GPU."""

    def __init__(self, names: tuple[str, ...], device: torch.device):
        self.names = names
        self.mean = torch.zeros(len(names), device=device)
        self.batches = 0

    def add(self, terms: torch.Tensor) -> None:
        self.batches += 1
        self.mean += (terms - self.mean) / self.batches

    def values(self, where: str) -> list[float]:
        """Return the means. NonFiniteLossError, naming the terms and the batch, if one is not finite."""
        values = self.mean.tolist()
        if all(math.isfinite(value) for value in values):
            return values
        terms = ", ".join(f"{name} {value:g}" for name, value in zip(self.names, values))
        raise NonFiniteLossError(
            f"the loss is not finite in {where} (means so far: {terms}); training stopped. "
            "A lower lr0, a longer warm-up or --amp off may help"
        )


class EpochProgress:
    """Iterate over an epoch's batches behind a bar with columns Epoch, GPU_mem, the losses, Instances, Size.

    Where there is no terminal the last state of the columns is logged at the end of the epoch instead.
    """

    def __init__(
        self, batches, total: int, epoch: int, epochs: int, loss_names, device: torch.device, show: bool = True
    ):
        self.epoch = f"{epoch}/{epochs - 1}"
        self.device = device
        if show:
            names = ("Epoch", "GPU_mem", *loss_names, "Instances", "Size")
            LOGGER.info("\n" + "".join(f"{name:>{COLUMN}}" for name in names))
        width = COLUMN * (4 + len(loss_names))
        self.columns = f"{self.epoch:>{COLUMN}}".ljust(width)
        self.bar = progress_bar(batches, self.columns, show, total=total, bar_format=BAR_FORMAT, leave=True)
        self.log_end = show and self.bar.disable

    def __iter__(self) -> Iterator:
        yield from self.bar
        if self.log_end:
            LOGGER.info(self.columns)

    def update(self, losses: list[float], instances: int, size: int) -> None:
        """Show the epoch's mean losses, the objects in the newest batch and its image size in pixels."""
        reserved = torch.cuda.memory_reserved(self.device) / 1e9 if self.device.type == "cuda" else 0
        cells = [self.epoch, f"{reserved:.3g}G", *(f"{loss:.4g}" for loss in losses), str(instances), str(size)]
        self.columns = "".join(f"{cell:>{COLUMN}}" for cell in cells)
        self.bar.set_description_str(self.columns, refresh=False)
