"""The classification loss."""

from torch.nn import functional as F


class ClassificationLoss:
    """Mean cross-entropy, callable as (logits, targets) -> (loss, items [1], detached).

    Reads label_smoothing, if it is there, of model.hyp at every call.
    """

    def __init__(self, model):
        self.model = model

    def __call__(self, logits, targets):
        """logits [B, nc]; targets: class numbers int64 [B], or a share of each class, float [B, nc]."""
        smoothing = (self.model.hyp or {}).get("label_smoothing", 0.0)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        return loss, loss.detach()[None]
