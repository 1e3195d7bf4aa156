"""SHA-256 of files and folders."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path


def sha256_of_files(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (name, SHA-256 in hexadecimal digits) of each file; of a folder, of each file in it."""
    for path in map(Path, paths):
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            yield str(file.relative_to(path.parent)), hashlib.sha256(file.read_bytes()).hexdigest()
