"""Steps of Muon, and that everything else steps as with AdamW."""

import copy

import pytest
import torch
from torch import nn

from utils.optimizers import BLOCK, STEP_RMS, Muon, block_rows, matrices_of, orthogonalize, smart_optimizer


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 4, 40), (2, 40, 4), (1, 1, 7), (2, 72, 300)])
def test_orthogonalized_singular_values_are_about_1(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalize(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6 and values.max() < 1.25
    directions = (u.mT @ made @ v.mT).diagonal(dim1=1, dim2=2)  # the same singular vectors
    torch.testing.assert_close(directions, values, atol=0.3, rtol=0)


def test_directions_without_a_gradient_get_no_step():
    left, right = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((1, 72, 5), (1, 5, 99)))
    made = orthogonalize(left @ right)
    values = torch.linalg.svdvals(made)[0]
    assert values[:5].min() > 0.6 and values.max() < 1.25 and values[5:].max() < 0.01


def test_the_length_of_a_gradient_does_not_count():
    matrix = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(matrix * 1e9), orthogonalize(matrix), atol=1e-4, rtol=0)
    assert orthogonalize(matrix * 1e-30).isfinite().all()
    assert not orthogonalize(torch.zeros(1, 6, 9)).any()


@pytest.mark.parametrize("rows, expected", [(1, 1), (72, 72), (73, 1), (144, 72), (128, 64), (255, 51), (1152, 72)])
def test_blocks_divide_the_rows(rows, expected):
    assert block_rows(rows) == expected <= BLOCK


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def steps(model, optimizer, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(number))
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_only_matrices_that_mix_channels_step_by_muon():
    model, twin = network(), network()
    outputs = model[3].parameters()
    optimizer = smart_optimizer(model, "Muon", lr=0.01, decay=0.0, outputs=outputs)
    kinds = [(group["kind"], group["matrices"], len(group["params"])) for group in optimizer.param_groups]
    assert kinds == [(0, False, 4), (1, False, 1), (2, False, 2), (2, True, 1)]
    assert optimizer.param_groups[3]["params"][0] is model[0].weight
    steps(model, optimizer, 1)
    steps(twin, smart_optimizer(twin, "AdamW", lr=0.01, decay=0.0), 1)
    for name, parameter in model.named_parameters():
        same = torch.allclose(parameter, twin.get_parameter(name), atol=1e-7)
        assert same == (name != "0.weight"), name
    taken = (model[0].weight - network()[0].weight).detach().flatten(1)
    values = torch.linalg.svdvals(taken) / (0.01 * STEP_RMS * 27**0.5)
    assert values.min() > 0.6 and values.max() < 1.25


def test_decay_shrinks_matrices():
    model = nn.Linear(4, 4, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(before)
    Muon([{"params": [model.weight], "matrices": True, "weight_decay": 0.5}], lr=0.1).step()
    torch.testing.assert_close(model.weight.detach(), before * 0.95)


def test_a_parameter_without_a_gradient_stays():
    model = nn.Linear(4, 4)
    before = copy.deepcopy(model.state_dict())
    smart_optimizer(model, "Muon").step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_goes_on_from_its_state_to_the_bit():
    whole, half = network(), network()
    optimizer = smart_optimizer(whole, "Muon", lr=0.01)
    steps(whole, optimizer, 4)
    first = smart_optimizer(half, "Muon", lr=0.01)
    steps(half, first, 2)
    second = smart_optimizer(half, "Muon", lr=0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(half, second, 2, first=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, half.state_dict()[name]), name


def test_depthwise_kernels_and_outputs_are_no_matrices():
    model = network()
    assert matrices_of([p for p in model.parameters() if p.ndim > 1]) == [model[0].weight, model[3].weight]
