"""EdgeViT forward, fused, against the plain form of the same network."""

import torch

from bench.harness import Call, Comparison
from bench.plain.edgevit import plain_copy
from models.backbone import BACKBONES

NAMES = {"edgevit_xxs": "EdgeViT-XXS", "edgevit_xs": "EdgeViT-XS", "edgevit_s": "EdgeViT-S"}
TOLERANCE = 1e-5  # of the largest value of a map
MARK = 0.60
SHARED = "both sides share convolutions, GELU and the products of attention: 0.63 of the plain XXS (CPU with AVX2)"


def comparisons(settings) -> list:
    size = 320 if settings.quick else 640
    return [
        Comparison(
            what=f"{title} forward, {size} px",
            reference="plain EdgeViT",
            ours=Call(lambda name=name: forward(fused(random_backbone(name)), size)),
            theirs=Call(lambda name=name: forward(plain_copy(random_backbone(name)), size)),
            differ=maps_differ,
            mark=MARK,
            why=SHARED,
        )
        for name, title in NAMES.items()
    ]


def random_backbone(name: str):
    """In eval mode, with numbers that leave no term of a layer out: shifts that are not 0, scales that are not 1."""
    torch.manual_seed(0)
    model = BACKBONES[name]()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim <= 1:
            noise = torch.rand(tensor.shape)
            tensor.add_(0.5 * noise if key.endswith("running_var") else 0.2 * (noise - 0.5))
    return model.eval()


def fused(model):
    for module in list(model.modules()):
        if hasattr(module, "fuse"):
            module.fuse()
    return model.to(memory_format=torch.channels_last)


def forward(model, size_px: int):
    image = torch.rand(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    return torch.inference_mode()(lambda: model(image))


def maps_differ(ours, theirs, tolerance: float = TOLERANCE) -> str:
    """Compare lists of tensors of equal shapes; the difference is relative to the largest value of each."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return f"shapes {[list(t.shape) for t in ours]} and {[list(t.shape) for t in theirs]}"
    errors = [((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in zip(ours, theirs)]
    worst = max(range(len(errors)), key=lambda i: errors[i] if errors[i] == errors[i] else float("inf"))
    fine = errors[worst] <= tolerance  # False for nan, too
    return "" if fine else f"tensor {worst}: {errors[worst]:.2g} of its largest value, at most {tolerance:g} expected"
