"""EdgeViT forward and backward in training mode, against the plain form of the same network."""

import torch

from bench.harness import Call, Comparison
from bench.plain.edgevit import plain_copy
from bench.rows.backbone import NAMES, maps_differ, random_backbone

TOLERANCE = 1e-4  # of the largest value of a gradient
MARK, MEMORY_MARK = 0.75, 0.80
SHARED = "convolutions and their gradients, equally fast on both sides, are more than half of the plain time"


def comparisons(settings) -> list:
    batch, size = (2, 128) if settings.quick else (16, 320)
    return [
        Comparison(
            what=f"{title} forward + backward, batch {batch}, {size} px",
            reference="plain EdgeViT",
            ours=Call(
                lambda name=name: training_pass(channels_last(random_backbone(name)), batch, size), keeps_memory=True
            ),
            theirs=Call(lambda name=name: training_pass(plain_copy(random_backbone(name)), batch, size)),
            differ=maps_differ_in_training,
            mark=MARK,
            memory_mark=MEMORY_MARK,
            why=SHARED,
        )
        for name, title in NAMES.items()
    ]


def channels_last(model):
    """Put the model into the memory format in which the trainer has it."""
    return model.to(memory_format=torch.channels_last)


def training_pass(model, batch: int, size_px: int):
    """Return a function that gives the gradients of all parameters, by name, of a fixed weighted sum of the maps."""
    model.train()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, 3, size_px, size_px, generator=generator)
    shapes = [(batch, c, size_px // s, size_px // s) for c, s in zip(model.out_channels, model.out_strides)]
    weights = [torch.randn(shape, generator=generator) / shape[2] for shape in shapes]
    parameters = dict(sorted(model.named_parameters()))

    def run():
        model.zero_grad()
        sum((m * w).mean() for m, w in zip(model(images), weights)).backward()
        return [parameter.grad for parameter in parameters.values()]

    return run


def maps_differ_in_training(ours, theirs) -> str:
    return maps_differ(ours, theirs, TOLERANCE)
