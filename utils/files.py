"""Files that are written whole or not at all. Imports the standard library alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Give a binary file to write that replaces `path` when the block ends well; else `path` stays as it is."""
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # It is gone after success, and cannot be there where the folder is missing.
            temporary.unlink()


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write a file so that, whatever happens, `path` holds either its old content or all of `data`.

    OSError (disk full, no permission) with the path and what to do; no temporary file is left then.
    """
    path = Path(path)
    try:
        # One fixed name: a killed process leaves at most one such file, which the next writer overwrites.
        with replacing(path, path.with_name(path.name + ".tmp")) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        old = "the old file is still whole" if path.is_file() else "no file was written"
        hint = f"check the folder and free at least {len(data) / 2**20:.1f} MB on its disk"
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; {old}; {hint}") from error


def write_cache(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make the cache file `path` of what write(file) puts into it, whole or not at all. OSError if that fails.

    Several processes may do so at once. Nothing waits for the disk: a cache that is lost is made again.
    """
    with replacing(path, path.with_name(f"{path.name}.{os.getpid()}.tmp")) as file:
        write(file)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can (Windows and some network disks cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
