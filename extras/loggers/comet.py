"""Comet; offline experiments lie in FOLDER/comet as an archive, which `comet upload` sends, if ever."""

from __future__ import annotations

from pathlib import Path

from extras.loggers import RunInfo

SETTINGS = dict.fromkeys(
    ("log_code", "log_git_metadata", "log_git_patch", "log_env_details", "parse_args", "auto_metric_logging",
     "auto_param_logging", "auto_output_logging", "auto_histogram_weight_logging", "display_summary_level"), False,
)  # fmt: skip


class CometLogger:
    """An experiment of Comet. Online it belongs to the account that COMET_API_KEY names."""

    def __init__(self, run: RunInfo):
        import comet_ml

        settings = {"project_name": run.project, **SETTINGS}
        if run.online and run.id:
            self.experiment = comet_ml.ExistingExperiment(previous_experiment=run.id, **settings)
        elif run.online:
            self.experiment = comet_ml.Experiment(**settings)
        else:
            folder = run.folder / "comet"
            self.experiment = comet_ml.OfflineExperiment(offline_directory=str(folder), **settings)
        self.experiment.set_name(run.folder.name)
        self.experiment.log_parameters(run.options)
        self.id = self.experiment.get_key() if run.online else ""
        self.where = self.experiment.url if run.online else f"offline; send it by: comet upload {folder}/*.zip"

    def write_epoch(self, figures: dict[str, float], epoch: int) -> None:
        self.experiment.log_metrics(figures, step=epoch, epoch=epoch)

    def write_files(self, pictures: list[Path], model: Path | None, epoch: int) -> None:
        for file in pictures:
            self.experiment.log_image(str(file), name=file.stem, step=epoch)
        if model is not None:
            self.experiment.log_model("model", str(model))

    def close(self) -> None:
        self.experiment.end()
