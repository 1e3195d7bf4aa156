"""The classifier of the EdgeViT paper: published checkpoints hold one, and extras/classify trains it."""

import torch
from torch import nn

from models.backbone.Edgevit import Stages, init_weights


class EdgeViTClassifier(Stages):
    """[B, in_chans, H, W] -> logits [B, nc], from the batch-norm and the mean of the last map."""

    def __init__(self, depths, dims, *args, nc: int = 1000, **options):
        super().__init__(depths, dims, *args, **options)
        self.norm = nn.BatchNorm2d(dims[-1])
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(dims[-1], nc)
        init_weights(self.head)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.maps(x)[-1]).mean((2, 3))))

    @torch.no_grad()
    def fuse(self) -> None:
        if not isinstance(self.norm, nn.Identity):
            scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
            self.head.bias += self.head.weight @ (self.norm.bias - self.norm.running_mean * scale)
            self.head.weight *= scale
            self.norm = nn.Identity()
