"""The moments of a training or a validation at which an extra may act, beside the user's callbacks."""

from pathlib import Path

import numpy as np
import torch


class TrainHook:
    """A part that an extra adds to a training, such as a teacher. Every method does nothing unless it is overridden.

    The loop calls them in this order: before_epoch, then for each batch before_batch and loss, then optimizer_step
    wherever the model's own optimizer makes a step, and after_epoch.
    """

    name = ""  # the key of its state in a checkpoint's train_state

    def before_epoch(self, epoch: int) -> int | None:
        """Return the number that seeds this epoch's augmentation in place of `epoch`, None for `epoch` itself."""

    def before_batch(self, images: torch.Tensor, batch_index: int) -> None:
        """Look at a batch as the loader gave it: uint8 [B, 3, H, W] RGB on the CPU."""

    def loss(self, outputs: list[torch.Tensor]) -> torch.Tensor | None:
        """Return a scalar that is added to the loss of the batch, times B; `outputs` are the model's raw maps."""

    def optimizer_step(self, scaler: torch.amp.GradScaler) -> None:
        """Update the hook's own parameters; called between the step of the model's optimizer and scaler.update()."""

    def after_epoch(self, epoch: int) -> None:
        """Log the epoch's figures. NonFiniteLossError if one is not finite."""

    def state_dict(self) -> dict:
        """Return what a resumed run needs, as tensors and plain data."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what state_dict() returned. ValueError if it belongs to something else."""


class ValHook:
    """A part that an extra adds to a validation of boxes, such as the choice of thresholds."""

    nms: dict = {}  # the options of utils.nms.final_boxes for its boxes; without any they are the validation's own

    def add(self, path: str, boxes: np.ndarray, truth: np.ndarray) -> None:
        """Take an image: its boxes [n, 6] (xyxy, confidence, class) and its true ones [m, 5] (class, xyxy), in pixels
        of the original."""

    def close(self, save_dir: Path) -> None:
        """Conclude from all images; files go to the folder `save_dir`."""
