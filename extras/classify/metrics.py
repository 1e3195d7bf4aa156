"""Scores of a classifier in numpy: top-1 and top-5 accuracy, by class too, the confusion matrix, the worst mistakes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TOP = 5
ROUNDING = 1e-2  # error of a sum of probabilities in half precision


class Mistake(NamedTuple):
    """An image that was taken for another class with this confidence (0..1)."""

    path: str
    true: int
    predicted: int
    confidence: float


@dataclass
class ClassificationResult:
    """The result of ClassificationMetrics.compute(); accuracies are 0..1, and of no image 0 (in arrays nan)."""

    top1: float
    top5: float  # true class among the min(5, nc) most likely ones
    images: int
    counts: np.ndarray  # [nc] images of each class
    top1_per_class: np.ndarray  # [nc]
    top5_per_class: np.ndarray  # [nc]
    matrix: np.ndarray  # [nc, nc] images by predicted (row) and true (column) class
    worst: list  # the most confident Mistakes, falling

    @property
    def fitness(self) -> float:
        return (self.top1 + self.top5) / 2


class ClassificationMetrics:
    """Collects predictions batch by batch, then scores them. `worst`: how many mistakes to keep."""

    def __init__(self, nc: int, worst: int = 16):
        self.nc, self.n_worst = nc, worst
        self.reset()

    def __len__(self) -> int:
        """Images seen."""
        return int(self.matrix.sum())

    def reset(self) -> None:
        self.matrix = np.zeros((self.nc, self.nc), np.int64)
        self.top5_hits = np.zeros(self.nc, np.int64)
        self.worst = []

    def update(self, predictions, targets, paths=None) -> None:
        """Add a batch: logits or probabilities [B, nc], class numbers [B], files [B] (for the worst mistakes).

        Of equally likely classes the first one counts as predicted. ValueError for values that are not finite.
        """
        predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets, np.int64)
        if predictions.shape != (len(targets), self.nc):
            raise ValueError(f"expected predictions [{len(targets)}, {self.nc}], found {list(predictions.shape)}")
        if not np.isfinite(predictions).all():
            raise ValueError("expected finite predictions, found nan or infinity")
        order = np.argsort(-predictions, axis=1, kind="stable")[:, :TOP]
        predicted = order[:, 0]
        np.add.at(self.matrix, (predicted, targets), 1)
        np.add.at(self.top5_hits, targets[(order == targets[:, None]).any(1)], 1)
        wrong = np.flatnonzero(predicted != targets)
        confidence = probabilities(predictions)[wrong, predicted[wrong]]
        rows = zip(wrong.tolist(), targets[wrong].tolist(), predicted[wrong].tolist(), confidence.tolist())
        mistakes = [Mistake(str(paths[i]) if paths is not None else "", *row) for i, *row in rows]
        self.worst = sorted([*self.worst, *mistakes], key=lambda mistake: -mistake.confidence)[: self.n_worst]

    def compute(self) -> ClassificationResult:
        counts, hits = self.matrix.sum(0), self.matrix.diagonal()
        total = max(int(counts.sum()), 1)
        of_class = np.where(counts == 0, np.nan, counts)
        return ClassificationResult(
            top1=float(hits.sum() / total),
            top5=float(self.top5_hits.sum() / total),
            images=len(self),
            counts=counts,
            top1_per_class=hits / of_class,
            top5_per_class=self.top5_hits / of_class,
            matrix=self.matrix.copy(),
            worst=list(self.worst),
        )


def probabilities(predictions: np.ndarray) -> np.ndarray:
    """Softmax over the classes of logits [B, nc]; what is probabilities already stays as it is."""
    if (predictions >= 0).all() and np.allclose(predictions.sum(1), 1, atol=ROUNDING):
        return predictions
    return softmax(predictions)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [B, nc] of logits [B, nc]."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
