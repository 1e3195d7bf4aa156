"""ClearML; offline sessions lie in its own cache as an archive, which Task.import_offline_session() sends, if ever."""

from __future__ import annotations

from pathlib import Path

from extras.loggers import RunInfo


class ClearmlLogger:
    """A task of ClearML."""

    def __init__(self, run: RunInfo):
        from clearml import Task
        from clearml.utilities.check_updates import CheckPackageUpdates

        CheckPackageUpdates._package_version_checked = True  # There is no other way to keep it from asking its makers.
        Task.set_offline(not run.online)
        self.task = Task.init(
            project_name=run.project, task_name=run.folder.name, auto_connect_frameworks=False,
            auto_connect_arg_parser=False, auto_connect_streams=False, auto_resource_monitoring=False,
            reuse_last_task_id=False, continue_last_task=run.id or False,
        )  # fmt: skip
        self.task.connect(dict(run.options), name="options")
        self.id = self.task.id if run.online else ""  # An offline session cannot go on.
        self.where = self.task.get_output_log_web_page() if run.online else "offline; its archive is named at the end"

    def write_epoch(self, figures: dict[str, float], epoch: int) -> None:
        for name, value in figures.items():
            title, _, series = name.partition("/")
            self.task.get_logger().report_scalar(title, series or title, value, epoch)

    def write_files(self, pictures: list[Path], model: Path | None, epoch: int) -> None:
        for file in pictures:
            self.task.get_logger().report_image("pictures", file.stem, epoch, local_path=str(file))
        if model is not None:
            self.task.upload_artifact("model", str(model), wait_on_upload=True)

    def close(self) -> None:
        self.task.close()
