"""extras/loggers: what follows a training, what it is told, and that it cannot end it."""

import json
import os
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

import train
from engine.options import from_kwargs
from extras.loggers import IDS, parse_name
from utils.callbacks import Callbacks
from utils.console.guard import main_guard


@pytest.fixture
def run(tmp_path, tiny_dataset, tiny_model_cfg):
    """Function (callbacks, options) -> the folder of a training of two epochs."""

    def start(callbacks=None, **options):
        given = {"epochs": 2, "batch_size": 4, "imgsz": 64, "workers": 0, "noplots": True, "weights": "none"} | options
        given |= {"cfg": tiny_model_cfg, "data": str(tiny_dataset), "project": tmp_path / "runs"}
        train.main(from_kwargs("train", given), callbacks)
        return tmp_path / "runs" / "exp"

    return start


class Recorder:
    """A logger that notes its calls and fails in the one that `fails` names."""

    calls: list = []
    fails = ""
    where = "nowhere"

    def __init__(self, run):
        self.id = run.id or "id1"
        self.note("__init__", run)

    def note(self, name, *args):
        self.calls.append((name, *args))
        if name == self.fails:
            raise RuntimeError("no network\nand more of it")

    def write_epoch(self, figures, epoch):
        self.note("write_epoch", figures, epoch)

    def write_files(self, pictures, model, epoch):
        self.note("write_files", pictures, model, epoch)

    def close(self):
        self.note("close")


@pytest.fixture
def recorder(monkeypatch):
    """A Recorder in the place of the logger of Comet."""
    module = ModuleType("extras.loggers.comet")
    module.CometLogger = type("CometLogger", (Recorder,), {"calls": []})
    monkeypatch.setitem(sys.modules, "extras.loggers.comet", module)
    monkeypatch.setattr("extras.loggers.find_spec", lambda package: True)
    return module.CometLogger


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wanb", r"--logger wanb: expected one of tensorboard, .* \(did you mean wandb\?\)"),
        ("wandb:on", "with :online behind it"),
        ("tensorboard,wandb", "expected one of"),
    ],
)
def test_what_is_no_logger_is_said_before_the_run_begins(run, tmp_path, text, words, capsys):
    with pytest.raises(ValueError, match=words):
        parse_name(text)
    assert main_guard(run, logger=[text]) == 1 and not (tmp_path / "runs").exists()


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("extras.loggers.find_spec", lambda package: None)
    with pytest.raises(ImportError, match="--logger comet needs the package comet_ml: pip install comet-ml"):
        parse_name("comet:online")


def test_a_logger_gets_every_epoch_and_at_the_end_pictures_and_model(run, recorder):
    callbacks = Callbacks()
    folder = run(callbacks, logger=["comet"])
    (_, info), *epochs, (last, pictures, model, epoch), end = recorder.calls
    assert (info.folder, info.online, info.id, info.project) == (folder, False, "", "runs")
    assert info.options["epochs"] == 2 and "save_dir" not in info.options
    header, *rows = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    for (name, figures, number), row in zip(epochs, rows):
        assert name == "write_epoch" and number == int(row[0])
        written = dict(zip(header[1:-1], map(float, row[1:-1])))
        assert figures == pytest.approx({key: value for key, value in written.items() if value == value}, rel=1e-3)
    assert (last, model, epoch) == ("write_files", folder / "weights" / "best.pt", 1) and end == ("close",)
    assert all(isinstance(file, Path) and file.is_file() for file in pictures)
    assert json.loads((folder / IDS).read_text()) == {"comet": "id1"}
    assert not any(callbacks.get_registered_actions().values())  # A second training has loggers of its own.


@pytest.mark.parametrize("fails", ["__init__", "write_epoch", "write_files", "close"])
def test_a_failure_is_said_once_and_the_training_goes_on(run, recorder, capsys, fails):
    recorder.fails = fails
    folder = run(logger=["comet"])
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "--logger comet" in line]
    assert said == ["WARNING: --logger comet failed, the training goes on without it: no network"]
    assert [call[0] for call in recorder.calls].count(fails) == 1


