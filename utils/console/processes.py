"""Jobs in processes of their own: one that crashes, hangs or fills the memory costs its own answer alone.

run_process() starts one and waits for its answer, answer_job() is what it does. Free of torch.
"""

import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from utils.files import write_atomic
from utils.general import ROOT
from utils.logger import setup_logging


def run_process(command: list, log: Path, timeout_s: float) -> dict:
    """Return the JSON object that `command` writes into the file of its last argument, else {"error": why}.

    What it prints goes into the file `log`. It runs in the project's root, and no longer than `timeout_s` seconds.
    """
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)
    try:
        with log.open("wb") as output:
            same = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, "timeout": timeout_s}
            code = subprocess.run([*command, str(answer)], cwd=ROOT, **same).returncode
        if answer.is_file():  # a process that dies while it clears up has done its work
            return json.loads(answer.read_text(encoding="utf-8"))
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout_s:g} s, see {log}"}
    finally:
        answer.unlink(missing_ok=True)
    return {"error": f"the process {how_it_ended(code)}, see {log}"}


def how_it_ended(code: int) -> str:
    """Say in words what the exit code of a process means that did not end well."""
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-code, f'signal {-code}')}"


def answer_job(tasks: dict[str, Callable[[dict], dict]], arguments: list[str]) -> None:
    """Do the job of the arguments [program, job as JSON, file], job["task"] names which, and write its answer there.

    An error is the answer {"error": its first line}; the log has the whole.
    """
    job, answer = json.loads(arguments[1]), Path(arguments[2])
    setup_logging()
    try:
        result = tasks[job["task"]](job)
    except Exception as error:  # Any library's.
        traceback.print_exc()
        result = {"error": reason(error)}
    write_atomic(answer, json.dumps(result).encode())


def reason(error: Exception) -> str:
    """Return the first line of an error's message, with its kind where it is not one of ours."""
    first = next(iter(str(error).strip().splitlines()), "")
    is_ours = isinstance(error, (ValueError, ImportError, OSError))
    return first if is_ours and first else f"{type(error).__name__}: {first}"


def peak_memory_mb() -> float | None:
    """Return the most memory (resident, 2**20 bytes) that this process ever held; None if nobody knows."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; getrusage() there begins with what the parent process held
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
