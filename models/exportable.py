"""The form of a model that is exported: one tensor in, one or two out, and a graph without needless operators."""

import copy

import torch
from torch import nn

from models.backbone.export import to_export_form


def exportable(model: nn.Module) -> nn.Module:
    """Return a copy of a model that takes [B, 3, H, W] and returns what its eval mode does, without raw maps.

    That is [B, N, 5 + nc], of segmentation ([B, N, 5 + nc + nm], [B, nm, H / 4, W / 4]), of classification [B, nc].

    It is fused, float32, on the CPU, without gradients, and keeps .names .stride .yaml .imgsz of the original.
    """
    model = copy.deepcopy(model).cpu().float().eval().fuse()
    to_export_form(model)
    for tensor in (*model.parameters(), *model.buffers()):
        # channels-last weights stop ExecuTorch, and litert_torch 0.10 mixes them up (google-ai-edge/litert-torch#1061)
        tensor.data = tensor.data.contiguous()
    if model.task != "classify":
        model.head._buffers.pop("stride", None)  # numbers, which no tracer takes for data
        model.head.stride = model.stride.tolist()
    return model.requires_grad_(False)


def example_images(batch: int, imgsz, seed: int = 0) -> torch.Tensor:
    """Return images [batch, 3, *imgsz] of noise to trace a model with."""
    return torch.rand(batch, 3, *imgsz, generator=torch.Generator().manual_seed(seed))


class HalfPrecision(nn.Module):
    """An exportable model that computes in float16, decoded boxes apart, with float32 input and outputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).half()

    def forward(self, images):
        output = self.model(images.half())
        return tuple(x.float() for x in output) if isinstance(output, tuple) else output.float()
