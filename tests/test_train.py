"""train.py: run() from Python, the command line, and several processes under torchrun."""

import os
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from kill_driver import MODEL

import train
from utils.checkpoint import load_checkpoint
from utils.general import main_guard

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def options(tiny_dataset, tmp_path):
    cfg = tmp_path / "model.yaml"
    cfg.write_text(yaml.safe_dump(MODEL))
    options = {"cfg": str(cfg), "data": str(tiny_dataset), "epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0}
    return {**options, "noplots": True, "project": str(tmp_path / "runs")}


def test_run_from_python(options, tmp_path):
    opt = train.run(**options)
    assert opt.save_dir == str(tmp_path / "runs" / "exp")
    assert load_checkpoint(tmp_path / "runs/exp/weights/last.pt").epoch == 0


def test_run_knows_aliases_and_refuses_other_names(options):
    del options["imgsz"]
    assert train.run(**options, img=96).imgsz == 96
    with pytest.raises(TypeError, match="no option 'epoch'.*did you mean epochs"):
        train.run(epoch=3)


def test_data_defaults_count_where_the_flag_is_not_given(options, tiny_dataset):
    with open(tiny_dataset, "a") as file:
        file.write("imgsz: 96\n")
    del options["imgsz"]
    assert train.run(**options).imgsz == 96


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere.yaml"}, "error: file 'nowhere.yaml' not found"),
        ({"cfg": "yolov5nn.yaml"}, "did you mean yolov5n.yaml"),
        ({"weights": "/nowhere/best.pt"}, "/nowhere/best.pt"),
        ({"hyp": {"lr": 1}}, "unknown hyperparameter 'lr'"),
        ({"hyp": {"obj": 1e42}}, "obj_loss inf"),
        ({"resume": "nowhere/weights/last.pt"}, "error: --resume"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(options, capsys, change, message):
    given = {"resume": change["resume"]} if "resume" in change else {**options, **change}
    assert main_guard(train.run, **given) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_help_is_quick_and_lists_every_flag():
    code = "import sys, train; train.parse_opt(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--backbone-weights" in done.stdout
    code = "import sys, train; train.parse_opt([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0  # torch is not imported for it


def test_two_processes_train_one_model(options, tmp_path):
    """torchrun on the CPU: half of each batch per process, one run folder, the same weights as a second such run."""
    flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in options.items()]
    flags += ["--device=cpu", "--image-weights", "--epochs=2", "--name=ddp"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "train.py"),
    ]
    done = subprocess.run([*command, *flags], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Starting training for 2 epochs") == 1  # only the main process prints
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["ddp"]
    checkpoint = load_checkpoint(tmp_path / "runs/ddp/weights/last.pt")
    assert checkpoint.epoch == 1 and checkpoint.train_state is None

    done = subprocess.run([*command, *flags, "--batch-size=3"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: --batch-size 3 must be a positive multiple of the 2 processes" in done.stderr
