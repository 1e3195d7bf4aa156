"""The quick ways of inference mode give what torch gives, in one thread and in several."""

import pytest
import torch
import torch.nn.functional as F

from models import onednn
from models.yolo import DetectionModel


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape, channels", [((1, 36, 40, 40), 144), ((2, 288, 3, 5), 7), ((1, 1, 1, 1), 1)])
def test_pointwise(threads, shape, channels, bias, gelu):
    x, weight = random_map(*shape), random_map(channels, shape[1], 1, 1)
    b = torch.linspace(-1, 1, channels) if bias else None
    expected = F.conv2d(x, weight, b)
    expected = F.gelu(expected) if gelu else expected
    with torch.inference_mode():
        assert torch.allclose(onednn.pointwise(x, weight, b, gelu), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 100, 400, 1601])
def test_attention(threads, tokens):
    q, k, v = (random_map(1, 2, tokens, 36) * scale for scale in (3, 1, 2))
    with torch.inference_mode():
        found = onednn.attention(q, k, v)
    assert found.shape == q.shape
    assert torch.allclose(found, F.scaled_dot_product_attention(q, k, v), atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_elsewhere_it_is_torchs_own(mode):
    x, weight = random_map(1, 4, 8, 8), random_map(6, 4, 1, 1).requires_grad_()
    with mode():
        assert torch.equal(onednn.pointwise(x, weight), F.conv2d(x, weight))
        assert torch.equal(onednn.attention(x, x, x), F.scaled_dot_product_attention(x, x, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs_own(dtype):
    x, weight = random_map(1, 4, 8, 8).to(dtype), random_map(6, 4, 1, 1).to(dtype)
    with torch.inference_mode():
        assert torch.equal(onednn.pointwise(x, weight, gelu=True), F.gelu(F.conv2d(x, weight)))


@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5n.yaml"])
def test_a_fused_detector_gives_the_same_boxes(threads, cfg):
    torch.manual_seed(0)
    model = DetectionModel(cfg).eval()
    x = torch.rand(1, 3, 320, 256)
    with torch.no_grad():
        expected = model(x)[0]
    model.fuse()
    with torch.inference_mode():
        found = model(x)[0]
    assert torch.allclose(found, expected, atol=2e-3, rtol=1e-4)
    names = {name for name, _ in DetectionModel(cfg).fuse().named_modules()}
    assert {name for name, _ in model.named_modules()} == names
