"""The whole EdgeViT-XXS detector from image to decoded boxes: fused and channels-last, against itself without both."""

import torch

from bench.harness import Call, Comparison
from bench.plain.edgevit import plain_copy
from bench.rows.backbone import forward, maps_differ
from models.yolo import DetectionModel

CFG = "yolov5_edgevit.yaml"
MARK = 0.65
SAME_LAYERS = "before it is fused the model runs the same fast layers, channels-last from the first LayerNorm on"
SAME_CONVOLUTIONS = "convolutions, neck and head cost the same on both sides"


def comparisons(settings) -> list:
    size = 320 if settings.quick else 640
    return [
        Comparison(
            what=f"EdgeViT-XXS detector, {size} px",
            reference=reference,
            ours=Call(lambda: forward(fast(random_detector()), size)),
            theirs=Call(lambda make=make: forward(make(random_detector()), size)),
            differ=boxes_differ,
            mark=MARK,
            why=why,
        )
        for reference, make, why in (
            ("the same, unfused, contiguous", contiguous, SAME_LAYERS),
            ("the same, unfused, contiguous, with plain EdgeViT", with_plain_backbone, SAME_CONVOLUTIONS),
        )
    ]


def random_detector(cfg=CFG):
    """In eval mode, with numbers that leave no term of a layer out."""
    torch.manual_seed(0)
    model = DetectionModel(cfg)
    for key, tensor in model.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim <= 1 and not key.endswith("stride"):
            noise = torch.rand(tensor.shape)
            tensor.add_(0.5 * noise if key.endswith("running_var") else 0.2 * (noise - 0.5))
    return model.eval()


def fast(model):
    return model.fuse().to(memory_format=torch.channels_last)


def contiguous(model):
    """Return the model, which no longer changes the layout of the image that it gets."""
    model.export = model.model[0].export = True
    return model


def with_plain_backbone(model):
    """Also the plain form of the backbone in the place of ours."""
    row = model.model[0]
    plain = plain_copy(row)
    for name in ("i", "f", "type", "np", "slots"):
        setattr(plain, name, getattr(row, name))
    model.model[0] = plain
    model.export = True
    return model


def boxes_differ(ours, theirs) -> str:
    """Compare outputs (boxes [1, N, 85], maps): the boxes, and every map."""
    return maps_differ([ours[0], *ours[1]], [theirs[0], *theirs[1]])
