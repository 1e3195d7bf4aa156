"""NMS of 25,200 boxes in 80 classes at confidence 0.001, multi-label, against a loop over the classes."""

import torch

from bench.harness import Call, Comparison
from bench.plain.nms import plain_nms
from utils.nms import MAX_CANDIDATES, non_max_suppression

BOXES, CLASSES = 25_200, 80
CONF_THRES, IOU_THRES, MAX_DET = 0.001, 0.6, 300
BOX_PX = 1e-3
MARK = 0.30


def comparisons(settings) -> list:
    return [
        Comparison(
            what=f"NMS, {BOXES:,} x {5 + CLASSES}, {title}",
            reference="per-class torchvision.ops.nms",
            ours=Call(lambda make=make: ours(make())),
            theirs=Call(lambda make=make: theirs(make())),
            differ=boxes_differ,
            mark=MARK,
        )
        for title, make in {"a trained model's": trained, "an untrained model's": untrained}.items()
    ]


def ours(prediction):
    options = {"conf_thres": CONF_THRES, "iou_thres": IOU_THRES, "multi_label": True, "max_det": MAX_DET}
    return lambda: non_max_suppression(prediction[None], **options)[0]


def theirs(prediction):
    return lambda: plain_nms(prediction, CONF_THRES, IOU_THRES, MAX_DET, MAX_CANDIDATES)


def trained(objects: int = 40) -> torch.Tensor:
    """Draw [N, 85]: forty objects with many boxes around each, else background of low objectness; some 13,000 pass."""
    g = torch.Generator().manual_seed(0)
    owner = torch.randint(objects, (BOXES,), generator=g)
    near = torch.rand(BOXES, generator=g) < 0.06
    centres, sides = 640 * torch.rand(objects, 2, generator=g), 20 + 180 * torch.rand(objects, 2, generator=g)
    boxes = torch.cat([640 * torch.rand(BOXES, 2, generator=g), 10 + 100 * torch.rand(BOXES, 2, generator=g)], 1)
    shifted = torch.cat([centres, sides], 1)[owner]
    shifted[:, :2] += 0.15 * shifted[:, 2:] * torch.randn(BOXES, 2, generator=g)
    shifted[:, 2:] *= 1 + 0.15 * torch.rand(BOXES, 2, generator=g)
    boxes[near] = shifted[near]
    objectness = torch.where(near, torch.rand(BOXES, generator=g), 0.002 * torch.rand(BOXES, generator=g) ** 3)
    scores = 0.0025 * torch.rand(BOXES, CLASSES, generator=g) ** 4
    scores[torch.arange(BOXES), owner % CLASSES] = 0.5 + 0.5 * torch.rand(BOXES, generator=g)
    return torch.cat([boxes, objectness[:, None], scores], 1)


def untrained() -> torch.Tensor:
    """Draw [N, 85] of noise: as many boxes pass as are let in."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.cat([640 * torch.rand(BOXES, 2, generator=g), 10 + 100 * torch.rand(BOXES, 2, generator=g)], 1)
    return torch.cat([boxes, 0.2 * torch.rand(BOXES, 1 + CLASSES, generator=g)], 1)


def boxes_differ(found, expected) -> str:
    """Row by row; only boxes of one confidence may stand in another order."""
    if found.shape != expected.shape:
        return f"{len(found)} and {len(expected)} boxes"
    if not len(found):
        return "there is no box to compare"
    found, expected = (boxes[lexical_order(boxes)] for boxes in (found, expected))
    worst = (found - expected).abs().max().item()
    return "" if worst <= BOX_PX else f"a box differs by {worst:.3g}"


def lexical_order(boxes) -> list:
    return sorted(range(len(boxes)), key=lambda i: (-round(boxes[i, 4].item(), 6), *boxes[i, [5, 0, 1]].tolist()))
