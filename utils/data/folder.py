"""Folders that files may be written into: the data set's own, one beside it meanwhile, and the user's cache."""

import os
from pathlib import Path

from utils.general import ROOT


def check_own_folder(folder: Path, where: str) -> None:
    """Check that a data file may have files written into `folder`; ValueError, beginning with `where`, if not.

    Refused are folders that hold the user's or the project's other things: the home folder, the working folder, the
    project's root and its own folders, every folder above these, and hidden ones.
    """
    resolved = folder.resolve()
    for kept in (ROOT.resolve(), Path.home().resolve(), Path.cwd().resolve()):
        if resolved == kept or resolved in kept.parents:
            raise ValueError(_folder_message(where, folder, f"it holds more than a data set ({kept})"))
    hidden = next((part for part in folder.parts if part.startswith(".") and part != ".."), None)
    if hidden:
        raise ValueError(_folder_message(where, folder, f"'{hidden}' is a hidden folder"))
    if resolved.is_relative_to(ROOT.resolve()):
        own = ROOT.resolve() / resolved.relative_to(ROOT.resolve()).parts[0]
        if own.name in ("data", "docs", "weights", "runs") or next(own.rglob("*.py"), None):
            raise ValueError(_folder_message(where, folder, f"{own} belongs to the project"))


def _folder_message(where: str, folder: Path, reason: str) -> str:
    return (
        f"{where}: the data are missing, and nothing is written into 'path' {folder}: {reason}. "
        "Expected a folder of the data set's own, such as ../datasets/NAME"
    )


def working_folder(folder: Path) -> Path:
    """Return the folder that keeps archives and the list of finished URLs until the data set is complete."""
    return folder.with_name(f"{folder.name}.download")


def is_writable(folder) -> bool:
    """Return whether files can be made in `folder`. A folder without any write bit is left alone even by root."""
    try:
        return os.access(folder, os.W_OK) and bool(os.stat(folder).st_mode & 0o222)
    except OSError:
        return False


def user_cache_dir() -> Path:
    """Return the user's folder for files that can be made again: $XDG_CACHE_HOME or ~/.cache, then yolov5-edgevit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov5-edgevit"
