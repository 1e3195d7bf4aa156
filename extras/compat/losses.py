"""Losses of YOLOv5's utils.loss as modules; the training's own are functions of utils/loss.py."""

import torch
from torch import nn


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the targets of a class that is there and of one that is not, with label smoothing."""
    return 1.0 - 0.5 * eps, 0.5 * eps


class BCEBlurWithLogitsLoss(nn.Module):
    """Binary cross-entropy that counts less where the model is sure of what no label says: it may have been missed."""

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        self.alpha = alpha

    def forward(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(pred, true, reduction="none")
        surplus = pred.sigmoid() - true
        return (loss * (1 - torch.exp((surplus - 1) / (self.alpha + 1e-4)))).mean()


class FocalLoss(nn.Module):
    """A binary cross-entropy `loss_fcn` in which easy cases count less (arXiv 1708.02002)."""

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25):
        super().__init__()
        self.loss_fcn, self.gamma, self.alpha = loss_fcn, gamma, alpha
        self.reduction = loss_fcn.reduction
        self.loss_fcn.reduction = "none"

    def forward(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        weight = true * self.alpha + (1 - true) * (1 - self.alpha)
        loss = self.loss_fcn(pred, true) * weight * self.modulation(pred.sigmoid(), true)
        return {"mean": torch.mean, "sum": torch.sum}.get(self.reduction, lambda x: x)(loss)

    def modulation(self, p: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Return the factor of each case for probabilities p."""
        return (1 - (true * p + (1 - true) * (1 - p))) ** self.gamma


class QFocalLoss(FocalLoss):
    """The focal loss for targets between 0 and 1 (arXiv 2006.04388)."""

    def modulation(self, p: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return (true - p).abs() ** self.gamma