def test_a_resumed_run_goes_on_under_its_identifier(run, recorder, tmp_path):
    callbacks = Callbacks()

    def stop(epoch):
        if epoch == 1:
            raise KeyboardInterrupt

    callbacks.register_action("on_train_epoch_end", callback=stop)
    with pytest.raises(KeyboardInterrupt):
        run(callbacks, logger=["comet"], epochs=3)
    folder = tmp_path / "runs" / "exp"
    train.run(resume=str(folder / "weights" / "last.pt"))
    begun = [call[1] for call in recorder.calls if call[0] == "__init__"]
    assert [info.id for info in begun] == ["", "id1"]
    assert [call[2] for call in recorder.calls if call[0] == "write_epoch"] == [0, 1, 2]


def test_identifiers_that_are_damaged_are_not_used(run, recorder, tmp_path, capsys):
    (tmp_path / "runs" / "exp").mkdir(parents=True)
    (tmp_path / "runs" / "exp" / IDS).write_text("[1")
    run(logger=["comet"], exist_ok=True)
    assert "begin new runs" in "".join(capsys.readouterr()) and recorder.calls[0][1].id == ""


def test_tensorboard_is_read_back(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run()  # It is the default where it is installed.
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("metrics/mAP_0.5")] == [0, 1]
    assert len(events.Scalars("train/box_loss")) == 2


def test_wandb_stays_offline(run):
    pytest.importorskip("wandb")
    folder = run(logger=["wandb"])
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert (next(offline.glob("*.wandb"))).stat().st_size > 1000
    assert json.loads((folder / IDS).read_text())["wandb"] in offline.name


def test_mlflow_has_figures_options_and_model(run, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    folder = run(logger=["mlflow"])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    found = client.get_run(json.loads((folder / IDS).read_text())["mlflow"])
    assert found.info.status == "FINISHED" and found.data.params["epochs"] == "2"
    assert len(client.get_metric_history(found.info.run_id, "train/box_loss")) == 2
    (model,) = client.list_artifacts(found.info.run_id, "model")
    copied = Path(client.download_artifacts(found.info.run_id, model.path, str(tmp_path)))
    assert copied.read_bytes() == (folder / "weights" / "best.pt").read_bytes()


FOLLOW = """
import sys
from importlib import import_module
from pathlib import Path
from extras.loggers import LOGGERS, RunInfo
name, folder = sys.argv[1:]
logger = getattr(import_module(f"extras.loggers.{name}"), LOGGERS[name][1])(RunInfo(Path(folder), {"epochs": 1}))
logger.write_epoch({"train/box_loss": 1.0}, 0)
logger.write_files([], None, 0)
logger.close()
"""


@pytest.fixture
def proxy():
    """A proxy that takes every connection, and closes it: (address, [first bytes of each])."""
    asked = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(200))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "package"), [("mlflow", "mlflow"), ("wandb", "wandb"), ("comet", "comet_ml"), ("clearml", "clearml")]
)
def test_offline_means_that_nobody_is_asked(tmp_path, proxy, name, package):
    """Not the makers of the package either, who leave out only CI servers and pytest: so neither is named here."""
    pytest.importorskip(package)
    address, asked = proxy
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), address)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **proxies}
    (tmp_path / "runs" / "exp").mkdir(parents=True)
    command = [sys.executable, "-c", FOLLOW, name, tmp_path / "runs" / "exp"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert asked == []


def test_clearml_and_comet_write_archives(run, tmp_path, monkeypatch):
    pytest.importorskip("clearml")
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "clearml"))
    folder = run(logger=["comet", "clearml"])
    assert list((folder / "comet").glob("*.zip")) and list((tmp_path / "clearml").rglob("*.zip"))
