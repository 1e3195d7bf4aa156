"""Quiet for libraries that print from C++."""

import io
import os
import sys
import tempfile
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_lock = threading.Lock()  # two that changed the descriptors at once would restore each other's


@contextmanager
def messages(shown: bool = False):
    """Unless they are to be shown, nothing that is printed meanwhile appears, not even by C++ libraries.

    One thread at a time; it must not be entered again before it is left.
    """
    if shown:
        yield
        return
    with _lock, tempfile.TemporaryFile() as nowhere:
        flush()
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in kept:
                os.dup2(nowhere.fileno(), descriptor)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # where they are not the descriptors
                yield
        finally:
            flush()
            for descriptor, old in kept.items():
                os.dup2(old, descriptor)
                os.close(old)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as under pythonw
            stream.flush()
