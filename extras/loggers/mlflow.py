"""MLflow; offline runs lie in PROJECT/mlflow.db and PROJECT/mlartifacts, which `mlflow ui` shows."""

from __future__ import annotations

import os
import time
from pathlib import Path

from extras.loggers import RunInfo
from utils.console.text import brief


class MlflowLogger:
    """A run of MLflow. Online it belongs to the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: RunInfo):
        parent = run.folder.parent.resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI") if run.online else f"sqlite:///{parent / 'mlflow.db'}"
        if not uri:
            raise ValueError("expected the address of a server in MLFLOW_TRACKING_URI, found none")
        self.where = uri if run.online else f"offline; look at it by: mlflow ui --backend-store-uri {uri}"
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before its first import, or it tells its makers
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name(run.project)
        location = None if run.online else (parent / "mlartifacts").as_uri()
        known = experiment.experiment_id if experiment else self.client.create_experiment(run.project, location)
        self.id = run.id or self.client.create_run(known, run_name=run.folder.name).info.run_id
        if not run.id:
            options = [Param(key, brief(value)) for key, value in run.options.items()]
            self.client.log_batch(self.id, params=options)

    def write_epoch(self, figures: dict[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, epoch) for name, value in figures.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def write_files(self, pictures: list[Path], model: Path | None, epoch: int) -> None:
        for file in pictures:
            self.client.log_artifact(self.id, str(file), "pictures")
        if model is not None:
            self.client.log_artifact(self.id, str(model), "model")

    def close(self) -> None:
        self.client.set_terminated(self.id)
