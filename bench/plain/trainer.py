"""Training as a plain loop: forward, loss, backward, every few batches a step of SGD and of the averaged weights.

The model, the loss and the schedule of learning rates are the project's, so that the losses can be compared.
"""

import copy
import math

import numpy as np
import torch
from torch import nn

from bench.plain.data import collate

GRADIENT_NORM = 10.0


class EpochOrder:
    """(epoch, index) of every picture in the random order of the epoch."""

    def __init__(self, count, seed=0):
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self):
        return self.count

    def __iter__(self):
        epoch = self.epoch
        return ((epoch, int(i)) for i in np.random.default_rng([self.seed, epoch]).permutation(self.count))


class PlainTrainer:
    def __init__(self, model, criterion, schedule, dataset, batch_size, hyp, decay, workers):
        self.model, self.criterion, self.schedule, self.hyp = model, criterion, schedule, hyp
        self.order = EpochOrder(len(dataset))
        self.loader = torch.utils.data.DataLoader(
            dataset,
            batch_size,
            sampler=self.order,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
        )
        biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
        norms = [p for name, p in model.named_parameters() if not name.endswith("bias") and p.ndim <= 1]
        weights = [p for p in model.parameters() if not any(p is other for other in biases + norms)]
        groups = [{"params": biases}, {"params": norms}, {"params": weights, "weight_decay": decay}]
        self.optimizer = torch.optim.SGD(groups, lr=hyp["lr0"], momentum=hyp["momentum"], nesterov=True)
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = self.pending = 0

    def epoch(self):
        """Train one; the mean of each loss term."""
        self.model.train()
        terms, batches = [], len(self.loader)
        for i, (images, targets) in enumerate(self.loader):
            settings = self.schedule.at(self.order.epoch * batches + i)
            for group, lr in zip(self.optimizer.param_groups, settings.lrs):
                group["lr"], group["momentum"] = lr, settings.momentum
            loss, items = self.criterion(self.model(images.float() / 255), targets)
            loss.backward()
            terms.append(items)
            self.pending += 1
            if self.pending >= settings.accumulate or i + 1 == batches:
                self.step()
        self.order.epoch += 1
        return torch.stack(terms).mean(0)

    def step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pending = 0
        self.updates += 1
        decay = self.hyp["ema_decay"] * (1 - math.exp(-self.updates / self.hyp["ema_tau"]))
        values = self.model.state_dict()
        for name, average in self.average.state_dict().items():
            if average.is_floating_point():
                average.mul_(decay).add_(values[name].detach(), alpha=1 - decay)
            else:
                average.copy_(values[name])
