"""The form in which detectors are exported: the model's own numbers, one tensor, and the model itself untouched."""

import pytest
import torch

from models.exportable import HalfPrecision, example_images, exportable
from models.yolo import DetectionModel

SIZES = ((1, 64, 64), (2, 96, 64), (1, 32, 160))


def build(cfg):
    """A detector with statistics in its batch-norms, so that a wrong fusion would show."""
    torch.manual_seed(0)
    model = DetectionModel(cfg, nc=2)
    model.train()
    with torch.no_grad():
        for seed in range(3):
            model(example_images(2, (64, 64), seed))
    return model.eval()


@pytest.fixture(params=["tiny", "yolov5n.yaml", "yolov5_edgevit.yaml"])
def model(request, tiny_model_cfg):
    return build(tiny_model_cfg if request.param == "tiny" else request.param)


def test_it_gives_the_models_predictions(model):
    form = exportable(model)
    for batch, height, width in SIZES:
        images = example_images(batch, (height, width))
        with torch.no_grad():
            expected = model(images)[0]
        found = form(images)
        assert found.shape == expected.shape and not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_model_itself_stays_as_it_is(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.names = {0: "cat", 1: "dog"}
    form = exportable(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert isinstance(model.head.stride, torch.Tensor) and not model.export and not model.head.export
    assert len(model(example_images(1, (64, 64)))) == 2  # predictions and raw maps
    assert form.names == model.names and form.yaml == model.yaml and torch.equal(form.stride, model.stride)
    assert not any(isinstance(module, (torch.nn.BatchNorm2d, torch.nn.ConvTranspose2d)) for module in form.modules())
    assert not any(parameter.requires_grad for parameter in form.parameters())


def test_a_fused_model_and_an_exportable_one_can_be_given(model):
    images = example_images(1, (64, 64))
    expected = exportable(model)(images)
    torch.testing.assert_close(exportable(exportable(model))(images), expected)
    torch.testing.assert_close(exportable(model.fuse())(images), expected)


def test_half_precision_decodes_in_float32():
    form = exportable(build("yolov5_edgevit.yaml"))
    half = HalfPrecision(form)
    images = example_images(1, (64, 96))
    found, expected = half(images), form(images)
    assert found.dtype == torch.float32 and {p.dtype for p in half.parameters()} == {torch.float16}
    assert {p.dtype for p in form.parameters()} == {torch.float32}
    torch.testing.assert_close(found[..., :4], expected[..., :4], rtol=0, atol=0.5)
    torch.testing.assert_close(found[..., 4:], expected[..., 4:], rtol=0, atol=5e-3)


def test_example_images():
    images = example_images(2, (32, 64), seed=1)
    assert images.shape == (2, 3, 32, 64) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, example_images(2, (32, 64), seed=1))
    assert not torch.equal(images, example_images(2, (32, 64), seed=2))
