"""The guard around main(): signals, closed pipes and streams, and failures of the machine, each with its exit code."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from utils.console import guard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors as POSIX has them")
PROGRAM = """
import os, sys, time
from pathlib import Path
from utils.console.guard import main_guard
from utils.logger import LOGGER, setup_logging

def main():
    setup_logging()
{body}

sys.exit(main_guard(main))
"""
LINES = "for i in range(100_000):\n        LOGGER.info(f'line {i}')"
WAIT = "try:\n        LOGGER.info('ready')\n        time.sleep(30)\n    finally:\n        Path('closed').touch()"


def start(folder, body: str, wrap: str = "", **options) -> subprocess.Popen:
    (folder / "program.py").write_text(PROGRAM.format(body=f"    {body}"))
    command = ["bash", "-c", wrap.format(f"{sys.executable} program.py")] if wrap else [sys.executable, "program.py"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def run(folder, body: str, wrap: str = "") -> tuple[int, str, str]:
    process = start(folder, body, wrap)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "code", "word"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_signals_close_files(tmp_path, number, code, word):
    process = start(tmp_path, WAIT)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, number))
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, f"{word}\n") and (tmp_path / "closed").exists()


def test_a_second_ctrl_c_while_files_are_closed(tmp_path):
    process = start(
        tmp_path, "try:\n        LOGGER.info('ready')\n        time.sleep(30)\n    finally:\n        time.sleep(5)"
    )
    process.stdout.readline()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "interrupted\n"


def test_a_pipe_that_nobody_reads_any_more(tmp_path):
    code, out, err = run(tmp_path, LINES, "set -o pipefail; {} | head -1")
    assert (code, out, err) == (141, "line 0\n", "")


@pytest.mark.parametrize(
    ("body", "wrap", "expected"),
    [
        (LINES, "{} >&-", (0, "", "")),
        ("raise OSError('no such thing')", "{} >&-", (1, "", "error: no such thing\n")),
        ("raise OSError('no such thing')", "{} 2>&-", (1, "error: no such thing\n", "")),
        ("raise OSError('no such thing')", "{} >&- 2>&-", (1, "", "")),
        ("open('file', 'w').write('mine'); print('text')", "{} >&- && cat file", (0, "mine", "")),
        ("LOGGER.info('caf\\udce9')", "{}", (0, "caf\\udce9\n", "")),  # a file name that is not UTF-8
    ],
)
def test_closed_streams(tmp_path, body, wrap, expected):
    assert run(tmp_path, body, wrap) == expected


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_behind_stdout(tmp_path):
    code, _, err = run(tmp_path, LINES, "{} > /dev/full")
    assert code == 1 and err == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--workers 0 or fewer"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), "/dev/shm"),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "--shm-size"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), "--batch-size"),
        (MemoryError("Unable to allocate memory"), "--batch-size"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                '  File "/x/torch/storage.py", line 5, in f\n    return new(size)\n'
                "RuntimeError: unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device"
            ),
            "--shm-size",
        ),
    ],
)
def test_failures_of_the_machine_say_what_helps(capsys, error, words):
    def fail():
        raise error

    assert guard.main_guard(fail) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ") and words in line and line.count("\n") == 1


@pytest.mark.parametrize(("file", "code"), [(f"{ROOT}/utils/dataloaders.py", 1), ("/usr/lib/python3/x.py", None)])
def test_an_error_that_a_worker_passes_on(capsys, file, code):
    text = f'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  File "{file}", line 5, in f\n'

    def fail():
        raise ValueError(f"{text}ValueError: a.jpg: cannot be read: it is cut\n")

    if code is None:
        with pytest.raises(ValueError, match="Original Traceback"):
            guard.main_guard(fail)
    else:
        assert guard.main_guard(fail) == code
        assert capsys.readouterr().err == "error: a.jpg: cannot be read: it is cut\n"


@pytest.mark.parametrize("body", ["Path('x' * 9000).exists()", "Path('x' * 9000 + '.yaml').read_text()"])
def test_a_long_name_makes_no_long_line(tmp_path, body):
    code, out, err = run(tmp_path, body)
    assert (code, out, err.count("\n")) == (1, "", 1) and len(err) < guard.MAX_LINE + 50 and "too long" in err
