"""The files in folders and in those below them, where links to folders are followed once, whichever way they lead."""

import glob
import os
from collections.abc import Iterator

from utils.logger import LOGGER


def walk_folders(folder: str) -> Iterator[tuple[str, list[os.DirEntry]]]:
    """Yield `folder` and the folders below it, each with its entries by name, hidden ones apart.

    Links to folders are followed, but no folder is yielded twice, and none that holds `folder` itself.
    """
    root, again = os.path.realpath(folder), []
    folders, links, seen = [folder], [], set()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(here)
        if real in seen or root.startswith(os.path.join(real, "")):
            again.append(here)
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            LOGGER.warning(f"{here}: the folder cannot be read: {error.strerror}")
            continue
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        yield here, entries
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        links += [entry.path for entry in entries if entry.is_symlink() and os.path.isdir(entry.path)]
    if again:
        LOGGER.warning(f"{len(again)} links lead to folders that are searched already, and are passed over: {again[0]}")


def matching(pattern: str) -> list[str]:
    """Return what glob.glob(pattern, recursive=True) does, but that ** takes each folder once."""
    pattern = pattern.replace("/", os.sep)  # Windows takes both.
    head, mark, rest = f"{os.sep}{pattern}{os.sep}".partition(f"{os.sep}**{os.sep}")
    if not mark:
        return glob.glob(pattern)
    rest = rest if pattern.endswith(os.sep) else rest.removesuffix(os.sep) or "*"
    found: dict[str, None] = {}
    for base in glob.glob(os.path.join(head[len(os.sep) :] or os.sep, "")) if head else [""]:
        for folder, _ in walk_folders(base or os.curdir):
            below = folder if base else folder[2:]  # without ./
            found |= dict.fromkeys(matching(os.path.join(glob.escape(below), rest)))
    return list(found)
