"""Silence for foreign libraries, down to what their C++ code prints."""

import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_lock = threading.RLock()  # two threads that changed the descriptors at once would restore each other's


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Drop whatever is printed, warned about or logged below ERROR inside, in the whole process, unless `verbose`.

    Errors are raised as ever. One thread at a time: others wait.
    """
    if verbose:
        yield
        return
    with _lock, tempfile.TemporaryFile() as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logged_before = logging.root.manager.disable
        logging.disable(max(logged_before, logging.WARNING))
        _flush()
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2) if _is_open(descriptor)}
        try:
            for descriptor in kept:
                os.dup2(nowhere.fileno(), descriptor)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # these may not be the descriptors
                yield
        finally:
            _flush()
            for descriptor, old in kept.items():
                os.dup2(old, descriptor)
                os.close(old)
            logging.disable(logged_before)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # as in a program without a console
        return False
    return True


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
