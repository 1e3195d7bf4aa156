"""How near the models come to the rate at which this machine multiplies large matrices, measured in turns with them.

torch has two libraries for it, MKL for `a @ b` and oneDNN for 1x1 convolutions; the faster one is the measure.
"""

import statistics

import torch

from bench.harness import CLOCKS, Row, calls_per_sample, first_call, timed
from bench.rows.detector import fast, random_detector
from utils.torch_utils import count_flops

MODELS = {
    "yolov5n": "yolov5n.yaml",
    "yolov5s": "yolov5s.yaml",
    "EdgeViT-XXS": "yolov5_edgevit.yaml",
    "EdgeViT-XS": "yolov5_edgevit_xs.yaml",
    "EdgeViT-S": "yolov5_edgevit_s.yaml",
}
MATRIX = 1024  # rows and columns
BATCH = 16  # images of a convolution: with fewer and one thread torch does not take oneDNN
TRAINING_FLOPS = 3  # of a forward pass: the backward pass makes two gradients of the size of one


def measurements(settings):
    for title, cfg in MODELS.items():
        for kind in (forward, training_step):
            yield share_row(title, cfg, kind, settings)


def forward(cfg: str, quick: bool):
    """Return (what, FLOPs, function) of one image."""
    size = 320 if quick else 640
    model, image = fast(random_detector(cfg)), torch.rand(1, 3, size, size)
    return f"forward, {size} px", count_flops(model, size), torch.inference_mode()(lambda: model(image))


def training_step(cfg: str, quick: bool):
    """Return (what, FLOPs, function) of a forward and backward pass of a batch."""
    batch, size = (2, 320) if quick else (16, 320)
    model = random_detector(cfg).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)

    def run():
        model.zero_grad()
        sum(raw.square().mean() for raw in model(images)).backward()

    flops = TRAINING_FLOPS * batch * count_flops(model, size)
    return f"forward + backward, batch {batch}, {size} px", flops, run


def matrix_products() -> list:
    """Return functions that multiply matrices of MATRIX x MATRIX, each with another library."""
    a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    maps = torch.rand(BATCH, MATRIX, 8, MATRIX // BATCH // 8).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(MATRIX, MATRIX, 1, 1)
    return [lambda: a @ b, torch.inference_mode()(lambda: torch.nn.functional.conv2d(maps, weight))]


def share_row(title: str, cfg: str, kind, settings) -> Row:
    """Return a row whose `ours` is the share of the matrix-product rate in per cent."""
    what, flops, function = kind(cfg, settings.quick)
    sides, read_clock = [function, *matrix_products()], CLOCKS[settings.clock]
    calls = [calls_per_sample(first_call(side, read_clock)[1]) for side in sides]
    rounds = [[timed(*side, read_clock) for side in zip(sides, calls)] for _ in range(settings.pairs)]
    rates = [[flops / seconds, 2 * MATRIX**3 / min(products)] for seconds, *products in rounds]
    shares = [100 * rate / product for rate, product in rates]
    rate, product = (statistics.median(column) / 1e9 for column in zip(*rates))
    note = f"{flops / 1e9:.1f} GFLOPs, {rate:.0f} of {product:.0f} GFLOP/s, {min(shares):.0f} to {max(shares):.0f} %"
    return Row(
        f"share of the matrix-product rate: {title}, {what}", ours=statistics.median(shares), unit="%", note=note
    )
