"""The form of a detector whose outputs are in a client's layout, as far as the network itself computes it."""

from functools import partial

import torch
from torch import nn

from extras.clients.layouts import Layout


class Arranged(nn.Module):
    """An exportable() detector with its outputs in a layout; where that has NMS, what goes into NMS.

    imgsz_hw: for boxes as fractions, None for pixels. activated: maps after the sigmoid. output: the names of the
    outputs, with {i} for a number from 0 or {n} for one from 1.
    """

    size_xyxy: torch.Tensor  # width, height, width, height, which divide the boxes

    def __init__(self, model, layout: Layout, imgsz_hw=None, activated: bool = True, output: str = "output{i}"):
        super().__init__()
        self.model, self.layout = model, layout
        self.names, self.task, self.stride, self.yaml = model.names, model.task, model.stride, model.yaml
        height, width = imgsz_hw or (1, 1)
        self.register_buffer("size_xyxy", torch.tensor([width, height, width, height], dtype=torch.float32))
        self.as_fractions = imgsz_hw is not None
        count = 1
        if not layout.has_boxes:
            count = len(model.head.m)
            model.head.forward = partial(_maps, model.head, activated)
        self.output_axes = {output.format(i=i, n=i + 1): dict(layout.axes) for i in range(count)}

    def forward(self, images: torch.Tensor):
        rows = self.model(images)
        if not self.layout.has_boxes:
            return rows
        boxes, objectness, classes = rows.split((4, 1, rows.shape[2] - 5), 2)
        if self.as_fractions:
            boxes = boxes / self.size_xyxy
        if self.layout.name == "v8":
            return torch.cat((boxes, objectness * classes), 2).transpose(1, 2)
        if self.layout.name == "scored":
            classes = objectness * classes
            objectness = classes.max(2, keepdim=True).values
        if self.layout.name == "rows6":
            score, label = (objectness * classes).max(2, keepdim=True)
            centre, half = boxes[..., :2], boxes[..., 2:] / 2
            return torch.cat((centre - half, centre + half, score, label.to(score.dtype)), 2)
        return torch.cat((boxes, objectness, classes), 2)


def _maps(head, activated: bool, x) -> tuple:
    """Do as Detect.forward() does, but return the maps as the convolutions give them, or their sigmoid."""
    maps = tuple(conv(level).float() for conv, level in zip(head.m, x))
    return tuple(one.sigmoid() for one in maps) if activated else maps
