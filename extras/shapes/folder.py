"""Folders of drawn data: complete or not there, drawn anew when the options change, nobody else's files touched."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from utils.console.text import brief

SPLITS = ("train", "val", "test")
MANIFEST = "drawn.json"  # in the folder: the options that it was drawn with


def check_options(wanted: dict, least: dict) -> None:
    """ValueError unless each option is an integer of at least `least`, by default 0."""
    for key, value in wanted.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least.get(key, 0):
            expected = f"an integer of at least {least.get(key, 0)}"
            raise ValueError(f"drawing shapes: '{key}' must be {expected}, found {brief(value)}")


def keep_drawn(folder, wanted: dict, draw_files, file_names) -> None:
    """Draw into `folder` what the options `wanted` say, unless exactly that is there already.

    A folder that was drawn with other options is drawn anew; files that are not from here stay untouched. Interruption
    at any moment leaves no folder that looks complete.

    Args:
        wanted: drawn_by, version, the number of pictures for each of SPLITS, and more; it is stored as MANIFEST.
        draw_files: (empty folder, options): draws all files of the options.
        file_names: (options) -> the set of their names below the folder.

    Raises:
        FileExistsError: `folder` has content, but not from here.
    """
    folder = Path(folder)
    if _read_manifest(folder, wanted["drawn_by"]) == wanted:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp") as temp:
        new = Path(temp) / folder.name
        new.mkdir()
        draw_files(new, wanted)
        (new / MANIFEST).write_text(json.dumps(wanted) + "\n")
        found = _read_manifest(folder, wanted["drawn_by"])  # again: another process may have drawn meanwhile
        if found is None:
            _move_into_place(new, folder, wanted)
        elif found != wanted:
            _replace_files(new, folder, found, wanted, file_names)


def _read_manifest(folder: Path, drawn_by: str) -> dict | None:
    """Return the options that `folder` was drawn with, None if it is empty; FileExistsError if others made it."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["drawn_by"] == drawn_by:
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no manifest, or somebody else's
    problem = f"exists and has no {MANIFEST} of this project, so it was not drawn by it"
    raise FileExistsError(f"{folder} {problem}; move it away, or give another 'path' in the data file")


def _move_into_place(new: Path, folder: Path, wanted: dict) -> None:
    try:
        os.replace(new, folder)
    except OSError:
        if _read_manifest(folder, wanted["drawn_by"]) != wanted:  # equal: another process was faster by an instant
            raise


def _replace_files(new: Path, folder: Path, found: dict, wanted: dict, file_names) -> None:
    """Put the files of `new` in the place of those that `found` says were drawn before."""
    both = {**found, **{split: max(found[split], wanted[split]) for split in SPLITS}, "complete": False}
    unfinished = new / f"{MANIFEST}.tmp"
    unfinished.write_text(json.dumps(both) + "\n")
    os.replace(unfinished, folder / MANIFEST)  # from here on, an interrupted call is made good by the next one
    for name in sorted(file_names(both) - file_names(wanted)):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(file_names(wanted)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)
    os.replace(new / MANIFEST, folder / MANIFEST)
