"""The expected order of accuracy, best first: a rule that is written down here, not a promise.

The rule: more GFLOPs at the image size are better, whether they come from a bigger model or from a bigger image, and
those of an EdgeViT count a quarter. Bigger is better because YOLOv5's published AP on COCO rises with every size of the
model (28.0 for n, 37.4 for s at 640 px). A quarter, because docs/results.md has 0.619 for YOLOv5n (4.5 GFLOPs at 640
px) and 0.596 for EdgeViT-XXS (12.8) on bccd in equal minutes at equal size, which is 0.023 less, and by the figures
above the AP of YOLOv5 rises by 0.05 with every doubling: 0.023 is half a doubling, and together with the factor of 2.8
between their GFLOPs (one and a half) two doublings. Your own data may say otherwise: --cfg and --img restrict the
choice.
"""

from pathlib import Path
from typing import NamedTuple

from models.yolo import model_class
from utils.torch_utils import count_flops

EDGEVIT_WORTH = 0.25


class Candidate(NamedTuple):
    """A model file at an image size."""

    cfg: Path
    size_px: int
    gflops: float  # at that size
    worth: float  # the GFLOPs as the rule counts them


def ranked(cfgs: list[Path], sizes: list[int], nc: int) -> list[Candidate]:
    """Return all model files at all sizes, those first that the rule expects to be the most accurate."""
    candidates = []
    for cfg in cfgs:
        model = model_class(cfg)(cfg, nc=nc)
        factor = EDGEVIT_WORTH if "edgevit" in cfg.stem else 1.0
        for size in sizes:
            gflops = count_flops(model, size, model.yaml["ch"]) / 1e9
            candidates.append(Candidate(cfg, size, gflops, gflops * factor))
    return sorted(candidates, key=lambda candidate: -candidate.worth)
