"""extras/teach/pretrain_loss.py: correlation of maps, and which places count."""

import numpy as np
import pytest
import torch
from torch import nn

from extras.teach.pretrain_loss import PretrainLoss, map_loss

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 3, 4, 5, 6, generator=GENERATOR)  # maps of 3 images with 4 channels


def channels(maps) -> np.ndarray:
    """[4, 3 * 5 * 6]"""
    return np.concatenate(list(maps.flatten(2).numpy()), axis=1)


def test_map_loss_is_one_minus_pearsons_r():
    expected = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(channels(A), channels(B))])
    assert map_loss(A, B).item() == pytest.approx(expected, abs=1e-6)


def test_map_loss_is_half_the_error_of_normalised_maps():
    a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (channels(A), channels(B)))
    assert map_loss(A, B).item() == pytest.approx(((a - b) ** 2).mean() / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        (A, A, 0.0),
        (A, A * 7 - 3, 0.0),  # neither scale nor offset counts
        (A, -A, 2.0),
        (A, torch.ones_like(A), 1.0),  # a channel that is the same everywhere
        (torch.zeros_like(A), A, 1.0),
    ],
)
def test_map_loss(own, wanted, expected):
    assert map_loss(own, wanted).item() == pytest.approx(expected, abs=1e-5)


def test_gradients_are_finite_where_a_channel_is_constant():
    own = torch.zeros_like(A, requires_grad=True)
    map_loss(own, torch.ones_like(A)).backward()
    assert torch.isfinite(own.grad).all()


class Brightness(nn.Module):
    """A teacher with one map of stride 8: the mean colour of each place."""

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, 8)]


def test_targets_go_through_the_teacher():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
    criterion = PretrainLoss(Brightness())
    right = nn.functional.avg_pool2d(images.float(), 8)
    loss, items = criterion([right], images)
    assert loss.item() == pytest.approx(0, abs=1e-5) and items.shape == (1,) and not items.requires_grad
    assert criterion([right.flip(0)], images)[0] > 0.3
