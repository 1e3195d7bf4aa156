"""The confidence threshold of each class that reaches an aim, and how far it and its figures can be trusted.

Intervals are those of extras.compare.bootstrap. A threshold that was chosen on some images does better on them than
on others: that optimism is measured on resamples (Efron, 1983), and the aim is raised by it.
"""

from dataclasses import dataclass

import numpy as np

from extras.compare.bootstrap import Interval, interval
from utils.metrics import AREAS_PX2, coco_matches, concatenate

MIN_BOXES = 10  # that a threshold leaves of a class (a quarter of few targets), as fewer say little about a promise
MIN_TARGETS = 10  # with fewer of them a class takes the threshold of all classes together
CHUNK = 2**22  # numbers in the largest arrays
DECIMALS = 6  # of a threshold
SAME = 1e-12  # shares that differ by no more are equal


@dataclass(frozen=True)
class Aim:
    """The figure that a threshold is chosen by: the best F1, or the least precision or recall."""

    figure: str = "F1"  # or precision, recall
    least: float | None = None  # 0 to 1; None: the best

    def __str__(self):
        return f"{self.figure} {self.least:g}" if self.least is not None else f"best {self.figure}"


@dataclass(frozen=True)
class ClassBoxes:
    """The boxes found of one class, by falling confidence, and the number of its true ones."""

    confidence: np.ndarray  # [n]
    correct: np.ndarray  # bool [n]: it finds a target, IoU 0.5
    image: np.ndarray  # [n] number of its image
    n_targets: np.ndarray  # int [images]

    @property
    def targets(self) -> int:
        return int(self.n_targets.sum())


@dataclass(frozen=True)
class Choice:
    """The threshold of one class and the figures above it. The counts are those of the sample and its resamples."""

    conf: Interval
    precision: Interval
    recall: Interval
    f1: Interval
    targets: int
    reached: bool  # whether the aim is; else it is the nearest
    counts: np.ndarray  # [3, 1 + resamples]: right boxes, boxes, targets


def boxes_by_class(predictions: list, truths: list, nc: int) -> list[ClassBoxes]:
    """Return the ClassBoxes of each of `nc` classes, from the images' predictions [n, 6] and true boxes [m, 5]."""
    found, image = concatenate(predictions, 6)
    true, image_of_true = concatenate(truths, 5)
    found, true = found.astype(float), true.astype(float)
    classes = []
    for cls in range(nc):
        mine, own = np.flatnonzero(found[:, 5] == cls), true[:, 0] == cls
        pair = found[mine, :4], image[mine], true[own, 1:], image_of_true[own]
        target = coco_matches(*pair, AREAS_PX2[:1])[:, 0, 0]
        order = np.argsort(-found[mine, 4], kind="stable")
        n_targets = np.bincount(image_of_true[own], minlength=len(predictions))
        classes.append(ClassBoxes(found[mine, 4][order], target[order] >= 0, image[mine][order], n_targets))
    return classes


def together(classes: list[ClassBoxes]) -> ClassBoxes:
    """Return the boxes of all classes as those of one."""
    order = np.argsort(-np.concatenate([boxes.confidence for boxes in classes]), kind="stable")
    columns = (
        np.concatenate([getattr(b, name) for b in classes])[order] for name in ("confidence", "correct", "image")
    )
    return ClassBoxes(*columns, sum(boxes.n_targets for boxes in classes))


def choose(boxes: ClassBoxes, aim: Aim, weights: np.ndarray) -> Choice:
    """Return the choice for one class. weights: int [images, 1 + resamples], of bootstrap.sample_weights()."""
    last = np.flatnonzero(np.diff(-boxes.confidence, append=1))  # the last box of each confidence
    if not len(last) or not boxes.targets:
        raise ValueError("expected boxes and targets to choose a threshold by, found none")
    cuts = _cuts(boxes.confidence[last])
    is_enough = last + 1 >= min(MIN_BOXES, boxes.targets / 4, len(boxes.confidence))
    last, cuts = last[is_enough], cuts[is_enough]
    rows, optimism = _rows(boxes, last, aim, weights)
    if aim.least is not None and optimism > 0:
        rows, _ = _rows(boxes, last, Aim(aim.figure, min(aim.least + optimism, 1.0)), weights)
    counts = _counts_at(boxes, last[rows[0]] + 1, weights)
    precision, recall, f1 = (share_interval(values) for values in figures_of(*counts))
    reached = aim.least is None or {"precision": precision, "recall": recall}[aim.figure].value >= aim.least - SAME
    return Choice(share_interval(cuts[rows]), precision, recall, f1, boxes.targets, bool(reached), counts)


