"""extras/classify/loss.py: cross-entropy by hand, for class numbers and for shares."""

import pytest
import torch

from extras.classify.loss import ClassificationLoss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])


def by_hand(shares) -> float:
    return float(-(torch.tensor(shares) * LOGITS.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize(
    "hyp, targets, shares",
    [
        ({}, torch.tensor([0, 2]), [[1, 0, 0], [0, 0, 1]]),
        (None, torch.tensor([0, 2]), [[1, 0, 0], [0, 0, 1]]),  # a model without hyperparameters
        ({"label_smoothing": 0.3}, torch.tensor([0, 2]), [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]),  # 0.3 over all three
        ({}, torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]), [[0.7, 0.3, 0], [0, 0, 1]]),  # a mixed batch
        ({"label_smoothing": 0.3}, torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]),
    ],
)
def test_by_hand(hyp, targets, shares):
    logits = LOGITS.clone().requires_grad_()
    loss, items = ClassificationLoss(hyp)(logits, targets)
    assert loss.item() == pytest.approx(by_hand(shares), abs=1e-6)
    assert items.shape == (1,) and items[0] == loss and not items.requires_grad
    loss.backward()
    assert logits.grad.abs().sum() > 0


def test_half_precision_is_summed_in_float32():
    loss, _ = ClassificationLoss({})(LOGITS.bfloat16(), torch.tensor([0, 2]))
    assert loss.dtype == torch.float32
