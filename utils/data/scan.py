"""Looking into many files at once, and reporting problems with some of them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

from utils.console.text import progress_bar
from utils.data.images import image_size
from utils.logger import LOGGER

THREADS = 8
MIN_SIDE_PX = 10  # Smaller images are refused where labels are read or made.
MAX_PROBLEMS_LOGGED = 20


class Problem(NamedTuple):
    """A problem of a file. `line` counts from 1; 0 means the whole file."""

    file: str
    line: int
    reason: str

    def __str__(self):
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"

    @classmethod
    def of_file(cls, file: str, error: Exception) -> "Problem":
        """Return an error about a file, whose message may begin with the file's name, and the line's number."""
        line, _, reason = str(error).removeprefix(f"{file}:").partition(": ")
        return cls(file, int(line), reason) if line.isdecimal() else cls(file, 0, str(error).removeprefix(f"{file}: "))


def map_files(function: Callable, files: Sequence, description: str, progress: bool, chunk: int = 16) -> Iterator:
    """Yield function(file) for each file, in order, by several threads and with a progress bar.

    chunk: files that a thread takes at once; 1 for work that takes more than a few milliseconds.
    """
    with ThreadPool(THREADS) as pool:
        results = pool.imap(function, files, chunksize=chunk)
        yield from progress_bar(results, description, progress, total=len(files))


def check_size(file: str) -> tuple[int, int] | Problem:
    """Return (width, height) in pixels of an image file, or the Problem of a broken one."""
    try:
        return image_size(file)
    except (OSError, ValueError) as error:
        return Problem.of_file(file, error)


def log_problems(problems: list, prefix: str = "") -> None:
    """Log the first of the problems (each a Problem or a text), and the number of the others."""
    for problem in problems[:MAX_PROBLEMS_LOGGED]:
        LOGGER.warning(f"{prefix}{problem}")
    if len(problems) > MAX_PROBLEMS_LOGGED:
        LOGGER.warning(f"{prefix}and {len(problems) - MAX_PROBLEMS_LOGGED} more problems like these")


def files_digest(files: Iterable[str], head: str = "") -> str:
    """Return a hash that changes when a file is added, removed, resized or touched, with the order, and with `head`."""
    digest = hashlib.sha256(head.encode())
    for file in files:
        try:
            stat = os.stat(file)
            digest.update(os.fsencode(f"{file} {stat.st_size} {stat.st_mtime_ns}\n"))
        except OSError:
            digest.update(os.fsencode(f"{file} -\n"))
    return digest.hexdigest()
