"""The order of an epoch's images, and the loader that makes batches of them.

Nothing is random but by (seed, epoch, index): any number of workers, and a run that was resumed, give the same batches.
"""

import os
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from utils.dist import world_size
from utils.general import usable_cores


class EpochSampler(Sampler):
    """A sampler of (epoch, index) in an order that depends on the seed and the epoch alone, the same on every rank.

    Under DDP every rank gets an equal share; images are repeated where they do not divide evenly. With `rect`, only
    whole batches are shuffled and shared out, as a batch has one shape; an incomplete batch stays last.
    """

    def __init__(self, n: int, batch_size: int, shuffle: bool, rect: bool = False, seed: int = 0, rank: int = -1):
        self.n, self.batch_size, self.shuffle, self.rect, self.seed = n, batch_size, shuffle, rect, seed
        self.rank, self.ranks = max(rank, 0), world_size() if rank != -1 else 1
        self.epoch, self.image_weights = 0, None
        self.limit = None  # images in an epoch of all ranks, None for all
        self.view = None  # in the place of the epoch in the keys, None for the epoch itself

    def set_epoch(self, epoch: int, image_weights=None, view=None) -> None:
        """Set the epoch whose order is yielded from now on.

        image_weights: [n] how often to draw each image, relatively; None takes each once.
        view: the epoch whose augmentation the images get; their order is that of `epoch`.
        """
        self.epoch, self.image_weights, self.view = epoch, image_weights, view

    def __len__(self) -> int:
        most = self.n if self.limit is None else min(self.limit, self.n)
        if self.rect and self.ranks > 1:
            batches = -(-most // self.batch_size)
            return -(-batches // self.ranks) * self.batch_size
        return -(-most // self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch if self.view is None else self.view
        return ((epoch, int(index)) for index in self._order()[: len(self)])

    def _order(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.rect:
            return self._order_of_batches(rng)
        if self.image_weights is not None:
            weights = np.asarray(self.image_weights, np.float64)
            order = rng.choice(self.n, self.n, p=weights / weights.sum())
        else:
            order = rng.permutation(self.n) if self.shuffle else np.arange(self.n)
        padded = -(-self.n // self.ranks) * self.ranks
        return np.resize(order, padded)[self.rank :: self.ranks]

    def _order_of_batches(self, rng) -> np.ndarray:
        full = self.n // self.batch_size * self.batch_size
        batches, rest = np.arange(full).reshape(-1, self.batch_size), np.arange(full, self.n)
        if self.ranks > 1 and len(rest):  # fill the last batch up with its own images
            batches, rest = np.concatenate([batches, np.resize(rest, (1, self.batch_size))]), rest[:0]
        if self.shuffle:
            batches = rng.permutation(batches)
        padded = -(-len(batches) // self.ranks) * self.ranks
        batches = batches[np.arange(padded) % max(len(batches), 1)]
        return np.concatenate([batches[self.rank :: self.ranks].ravel(), rest])


def epoch_loader(dataset, batch_size: int, workers: int = 8, collate=None, shuffle=False, **order) -> DataLoader:
    """Return a loader whose sampler is an EpochSampler; call loader.sampler.set_epoch(epoch) before each epoch.

    batch_size: the rank's; collate: default dataset.collate_fn; order: rect, seed and rank of EpochSampler.
    """
    batch_size = min(batch_size, len(dataset))
    workers = min(workers, usable_cores(), -(-len(dataset) // batch_size))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), batch_size, shuffle, **order),
        num_workers=workers,
        collate_fn=collate or dataset.collate_fn,
        pin_memory=torch.cuda.is_available() and os.environ.get("PIN_MEMORY", "true").lower() == "true",
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # The loader draws a seed from it, and so leaves the global state alone.
    )


def _start_worker(_worker_id: int) -> None:
    cv2.setNumThreads(0)  # The workers share the cores already.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too, and the main process ends them.
