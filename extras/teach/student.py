"""A backbone that learns to reproduce a teacher's maps."""

import torch
from torch import nn

from models.backbone import BACKBONES
from models.backbone.Edgevit import VARIANTS
from models.yolo import BaseModel
from utils.checkpoint import Checkpoint
from utils.console.text import did_you_mean
from utils.torch_utils import model_info

BACKBONE = "model."  # prefix of the backbone's tensors in the state dict


class Student(BaseModel):
    """Images [B, 3, H, W] of 0..1 -> a map [B, C, H / s, W / s] for each of the teacher's strides and channels.

    `model` is the backbone, `adapters` are the 1x1 convolutions from its maps to the teacher's channels. `yaml` has
    the backbone's name, strides and channels, and the teacher's description.
    """

    task = "pretrain"

    def __init__(self, yaml: dict):
        """ValueError, with the nearest name, for an unknown backbone."""
        super().__init__()
        self.yaml, name = dict(yaml), yaml["backbone"]
        if name not in VARIANTS:
            raise ValueError(f"--backbone: no backbone '{name}'{did_you_mean(name, VARIANTS, cutoff=0)}")
        self.model = BACKBONES[name]()
        own = dict(zip(self.model.out_strides, self.model.out_channels))
        self.levels = [self.model.out_strides.index(stride) for stride in yaml["strides"]]
        pairs = zip(yaml["strides"], yaml["channels"])
        self.adapters = nn.ModuleList(nn.Conv2d(own[stride], channels, 1) for stride, channels in pairs)
        self.stride = torch.tensor([float(stride) for stride in self.model.out_strides])
        self.names, self.hyp, self.imgsz = {}, None, None

    @classmethod
    def of(cls, backbone: str, teacher: nn.Module):
        """Return the student for a teacher of extras.teach.teachers."""
        keys = {key: getattr(teacher, key) for key in ("strides", "channels", "description")}
        return cls({"backbone": backbone, **keys})

    @classmethod
    def from_checkpoint(cls, ckpt: Checkpoint):
        """Return the model of a utils.checkpoint.Checkpoint: float32, in eval mode."""
        model = cls(ckpt.yaml)
        model.load_checkpoint_state(ckpt.state_dict)
        model.hyp, model.imgsz = ckpt.hyp, ckpt.imgsz
        return model.eval()

    def forward(self, x: torch.Tensor) -> list:
        maps = self.model(x)
        return [adapter(maps[level]) for adapter, level in zip(self.adapters, self.levels)]

    def info(self, verbose=False, img_size=320) -> str:
        """Log and return layers, parameters, gradients and GFLOPs of the backbone at `img_size` px."""
        return model_info(self.model, verbose, img_size)

    def layer_table(self) -> str:
        """Return a line for each adapter."""
        return "\n".join(
            f"stride {stride:>2}: {adapter.in_channels} channels learn {adapter.out_channels}"
            for stride, adapter in zip(self.yaml["strides"], self.adapters)
        )
