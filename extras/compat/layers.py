"""Layers of older versions of YOLOv5."""

from torch import nn

from utils.nms import non_max_suppression


class NMS(nn.Module):
    """Non-maximum suppression as the last layer of a model (YOLOv5 v5): predictions -> boxes of each image."""

    conf = 0.25  # least confidence
    iou = 0.45
    classes = None  # class numbers to keep, None for all
    max_det = 1000

    def forward(self, x) -> list:
        return non_max_suppression(x[0], self.conf, self.iou, self.classes, max_det=self.max_det)
