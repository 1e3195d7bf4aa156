"""The project's scripts as a user starts them: in a process of their own, forked from one that has imported torch.

Importing it takes longer than most of what these tests do, hundreds of times. As a program this file is that process.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300


def run_script(script: str, *arguments, cwd=ROOT, timeout_s: float = TIMEOUT_S, **environment):
    """Run ROOT/script and return its subprocess.CompletedProcess with text. `environment`: variables to set."""
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "line": [str(ROOT / script), *map(str, arguments)],
            "cwd": str(cwd),
            "environment": {**os.environ, **environment},
            "outputs": [f"{folder}/stdout", f"{folder}/stderr"],
            "timeout_s": timeout_s,
        }
        server = _server()
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        texts = [Path(file).read_text(encoding="utf-8") for file in job["outputs"]]
    if code == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(job["line"], timeout_s, *texts)
    return subprocess.CompletedProcess(job["line"], code, *texts)


@cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    return server


def serve() -> dict:
    """Fork a process for each job on stdin and print its exit code; in such a process, return the job."""
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            return job
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)
    os._exit(0)


def become(job: dict) -> None:
    """Turn this process into the script of the job."""
    signal.alarm(round(job["timeout_s"]))
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, file in enumerate(job["outputs"], start=1):
        with open(file, "w") as output:
            os.dup2(output.fileno(), number)
    sys.argv = job["line"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    import cv2  # noqa: F401
    import torch  # noqa: F401

    become(serve())
