"""Any timm model that can return feature maps (https://github.com/huggingface/pytorch-image-models) as a backbone.

timm is an extra: pip install timm. In a model file: [-1, 1, timm, [resnet18]].
"""

from torch import nn

from models.backbone.pretrained import load_backbone_weights

STRIDES = (2, 4, 8, 16, 32)


class TimmBackbone(nn.Module):
    """A features_only timm model; its maps of strides 2 to 32 come finest first, [B, C, H, W]."""

    def __init__(self, name: str, in_chans: int = 3, **kwargs):
        super().__init__()
        try:
            import timm
        except ImportError:
            raise ImportError(f"the backbone 'timm {name}' needs timm: pip install timm") from None
        if not timm.is_model(name):
            nearest = timm.list_models(f"*{name}*")[:5]
            raise ValueError(f"timm {timm.__version__} has no model '{name}'" + (f", did you mean {nearest}?" if nearest else ""))
        self.model = timm.create_model(name, features_only=True, in_chans=in_chans, **kwargs)
        info = self.model.feature_info
        declared = list(zip(info.channels(), info.reduction()))
        last = {stride: i for i, (_, stride) in enumerate(declared) if stride in STRIDES}  # the deepest of each stride
        self.picked = [last[stride] for stride in sorted(last)]
        self.out_channels = [declared[i][0] for i in self.picked]
        self.out_strides = [declared[i][1] for i in self.picked]

    def forward(self, x):
        maps = self.model(x)
        channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        return [maps[i].permute(0, 3, 1, 2) if channels_last else maps[i] for i in self.picked]


def timm_backbone(in_chans: int, name: str, weights=None, **kwargs) -> TimmBackbone:
    """`name` as in timm.list_models(); `weights`: a .pt, .pth or .safetensors file; the rest goes to timm.create_model."""
    model = TimmBackbone(name, in_chans, **kwargs)
    if weights:
        load_backbone_weights(model, weights)
    return model
