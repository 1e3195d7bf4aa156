"""The cost of a detector's errors: an own version of the idea of TIDE (arXiv 2008.08115, section 2.2).

At IoU 0.5, with the matching of COCO, each false positive is of the first kind that fits, and each target that is not
found and that no class or location error belongs to is missed:

    duplicate    it overlaps a target of its class by 0.5 or more (another prediction has that target)
    class        it overlaps a target of another class by 0.5 or more
    location     it overlaps a target of its class by 0.1 or more
    both         it overlaps a target of another class by 0.1 or more
    background   none of these
"""

from dataclasses import dataclass

import numpy as np

from extras.compare.matching import class_ap
from utils.boxes import box_iou
from utils.console.text import aligned

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU
KINDS = ("class", "location", "both", "duplicate", "background", "missed")
CORRECT = len(KINDS)  # in the place of the number of a kind


@dataclass
class ErrorSplit:
    """The number of errors of each of KINDS, and the AP50 that is gained when that kind alone is repaired."""

    map50: float
    counts: dict
    gains: dict


@dataclass
class _Rows:
    """All predictions (kind, target or -1, class, confidence: [n]) and the class of each target [m]."""

    kind: np.ndarray
    target: np.ndarray
    cls: np.ndarray
    confidence: np.ndarray
    target_class: np.ndarray


def error_split(matches: list) -> ErrorSplit:
    """Split the errors of the images of extras.compare.matching.match_images().

    Repairing a class or location error makes it a true positive; of several that belong to one target the most
    confident counts and the others are removed. Errors of other kinds are removed, missed targets no longer counted.
    """
    rows = _collect(matches)
    explained = rows.target[np.isin(rows.kind, [CORRECT, KINDS.index("class"), KINDS.index("location")])]
    missed = np.setdiff1d(np.arange(len(rows.target_class)), explained)
    counts = {kind: int((rows.kind == i).sum()) for i, kind in enumerate(KINDS)} | {"missed": len(missed)}
    map50 = _map50(rows)
    gains = {kind: _map50(*_repaired(rows, kind, missed)) - map50 for kind in KINDS}
    return ErrorSplit(map50, counts, gains)


def find_errors(image) -> tuple:
    """Return each prediction's number [n] in KINDS, or CORRECT, and its target [n], or -1, in an ImageMatches."""
    found, targets = image.predictions, image.targets
    if len(targets) == 0:
        return np.full(len(found), KINDS.index("background")), np.full(len(found), -1)
    iou = box_iou(found[:, :4], targets[:, 1:], eps=1e-300)
    same = found[:, 5:6] == targets[None, :, 0]
    own, other = np.where(same, iou, 0), np.where(same, 0, iou)
    tests = {
        "duplicate": own.max(1) >= FOREGROUND,
        "class": other.max(1) >= FOREGROUND,
        "location": own.max(1) >= BACKGROUND,
        "both": other.max(1) >= BACKGROUND,
    }
    kind = np.select(list(tests.values()), [KINDS.index(name) for name in tests], KINDS.index("background"))
    kind[image.target[:, 0] >= 0] = CORRECT
    stands_for = {"class": other.argmax(1), "location": own.argmax(1)}
    target = image.target[:, 0].copy()
    for name, nearest in stands_for.items():
        target = np.where(kind == KINDS.index(name), nearest, target)
    return kind, target


def _collect(matches: list) -> _Rows:
    """Return the rows of all images, by falling confidence; targets are numbered through."""
    kinds, targets, first = [np.zeros(0, int)], [np.zeros(0, int)], 0
    for image in matches:
        kind, target = find_errors(image)
        kinds.append(kind)
        targets.append(np.where(target >= 0, target + first, -1))
        first += len(image.targets)
    found = np.concatenate([np.zeros((0, 6)), *(image.predictions for image in matches)])
    target_class = np.concatenate([np.zeros(0), *(image.targets[:, 0] for image in matches)]).astype(int)
    order = np.argsort(-found[:, 4], kind="stable")
    kind, target = np.concatenate(kinds)[order], np.concatenate(targets)[order]
    return _Rows(kind, target, found[order, 5].astype(int), found[order, 4], target_class)


def _repaired(rows: _Rows, kind: str, missed) -> tuple:
    """Return the rows with one kind of error repaired, and the targets that no longer count."""
    if kind == "missed":
        return rows, missed
    chosen = rows.kind == KINDS.index(kind)
    kept, new_kind, cls = ~chosen, rows.kind, rows.cls
    if kind in ("class", "location"):
        claims = np.flatnonzero(chosen | (rows.kind == CORRECT))
        _, first = np.unique(rows.target[claims], return_index=True)
        winners = claims[first]
        kept[claims] = False
        kept[winners] = True
        new_kind, cls = rows.kind.copy(), rows.cls.copy()
        new_kind[winners], cls[winners] = CORRECT, rows.target_class[rows.target[winners]]
    return _Rows(new_kind[kept], rows.target[kept], cls[kept], rows.confidence[kept], rows.target_class), ()


def _map50(rows: _Rows, not_asked=()) -> float:
    """Return mAP50 over the targets' classes; 1 for a class that needs no target any more, 0 without targets."""
    asked = np.delete(rows.target_class, np.asarray(not_asked, int))
    aps = []
    for cls in np.unique(rows.target_class):
        n_targets, chosen = (asked == cls).sum(), rows.cls == cls
        correct = (rows.kind[chosen] == CORRECT)[:, None]
        once = np.ones((1, 1), np.int32)
        ap = class_ap(np.zeros(len(correct), int), correct, np.array([n_targets]), once)[0, 0] if n_targets else 1.0
        aps.append(ap)
    return float(np.mean(aps)) if aps else 0.0


def error_lines(split: ErrorSplit) -> list:
    """Return a table with a row for each kind: how many, and the AP50 that they cost."""
    rows = [(kind, split.counts[kind], f"{split.gains[kind]:.3f}") for kind in KINDS]
    return aligned([("Error", "Number", "AP50 gained"), *rows]).splitlines()
