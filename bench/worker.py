"""A process of a bench: python -m bench.worker JOB ANSWER measures, and writes JSON into the file ANSWER.

JOB is a JSON object: bench (a name), settings, and for the memory of one side of one comparison also index and side.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path

from bench import memory
from bench.harness import Command, Row, Settings, Unavailable, compare
from utils.general import ROOT

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def start(python: str, job: dict, **environment):
    """Run such a process with its threads pinned and return its answer; raises RuntimeError if it gives none."""
    threads = str(job["settings"]["threads"])
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, threads), **environment}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [python, "-m", "bench.worker", json.dumps(job), str(answer)]
        code = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode
        if not answer.is_file():
            raise RuntimeError(f"the process of bench '{job['bench']}' ended with exit code {code}")
        return json.loads(answer.read_text(encoding="utf-8"))


def pin(threads: int) -> None:
    """Bind this process and its children to so many cores, where the system can: every library then counts those."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main(job: dict):
    settings = Settings(**job["settings"])
    pin(settings.threads)
    module = importlib.import_module(f"bench.rows.{job['bench']}")
    if "side" in job:
        side = getattr(module.comparisons(settings)[job["index"]], job["side"])
        return memory.peak_of_command(side.argv) if isinstance(side, Command) else memory.peak_of_call(side.start())
    return [asdict(row) for row in all_rows(module, job, settings)]


def all_rows(module, job: dict, settings: Settings):
    """Return the Rows of a bench; what cannot be measured is a row that says why."""
    try:
        if hasattr(module, "comparisons"):
            for index, comparison in enumerate(module.comparisons(settings)):
                row = guarded(comparison, settings, lambda side, i=index: side_memory(job, i, side))
                yield named(row, job)
        if hasattr(module, "measurements"):
            for row in module.measurements(settings):
                yield named(row, job)
    except Unavailable as reason:
        yield named(Row(job["bench"], status="skipped", note=str(reason)), job)
    except Exception as error:
        traceback.print_exc()
        yield named(Row(job["bench"], status="failed", note=first_line(error)), job)


def guarded(comparison, settings: Settings, side_memory) -> Row:
    row = Row(comparison.what, comparison.reference, mark=comparison.mark, memory_mark=comparison.memory_mark)
    try:
        return compare(comparison, settings, side_memory)
    except Unavailable as reason:
        row.status, row.note = "skipped", str(reason)
    except Exception as error:
        traceback.print_exc()
        row.status, row.note = "failed", first_line(error)
    return row


def side_memory(job: dict, index: int, side: str):
    return start(sys.executable, {**job, "index": index, "side": side}, **memory.ENVIRONMENT)


def named(row: Row, job: dict) -> Row:
    from bench.report import line

    row.bench = job["bench"]
    print(line(row), flush=True)
    return row


def first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text.replace(str(ROOT), ".")  # tables are passed on


if __name__ == "__main__":
    result = main(json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
