"""The pictures of a training run. Drawing libraries are imported when something is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BATCHES_DRAWN = 3


def draw_labels(labels: list, names: dict[int, str], folder: Path) -> None:
    """labels.jpg from each image's [n, 5] class, xywh (normalised)."""
    from utils.plots.pictures import plot_labels

    plot_labels(np.concatenate(list(labels)), names, folder)


def draw_train_batch(task, iteration: int, images, targets, paths, names: dict[int, str], folder: Path) -> None:
    """train_batch0.jpg to train_batch2.jpg: the first batches as the model sees them, with their targets [n, 6]."""
    if iteration < BATCHES_DRAWN:
        task.plot_batch(images, targets, paths, folder / f"train_batch{iteration}.jpg", names)


def draw_results(results_csv: Path) -> None:
    """results.png from results.csv."""
    from utils.plots.pictures import plot_results

    plot_results(results_csv)
