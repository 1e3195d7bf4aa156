"""The classification loss."""

from torch.nn import functional as F


class ClassificationLoss:
    """Mean cross-entropy, callable as (logits, targets) -> (loss, items [1], detached).

    hyp: has label_smoothing, 0 by default; None is taken for an empty one.
    """

    def __init__(self, hyp: dict | None):
        self.label_smoothing = (hyp or {}).get("label_smoothing", 0.0)

    def __call__(self, logits, targets):
        """logits [B, nc]; targets: class numbers int64 [B], or a share of each class, float [B, nc]."""
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
        return loss, loss.detach()[None]
