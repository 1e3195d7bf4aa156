"""utils/pretrain/loss.py: correlation of maps, and which places count."""

import numpy as np
import pytest
import torch
from torch import nn

from models.teachers import Pixels
from utils.pretrain.loss import PretrainLoss, map_loss

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 4, 50, generator=GENERATOR)


def test_map_loss_is_one_minus_pearsons_r():
    expected = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(A.numpy(), B.numpy())])
    assert map_loss(A, B).item() == pytest.approx(expected, abs=1e-6)


def test_map_loss_is_half_the_error_of_normalised_maps():
    a, b = ((x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in (A, B))
    assert map_loss(A, B).item() == pytest.approx((a - b).square().mean().item() / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        (A, A, 0.0),
        (A, A * 7 - 3, 0.0),  # neither scale nor offset counts
        (A, -A, 2.0),
        (A, torch.ones(4, 50), 1.0),  # a channel that is the same everywhere
        (torch.zeros(4, 50), A, 1.0),
    ],
)
def test_map_loss(own, wanted, expected):
    assert map_loss(own, wanted).item() == pytest.approx(expected, abs=1e-5)


def test_gradients_are_finite_where_a_channel_is_constant():
    own = torch.zeros(4, 50, requires_grad=True)
    map_loss(own, torch.ones(4, 50)).backward()
    assert torch.isfinite(own.grad).all()


class Brightness(nn.Module):
    """A teacher with one map of stride 8: the mean colour of each place."""

    strides = [8]

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, 8)]


def test_targets_go_through_the_teacher():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
    criterion = PretrainLoss(Brightness())
    right = nn.functional.avg_pool2d(images.float(), 8)
    loss, items = criterion([right], images)
    assert loss.item() == pytest.approx(0, abs=1e-5) and items.shape == (1,) and not items.requires_grad
    assert criterion([right.flip(0)], images)[0] > 0.3


def test_only_hidden_places_count():
    images = torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8, generator=GENERATOR)
    images[:, 3] = 0
    images[:, 3, :32] = 255
    maps = Pixels()(images[:, :3].float() / 255)
    for stride, own in zip(Pixels.strides, maps):
        own[:, :, 32 // stride :] = 5.0  # wrong where nothing is hidden
    criterion = PretrainLoss(Pixels())
    assert criterion(maps, images)[0].item() == pytest.approx(0, abs=1e-5)
    assert criterion(maps, images[:, :3])[0] > 0.1
