"""pretrain.py as a user runs it: exit codes, Ctrl-C, help."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_tiny_dataset

from utils.checkpoint import load_state_dict_file


@pytest.fixture
def start(tmp_path):
    """Function (*arguments) -> the running process in tmp_path, where tiny/images/train has 4 pictures."""
    write_tiny_dataset(tmp_path / "tiny", train=4, val=1)

    def start(*arguments) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "pretrain.py"), *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)

    return start


def test_interrupted_then_resumed(start, tmp_path):
    """Ctrl-C gives 130 and says how to go on; --resume finds the run and finishes it."""
    flags = "--source tiny/images/train --img 64 --batch-size 4 --epochs 12 --workers 1 --noplots".split()
    process, results = start(*flags), tmp_path / "runs/pretrain/exp/results.csv"
    while not (results.is_file() and len(results.read_text().splitlines()) > 2):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "go on with:\n    python pretrain.py --resume runs/pretrain/exp/weights/last.pt" in output
    process = start("--resume", "--workers", 0)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "--backbone-weights" in output and len(results.read_text().splitlines()) == 13
    assert len(load_state_dict_file(results.parent / "weights/backbone.pt")) == 244


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--source nowhere", 1, "error: nowhere: no such folder"),
        ("--teachr x.pt", 2, "did you mean --teacher"),
        ("--epochs many", 2, "invalid int value"),
    ],
)
def test_exit_codes(start, tmp_path, flags, code, words):
    process = start(*flags.split())
    output, _ = process.communicate()
    assert process.returncode == code and words in output.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_help_needs_no_torch():
    code = "import sys, pretrain\nfrom engine import options\n"
    code += "try: options.parse('pretrain', ['--help'])\n"
    code += "except SystemExit as done: sys.exit(done.code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--teacher" in done.stdout
