"""Weights & Biases; offline runs lie in FOLDER/wandb and are sent by `wandb sync`, if ever."""

from __future__ import annotations

import os
from pathlib import Path

from extras.loggers import RunInfo


class WandbLogger:
    """A run of Weights & Biases, with the model as an artifact of it."""

    def __init__(self, run: RunInfo):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before its first import, or it tells its makers
        import wandb

        self.run = wandb.init(
            project=run.project, name=run.folder.name, dir=str(run.folder), config=run.options,
            mode="online" if run.online else "offline", id=run.id or None, resume="allow" if run.id else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )  # fmt: skip
        self.id = self.run.id
        self.where = self.run.url if run.online else f"offline; send it by: wandb sync {Path(self.run.dir).parent}"

    def write_epoch(self, figures: dict[str, float], epoch: int) -> None:
        self.run.log(figures, step=epoch)

    def write_files(self, pictures: list[Path], model: Path | None, epoch: int) -> None:
        import wandb

        self.run.log({file.stem: wandb.Image(str(file)) for file in pictures})
        if model is not None:
            artifact = wandb.Artifact(f"run-{self.id}-model", "model")
            artifact.add_file(str(model))
            self.run.log_artifact(artifact)

    def close(self) -> None:
        self.run.finish()
