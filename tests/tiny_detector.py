"""A checkpoint of a tiny detector that finds something in every picture, for tests of what comes after training."""

from pathlib import Path

import torch

# Few operators, as writing exported files takes its time by their number; strides 8 and 16, two anchors of each map.
FEW_OPERATORS = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16], [24, 24, 40, 40]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [24, 3, 2]]],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}


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
