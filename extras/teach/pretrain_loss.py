"""How far a student's maps are from its teacher's."""

import torch
from torch.nn import functional as F


class PretrainLoss:
    """Mean map_loss over the strides, callable as (student's maps, targets) -> (loss, items [1], detached)."""

    def __init__(self, teacher: torch.nn.Module):
        self.teacher = teacher

    def __call__(self, maps: list, targets: torch.Tensor):
        """maps: [B, C, h, w] for each of the teacher's strides; targets: the images, uint8 [B, 3, H, W] RGB."""
        pairs = zip(maps, self.teacher(targets.float() / 255))
        loss = torch.stack([map_loss(own, wanted) for own, wanted in pairs]).mean()
        return loss, loss.detach()[None]


def map_loss(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """1 - r, averaged over the channels of maps [B, C, h, w]: r is Pearson's correlation over images and places.

    That is half the mean squared error of maps normalised per channel (PKD, arXiv 2207.02039, section 3): what counts
    is where a channel is high and where low, not its scale. A channel that is the same everywhere has r = 0.
    """
    own, wanted = (values.float().transpose(0, 1).flatten(1) for values in (own, wanted))
    own, wanted = (values - values.mean(1, keepdim=True) for values in (own, wanted))
    return 1 - F.cosine_similarity(own, wanted, dim=1).mean()
