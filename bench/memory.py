"""Peak memory, from Linux's /proc: elsewhere None. MB are 2**20 bytes."""

import ctypes
import gc
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from utils.general import ROOT
from utils.torch_utils import M_MMAP_MAX, M_TRIM_THRESHOLD

MB = 2**20
M_MMAP_THRESHOLD = -3  # of mallopt(3)
SAMPLE_EVERY_S = 0.02
# for a process whose peak is asked for: glibc then gives every large block back at once, and figures repeat
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def available() -> bool:
    return sys.platform.startswith("linux") and os.access("/proc/self/clear_refs", os.W_OK)


def own_memory(key: str) -> int:
    """VmRSS (now) or VmHWM (the most since the start or reset_peak) of this process, bytes."""
    return int(re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def usual_memory() -> None:
    """Undo utils.torch_utils.keep_freed_memory(): what glibc comes to by itself once large blocks have been freed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt:
        for parameter, value in ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 * MB), (M_TRIM_THRESHOLD, 64 * MB)):
            mallopt(parameter, value)


def give_back() -> None:
    """Give freed memory back to the system, where the C library can: else what was freed before counts as used."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def peak_of_call(function) -> float | None:
    """MB that a second call of `function` needs at most beyond what is held before it.

    To be asked in a fresh process: the first call, which is not counted, makes the caches that stay.
    """
    if not available():
        return None
    function()
    give_back()
    before = own_memory("VmRSS")
    reset_peak()
    function()
    return max(own_memory("VmHWM") - before, 0) / MB


def peak_of_command(argv) -> float | None:
    """MB that the command and all its child processes hold together at most; shared pages count once."""
    if not available():
        return None
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(argv, cwd=ROOT, start_new_session=True, **streams)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(proportional_memory, processes_of_session(process.pid))))
        time.sleep(SAMPLE_EVERY_S)
    return peak / MB


def processes_of_session(session: int) -> list:
    """Return the ids of all processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session:
            found.append(int(folder.name))
    return found


def proportional_memory(pid: int) -> int:
    """Return the bytes of a process; of a page that n processes share, the n-th part."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s*(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
