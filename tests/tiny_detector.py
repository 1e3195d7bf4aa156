"""A checkpoint of a tiny detector that finds something in every picture, for tests of what comes after training."""

from pathlib import Path

import torch


def write_tiny_weights(path: Path, cfg: dict, seed: int = 0, names=("box", "disc"), imgsz=64) -> Path:
    """Save a detector with random weights and a confident objectness as a checkpoint of this project."""
    from models.yolo import DetectionModel
    from utils.checkpoint import Checkpoint, save_checkpoint

    torch.manual_seed(seed)
    model = DetectionModel(cfg)
    head = model.model[-1]
    with torch.no_grad():
        for conv in head.m:
            conv.weight.mul_(20)  # so that the boxes depend on the picture
            bias = conv.bias.view(head.na, -1)
            bias[:, 4] = 1.0
            bias[:, 5:] = 1.0
    stride = [float(s) for s in model.stride]
    state = model.state_dict()
    ckpt = Checkpoint(model.yaml, dict(enumerate(names)), len(names), stride, state, imgsz=imgsz)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, ckpt)
    return path
