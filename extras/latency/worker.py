"""A process that writes, weighs or examines one file: python -m extras.latency.worker JOB ANSWER.

JOB is a JSON object made by extras/latency/files.py; the result is written as JSON into the file ANSWER.
"""

import sys
from pathlib import Path

import numpy as np

from extras.latency.files import write_file
from extras.latency.runtimes import find_runtime, open_call
from utils.console.processes import answer_job, peak_memory_mb


def write(job: dict) -> dict:
    write_file(job["cfg"], job["nc"], job["size_px"], find_runtime(job["runtime"]), Path(job["file"]))
    return {}


def memory(job: dict) -> dict:
    images = np.random.default_rng(0).random((1, 3, job["size_px"], job["size_px"]), np.float32)
    call = open_call(find_runtime(job["runtime"]), Path(job["file"]), 1, images)
    for _ in range(3):
        call()
    return {"memory_mb": peak_memory_mb()}


def refused(job: dict) -> dict:
    from extras.latency.refusals import refused_rows

    return {"rows": refused_rows(job["cfg"], job["nc"], job["size_px"], find_runtime(job["runtime"]))}


def fallbacks(job: dict) -> dict:
    from extras.latency.refusals import litert_fallbacks

    return {"rows": litert_fallbacks(Path(job["file"]))}


TASKS = {"write": write, "memory": memory, "refused": refused, "fallbacks": fallbacks}


if __name__ == "__main__":
    answer_job(TASKS, sys.argv)
