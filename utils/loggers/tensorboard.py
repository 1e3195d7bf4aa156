"""TensorBoard: the columns of results.csv as curves, and the pictures of the run. Needs the package tensorboard."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger:
    """Writes events files into the run folder. `columns`: the names of an epoch's values."""

    def __init__(self, folder: Path, columns: tuple):
        self.folder = Path(folder)
        self.columns = columns
        self.writer = SummaryWriter(str(folder))

    def write_epoch(self, values: list[float], epoch: int) -> None:
        for name, value in zip(self.columns, values):
            self.writer.add_scalar(name, value, epoch)

    def write_pictures(self, epoch: int) -> None:
        """Add the run folder's JPEG pictures (labels, training and validation batches)."""
        from utils.data.images import read_image

        for file in sorted(self.folder.glob("*.jpg")):
            self.writer.add_image(file.stem, read_image(file)[..., ::-1].copy(), epoch, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()