def choice_at(boxes: ClassBoxes, conf: Interval, weights: np.ndarray) -> Choice:
    """Return the figures of a threshold that was chosen elsewhere."""
    counts = _counts_at(boxes, int((boxes.confidence > conf.value).sum()), weights)
    return Choice(conf, *map(share_interval, figures_of(*counts)), boxes.targets, False, counts)


def figures_of(found, seen, targets) -> tuple:
    """Return precision, recall and F1 of counts, which are arrays of one shape; nan where there is nothing to count."""
    pairs = (found, seen), (found, targets), (2 * found, seen + targets)
    return tuple(np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0) for a, b in pairs)


def share_interval(values: np.ndarray) -> Interval:
    """Return the interval of a share, which stays between 0 and 1."""
    known = interval(values)
    return Interval(known.value, *np.clip([known.low, known.high], 0, 1).tolist())


def _cuts(confidence: np.ndarray) -> np.ndarray:
    """Return a threshold below each of the falling confidences [k] and above the next one."""
    return np.round((confidence + np.append(confidence[1:], 0)) / 2, DECIMALS)


def _counts_at(boxes: ClassBoxes, kept: int, weights: np.ndarray) -> np.ndarray:
    """Return right boxes, boxes and targets [3, r] of the first `kept` boxes in each sample."""
    weight = weights[boxes.image[:kept]]
    return np.stack([weight[boxes.correct[:kept]].sum(0), weight.sum(0), boxes.n_targets @ weights]).astype(float)


def _rows(boxes: ClassBoxes, last: np.ndarray, aim: Aim, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the row [r] among `last` that each sample would choose, and by how much its figure is too high there."""
    rows, gaps = [], []
    step = max(CHUNK // len(boxes.image), 1)
    on_all = _figure(boxes, last, aim, weights[:, :1])[:, 0]
    for start in range(0, weights.shape[1], step):
        figure = _figure(boxes, last, aim, weights[:, start : start + step])
        chosen = _first_rows(figure, aim)
        rows.append(chosen)
        gaps.append(figure[chosen, np.arange(len(chosen))] - on_all[chosen])
    rows, gaps = np.concatenate(rows), np.concatenate(gaps)[1:]
    return rows, float(np.nanmean(gaps)) if np.isfinite(gaps).any() else 0.0


def _figure(boxes: ClassBoxes, last: np.ndarray, aim: Aim, weights: np.ndarray) -> np.ndarray:
    """Return the aim's figure [k, r] when the boxes up to each of `last` are kept."""
    weight = weights[boxes.image]
    found, seen = ((weight * chosen).cumsum(0)[last].astype(float) for chosen in (boxes.correct[:, None], 1))
    targets = np.broadcast_to((boxes.n_targets @ weights).astype(float), found.shape)
    return dict(zip(("precision", "recall", "F1"), figures_of(found, seen, targets)))[aim.figure]


def _first_rows(figure: np.ndarray, aim: Aim) -> np.ndarray:
    """Return the row [r] of a figure [k, r] that the aim asks for; the best one where none is as good.

    For precision the lowest threshold that has it, for recall the highest.
    """
    figure = np.where(np.isnan(figure), -1, figure)
    best = figure.argmax(0)
    if aim.least is None:
        return best
    enough = figure >= aim.least - SAME
    row = enough.argmax(0) if aim.figure == "recall" else len(figure) - 1 - enough[::-1].argmax(0)
    return np.where(enough.any(0), row, best)
