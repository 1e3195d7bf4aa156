"""The order of an epoch: shares of ranks, whole batches, shuffled or drawn by weight."""

import numpy as np
import pytest

from utils.data import loader
from utils.data.loader import EpochSampler


@pytest.fixture
def ranks(monkeypatch):
    """ranks(2) makes the samplers believe in two processes."""
    return lambda n: monkeypatch.setattr(loader, "world_size", lambda: n)


@pytest.mark.parametrize("n,world,batch", [(10, 1, 4), (10, 2, 4), (11, 3, 2), (2, 4, 1), (16, 4, 4)])
@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_sampler_shares_the_images_out(ranks, n, world, batch, rect, shuffle):
    ranks(world)
    samplers = [EpochSampler(n, batch, shuffle, rect, 0, rank if world > 1 else -1) for rank in range(world)]
    for epoch in range(2):
        shares = []
        for sampler in samplers:
            sampler.set_epoch(epoch)
            items = list(sampler)
            assert len(items) == len(sampler) and {e for e, _ in items} == {epoch}
            shares.append([i for _, i in items])
        assert len({len(share) for share in shares}) == 1  # equal steps, or DDP hangs
        assert set(sum(shares, [])) == set(range(n))  # every image is seen
        if world == 1:
            assert len(shares[0]) == n
        if rect:  # each batch is of one shape
            for share in shares:
                for k in range(0, len(share), batch):
                    assert len({i // batch for i in share[k : k + batch]}) == 1


def test_sampler_orders():
    sampler = EpochSampler(100, 4, shuffle=True, seed=1)
    first = [i for _, i in sampler]
    assert first == [i for _, i in sampler] != sorted(first) and sorted(first) == list(range(100))
    sampler.set_epoch(1)
    assert [i for _, i in sampler] != first
    assert [i for _, i in EpochSampler(5, 4, shuffle=False)] == [0, 1, 2, 3, 4]
    sampler.set_epoch(2, image_weights=np.arange(100) >= 98)  # only the last two are ever drawn
    drawn = [i for _, i in sampler]
    assert len(drawn) == 100 and set(drawn) == {98, 99}
