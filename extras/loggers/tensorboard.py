"""TensorBoard: the columns of results.csv as curves, and the pictures of the run, as event files in its folder."""

from __future__ import annotations

from pathlib import Path

from extras.loggers import RunInfo
from utils.data.images import read_image


class TensorBoardLogger:
    """A writer of event files; it is never online."""

    id = ""

    def __init__(self, run: RunInfo):
        from torch.utils.tensorboard import SummaryWriter

        self.where = f"tensorboard --logdir {run.folder.parent}"
        self.writer = SummaryWriter(str(run.folder))

    def write_epoch(self, figures: dict[str, float], epoch: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch)

    def write_files(self, pictures: list[Path], model: Path | None, epoch: int) -> None:
        for file in pictures:
            self.writer.add_image(file.stem, read_image(file)[..., ::-1].copy(), epoch, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()
