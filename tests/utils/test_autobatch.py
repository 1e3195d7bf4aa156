"""Choosing a batch size from measured memory."""

import pytest
import torch
from torch import nn

from utils.autobatch import DEFAULT_BATCH, check_train_batch_size, choose_batch


@pytest.mark.parametrize(
    ("used_gb", "limit_gb", "batch"),
    [
        ({1: 1.5, 2: 2.0, 4: 3.0, 8: 5.0, 16: 9.0}, 21.2, 40),  # 1 GB + 0.5 GB per image
        ({1: 1.5, 2: 2.0, 4: 3.0}, 21.0, 4),  # 8 did not fit: never more than what was seen to fit
        ({1: 1.5, 2: 2.0, 4: 3.0, 8: 5.0, 16: 9.0}, 0.5, 1),  # nothing fits, still one image
        ({1: 1.0}, 21.0, 1),  # 2 did not fit
        ({}, 21.0, DEFAULT_BATCH),  # nothing measured
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}, 21.0, DEFAULT_BATCH),  # no growth: the figures are no good
    ],
)
def test_choose_batch(used_gb, limit_gb, batch):
    assert choose_batch(used_gb, limit_gb) == batch


def test_the_cpu_gets_the_default_and_says_so(caplog):
    caplog.set_level("INFO", "yolov5_edgevit")
    assert check_train_batch_size(nn.Conv2d(3, 4, 3), 64) == 16
    assert "cpu" in caplog.text and "16" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_is_measured():
    assert check_train_batch_size(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).cuda(), 64) >= 16
