"""How far a student's maps are from its teacher's."""

import torch
from torch.nn import functional as F


class PretrainLoss:
    """Mean map_loss over the strides, callable as (student's maps, targets) -> (loss, items [1], detached)."""

    def __init__(self, teacher: torch.nn.Module):
        self.teacher = teacher

    def __call__(self, maps: list, targets: torch.Tensor):
        """targets: the images, uint8 [B, 3, H, W] RGB; a fourth channel is not 0 where the student was shown grey,
        and then only these places count.
        """
        terms = []
        for own, wanted, stride in zip(maps, self.teacher(targets[:, :3].float() / 255), self.teacher.strides):
            hidden = targets[:, 3, ::stride, ::stride].flatten() > 0 if targets.shape[1] > 3 else slice(None)
            terms.append(map_loss(_rows(own)[:, hidden], _rows(wanted)[:, hidden]))
        loss = torch.stack(terms).mean()
        return loss, loss.detach()[None]


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> float32 [C, B * h * w]"""
    return maps.float().permute(1, 0, 2, 3).flatten(1)


def map_loss(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """1 - r, averaged over the channels: r is Pearson's correlation of own and wanted [C, N] over the N places.

    That is half the mean squared error of maps normalised per channel (PKD, arXiv 2207.02039, section 3): what counts
    is where a channel is high and where low, not its scale. A channel that is the same everywhere has r = 0.
    """
    own, wanted = (values - values.mean(1, keepdim=True) for values in (own, wanted))
    return 1 - F.cosine_similarity(own, wanted, dim=1).mean()
