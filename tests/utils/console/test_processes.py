"""Jobs in processes of their own: answers, crashes, time limits, memory."""

import json
import re
import sys

import numpy as np
import pytest

from extras.benchmark.worker import TASKS
from utils.console import processes
from utils.console.processes import run_process

PROCESSES = {
    "a crash": ("import os; os.abort()", "was ended by SIGABRT, see .*x.log"),
    "an exit": ("import sys; sys.exit(3)", "ended with exit code 3, see .*x.log"),
    "a hang": ("import time; print('begun', flush=True); time.sleep(60)", "not done after 0.5 s, see .*x.log"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals have other numbers there")
@pytest.mark.parametrize(("code", "message"), PROCESSES.values(), ids=PROCESSES)
def test_a_process_that_does_not_answer(tmp_path, code, message):
    answer = run_process([sys.executable, "-c", code], tmp_path / "x.log", timeout_s=0.5 if "sleep" in code else 60)
    assert re.search(message, answer["error"])
    assert [file.name for file in tmp_path.iterdir()] == ["x.log"]


def test_a_process_that_answers_and_then_dies(tmp_path):
    code = "import os, sys; print('text'); open(sys.argv[1], 'w').write('{\"a\": 1}'); sys.stdout.flush(); os.abort()"
    assert run_process([sys.executable, "-c", code], tmp_path / "x.log", 60) == {"a": 1}
    assert (tmp_path / "x.log").read_text().startswith("text")


def test_an_error_in_the_process_is_the_answer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "setup_logging", lambda: None)  # it is this process
    answer = tmp_path / "answer.json"
    job = {"task": "measure", "file": "missing.onnx", "device": "cpu", "half": False, "threads": 0}
    processes.answer_job(TASKS, ["worker.py", json.dumps(job), str(answer)])
    assert json.loads(answer.read_text()) == {"error": "missing.onnx: no such file"}
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_is_the_process_own(tmp_path):
    """A process of little memory, started by one that held 300 MB."""
    code = "import json, sys; from utils.console.processes import peak_memory_mb as p; "
    code += "json.dump({'mb': p()}, open(sys.argv[1], 'w'))"
    held = np.ones(300 * 2**20, np.uint8)
    small = run_process([sys.executable, "-c", code], tmp_path / "x.log", 60)["mb"]
    assert held.nbytes / 2**20 <= processes.peak_memory_mb() and 5 < small < 200
