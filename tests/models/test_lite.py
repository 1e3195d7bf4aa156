"""EfficientNet-Lite's ImageNet weights as the start of a backbone."""

import pytest
import torch

from engine.hyperparameters import default_hyp
from engine.options import from_kwargs
from engine.task import DETECT
from engine.train.start import build_model, start_kind
from models.backbone import backbones, load_backbone_weights
from models.backbone.timm import timm_backbone

timm = pytest.importorskip("timm")


@pytest.fixture
def network(lite_package):
    """A timm classifier with random tensors, batch-norm statistics too, that the package seems to carry."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    lite_package({f"_{i}": value for i, value in enumerate(network.state_dict().values())})
    return network


@torch.no_grad()
def test_the_first_convolution_normalizes(network):
    backbone = timm_backbone(3, "tf_efficientnet_lite0").eval()
    assert load_backbone_weights(backbone, "efficientnet_lite0") == len(backbone.state_dict())
    images = torch.rand(2, 3, 128, 128)
    own = backbone.model.bn1(backbone.model.conv_stem(images))
    expected = network.bn1(network.conv_stem((images - 0.5) / 0.5))
    torch.testing.assert_close(own[..., :-1, :-1], expected[..., :-1, :-1], rtol=1e-4, atol=1e-5)
    # Behind the border, where grey became black, the maps differ little: the blocks are the package's too.
    last, wanted = (
        backbone(images)[-1],
        network.forward_intermediates((images - 0.5) / 0.5, intermediates_only=True)[-1],
    )
    assert torch.corrcoef(torch.stack([last.flatten(), wanted.flatten()]))[0, 1] > 0.9


def test_a_detector_starts_from_the_package(network, caplog):
    opt = from_kwargs("train", {"cfg": "yolov5_lite0.yaml", "backbone_weights": "efficientnet_lite0"})
    with caplog.at_level("INFO"):
        model = build_model(opt, default_hyp(), {0: "cat", 1: "dog"}, DETECT, None, None)
    assert start_kind(opt, None, model) == "backbone"
    (backbone,) = backbones(model)
    assert torch.equal(backbone.model.conv_stem.weight, network.conv_stem.weight * 2)
    assert any("288 of the backbone's 288 tensors match" in message for message in caplog.messages)


@torch.no_grad()
def test_the_models_of_the_hub_folder_compute():
    from models.yolo import DetectionModel

    for cfg, channels in (("yolov5_lite0.yaml", 320), ("yolov5_lite2.yaml", 352)):
        model = DetectionModel(cfg, nc=2).eval()
        assert backbones(model)[0].out_channels[-1] == channels
        assert model(torch.rand(1, 3, 64, 96))[0].shape == (1, 3 * (8 * 12 + 4 * 6 + 2 * 3), 7)
