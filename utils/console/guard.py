"""The guard around a script's main(): errors, signals and closed pipes end in an exit code and at most one line."""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.extras import EXTRAS, missing_extra

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED, TERMINATED, PIPE_CLOSED = 130, 143, 141  # 128 and the signal's number, as shells have it
MAX_LINE = 1000  # characters
# pattern in the message of an error that is nobody's mistake -> advice
ADVICE = {
    r"bus error|shared memory|/torch_\d+": "the data-loading processes need more shared memory than /dev/shm has: "
    "--workers 0, or more of it (docker run --shm-size 8g)",
    r"DataLoader worker": "a data-loading process has ended, often for want of memory: --workers 0 or fewer of them",
    r"out of memory|allocate memory|MemoryError": "there is not enough memory: a smaller --batch-size or --imgsz",
}


class Terminated(KeyboardInterrupt):
    """The signal SIGTERM, which closes files as Ctrl-C does."""


def main_guard(main: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Run a script's main(*args, **kwargs) and return its exit code: sys.exit(main_guard(main, opt)).

    An error of the user's (ValueError, TypeError or ImportError raised by this project, any OSError) becomes one line
    on stderr and code 1, Ctrl-C code 130, SIGTERM 143, a pipe that nobody reads any more 141 without a word.
    Everything else is a bug and keeps its traceback, as does everything where the environment has YOLOV5_TRACEBACK=1.
    If main returns an int, that is the code.
    """
    errors = open_streams()
    try:
        with _terminable():
            result = main(*args, **kwargs)
            sys.stdout.flush()
        return result if type(result) is int else 0
    except Terminated:
        return _end(errors, "terminated", TERMINATED)
    except KeyboardInterrupt:
        return _end(errors, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED
    except Exception as error:
        line = "" if os.environ.get("YOLOV5_TRACEBACK") == "1" else _line(error)
        if not line:
            raise
        return _end(errors, f"error: {line}", 1)


def open_streams() -> Any:
    """Open what the caller has closed (`>&-`), and return the stream for errors: stderr or, if that is closed, stdout.

    Otherwise the next file that is opened would get what is printed. What a stream cannot encode is escaped.
    """
    was_closed = sys.stderr is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the process lives)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # Another object may have been put there.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return sys.stdout if was_closed else sys.stderr


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception inside, so that files are closed."""

    def terminate(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _end(stream: Any, line: str, code: int) -> int:
    """Print the last line and return the code; a second Ctrl-C from now on ends the process without a word."""
    if code in (INTERRUPTED, TERMINATED) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # A signal for the whole group ends data-loading processes too, of which a loader complains when it goes.
        sys.unraisablehook = lambda *_: None
    with suppress(OSError, ValueError):  # Nobody may be reading any more.
        print(line, file=stream, flush=True)
    return code


def _discard_output() -> None:
    """Let what is still to be printed go nowhere: Python would complain at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(error: Exception) -> str:
    """Return the line for an error that is the user's or the machine's; "" for a bug."""
    text = str(error) or type(error).__name__
    raised = re.match(r"Caught (\w+) in DataLoader worker", text)
    if isinstance(error, ModuleNotFoundError):
        package, _, folder = (error.name or "").partition(".")
        missing = missing_extra(folder) if package == "extras" and folder in EXTRAS else ""
        return missing or f"{error}: pip install -r requirements.txt"
    lines = text.strip().splitlines() or [""]
    reason = lines[-1].partition(": ")[2] if raised else lines[0]  # A worker's text is a traceback and ends with it.
    if isinstance(error, (RuntimeError, MemoryError)):
        searched = reason if raised else text
        advice = next((advice for words, advice in ADVICE.items() if re.search(words, searched, re.IGNORECASE)), "")
        return f"{advice} ({reason[:200]})" if advice else ""
    if raised:
        files = re.findall(r'File "(.+?)", line', text)
        return reason if files and _is_ours(files[-1]) else ""
    if not isinstance(error, (ValueError, TypeError, ImportError, OSError)):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    return _shortened(text) if isinstance(error, OSError) or _is_ours(frames[-1].filename) else ""


def _shortened(text: str) -> str:
    """Cut lines that a value from a file, such as a name of thousands of characters, has made long."""
    return "\n".join(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..." for line in text.splitlines())


def _is_ours(file: str) -> bool:
    path = Path(file).resolve()
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts
