"""Several data sets as one: a data file with `sets`, where a picture answers only for the classes that its set labels.

LVIS (arXiv 1908.03195, section 3) calls such data federated: what a set does not label may be in its pictures all the
same, so it is neither learned as background nor counted as a false positive there.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.console.text import brief, did_you_mean
from utils.data.store import LabelScan, join_scans

SPLITS = ("train", "val", "test")
ALL = "all"  # as classes_known: whatever a picture does not label is not in it


@dataclass(frozen=True)
class SetPart(os.PathLike):
    """The pictures of a split of one set: `path`, and the meaning of their labels in the whole."""

    path: str
    classes: tuple[int, ...]  # the whole's class of each of the set's own
    known: tuple[bool, ...]  # [nc] whether every object of a class of the whole is labelled

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path


class KnownClasses:
    """Which classes each picture of a data set answers for."""

    def __init__(self, files: Iterable[str], groups: np.ndarray, masks: torch.Tensor):
        self.group_of = dict(zip(files, groups.tolist()))
        self.groups = groups  # [N] of each picture, a row of `masks`
        self.masks = masks  # bool [groups, nc]

    def of(self, files: Sequence[str]) -> torch.Tensor:
        """Return bool [len(files), nc], on the CPU."""
        return self.masks[[self.group_of[file] for file in files]]

    def alike(self, index: int) -> np.ndarray:
        """Return the numbers of the pictures that answer for the same classes as picture `index`."""
        return np.flatnonzero(self.groups == self.groups[index])

    def append(self, files: Sequence[str]) -> None:
        """Add pictures that answer for every class."""
        self.group_of |= dict.fromkeys(files, len(self.masks))
        self.groups = np.append(self.groups, np.full(len(files), len(self.masks)))
        self.masks = torch.cat([self.masks, torch.ones_like(self.masks[:1])])

    def reorder(self, order: np.ndarray) -> None:
        """Follow the pictures into another order."""
        self.groups = self.groups[order]


def join_sets(config: dict[str, Any], where: str, folder: Path, check: Callable[[str | Path], dict]) -> dict[str, Any]:
    """Return names, nc and the splits (lists of SetPart, None for one that no set has) of a data file with `sets`.

    folder: where the set's files are looked for first; check: reads and checks one of them. ValueError for a wrong
    entry.
    """
    wrong = [key for key in ("path", *SPLITS, "nc", "download", "draw") if config.get(key)]
    if wrong:
        raise ValueError(
            f"{where}: 'sets' names files that have '{wrong[0]}' of their own, found '{wrong[0]}' beside it"
        )
    entries = [_entry(entry, where) for entry in _as_list(config["sets"], "sets", where)]
    checked = [check(folder / file if (folder / file).is_file() else file) for file, _ in entries]
    meanings = _meanings(config.get("same") or {}, where)
    used: set[str] = set()
    own = [[_meaning(Path(file).stem, name, meanings, used) for name in one["names"].values()]
           for (file, _), one in zip(entries, checked)]  # fmt: skip
    unused = sorted(set(meanings) - used)
    if unused:
        hint = did_you_mean(unused[0], {name for one in checked for name in one["names"].values()})
        raise ValueError(f"{where}: 'same' has '{unused[0]}', which is no class of any set{hint}")
    names = _all_names(config.get("names"), own, where)
    numbers = {name: i for i, name in enumerate(names)}
    known = [_known(entry, classes, numbers, where) for (_, entry), classes in zip(entries, own)]
    splits: dict[str, list[SetPart] | None] = {}
    for split in SPLITS:
        parts = [
            SetPart(path, tuple(numbers[name] for name in classes), mask)
            for one, classes, mask in zip(checked, own, known)
            for path in _as_list(one[split] or [], split, where)
        ]
        splits[split] = parts or None
    return {"names": dict(enumerate(names)), "nc": len(names), **splits}


def _as_list(value: Any, key: str, where: str) -> list:
    if isinstance(value, (str, dict)):
        return [value]
    if not isinstance(value, list):
        raise ValueError(f"{where}: '{key}' must be a list, found {brief(value)}")
    return value


def _entry(entry: Any, where: str) -> tuple[str, Any]:
    """Return (data file, classes_known) of an entry of `sets`: a file name, or a mapping with these."""
    if isinstance(entry, str):
        return entry, []
    if isinstance(entry, dict) and isinstance(entry.get("data"), str) and set(entry) <= {"data", "classes_known"}:
        return entry["data"], entry.get("classes_known") or []
    raise ValueError(f"{where}: 'sets': expected a data file, or 'data' with 'classes_known', found {brief(entry)}")


def _meanings(same: Any, where: str) -> dict[str, str]:
    """Return class of a set -> class of the whole, by `same`: {class of the whole: [classes of sets]}."""
    if not isinstance(same, dict) or not all(isinstance(names, list) for names in same.values()):
        raise ValueError(f"{where}: 'same' must be a mapping of a class to the list of its other names")
    meanings: dict[str, str] = {}
    for whole, names in same.items():
        for name in map(str, names):
            if meanings.setdefault(name, str(whole)) != str(whole):
                raise ValueError(f"{where}: 'same' has '{name}' under '{meanings[name]}' and under '{whole}'")
    return meanings


def _meaning(stem: str, name: str, meanings: dict[str, str], used: set[str]) -> str:
    """Return what a class of the set STEM.yaml is called in the whole: by STEM/NAME, else by its name."""
    for key in (f"{stem}/{name}", name):
        if key in meanings:
            used.add(key)
            return meanings[key]
    return name


def _all_names(names: Any, own: list[list[str]], where: str) -> list[str]:
    """Return the classes of all sets: in the order of `names` if there are any, else as they come."""
    found = list(dict.fromkeys(name for classes in own for name in classes))
    if names is None:
        return found
    wanted = [str(name) for name in (names.values() if isinstance(names, dict) else _as_list(names, "names", where))]
    odd = sorted(set(wanted) ^ set(found))
    if odd or len(wanted) != len(set(wanted)):
        reason = f"'{odd[0]}' is in one of the two" if odd else "a name is repeated"
        raise ValueError(f"{where}: 'names' must be the classes of the sets in the order that is wanted: {reason}")
    return wanted


def _known(extra: Any, classes: list[str], numbers: dict[str, int], where: str) -> tuple[bool, ...]:
    """Return [nc] whether a set labels each class of the whole: its own, and those of its classes_known."""
    extra = list(numbers) if extra == ALL else [str(name) for name in _as_list(extra, "classes_known", where)]
    for name in extra:
        if name not in numbers:
            hint = did_you_mean(name, numbers)
            raise ValueError(f"{where}: 'classes_known' has '{name}', which is no class of any set{hint}")
    return tuple(name in classes or name in extra for name in numbers)


def scan_parts(paths: Sequence, scan: Callable[[Any, int | None], LabelScan], nc: int | None) -> tuple:
    """Return (the LabelScan of all paths, KnownClasses), the latter None where every picture answers for every class.

    scan(path, classes) reads one part. Paths that are no SetPart are read in one go; then nothing is new.
    """
    parts = [path for path in paths if isinstance(path, SetPart)]
    if not parts:
        return scan(paths, nc), None
    scans = []
    for part in parts:
        one = scan([part.path], len(part.classes))
        one.labels.values[:, 0] = np.array(part.classes)[one.labels.values[:, 0].astype(int)]
        scans.append(one)
    whole = reduce(join_scans, scans)
    masks = sorted({part.known for part in parts})
    if nc is None or masks == [(True,) * nc]:
        return whole, None
    groups = np.repeat([masks.index(part.known) for part in parts], [len(one.im_files) for one in scans])
    return whole, KnownClasses(whole.im_files, groups, torch.tensor(masks))
