"""Devices, folding, sizes, optimizer groups, weight average, early stopping."""

import copy
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.backbone.fast import PositionEmbed
from models.yolo import DetectionModel
from utils import optimizers
from utils import torch_utils as tu

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")


@pytest.mark.parametrize("device", ["cpu", "CPU", torch.device("cpu")])
def test_select_cpu(device):
    assert tu.select_device(device) == torch.device("cpu")


@no_cuda
@pytest.mark.parametrize("device", ["0", "cuda:0", "cuda", "0,1", 0, torch.device("cuda:1")])
def test_select_missing_gpu(device):
    with pytest.raises(ValueError, match=f"device '{device}' was asked for, but torch .* finds no CUDA GPU here"):
        tu.select_device(device)


@pytest.mark.parametrize("device", ["gpu", "0;1", "-1", "1.5"])
def test_select_nonsense(device):
    with pytest.raises(ValueError, match=f"device '{device}': expected cpu, mps, a GPU index"):
        tu.select_device(device)


@pytest.mark.parametrize(
    "device, batch, expected",
    [
        ("", 0, "cuda:0"),
        ("1", 0, "cuda:1"),
        ("cuda:1", 0, "cuda:1"),
        ("1,0", 16, "cuda:1"),  # the first of several
        ("2", 0, "no GPU 2, this machine has 2"),
        ("0,3", 0, "no GPU 3, this machine has 2"),
        ("0,1", 15, "batch size 15 must be a multiple of the 2 GPUs"),
    ],
)
def test_select_among_two_gpus(monkeypatch, device, batch, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if expected.startswith("cuda"):
        assert tu.select_device(device, batch) == torch.device(expected)
    else:
        with pytest.raises(ValueError, match=expected):
            tu.select_device(device, batch)


def test_device_summary():
    assert tu.device_summary(torch.device("cpu")) == f"CPU ({torch.get_num_threads()} threads)"


def norm_with_history(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3).double().eval()
    for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    bias=st.booleans(),
    transpose=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_fuse_conv_and_bn(groups, kernel, bias, transpose, seed):
    torch.manual_seed(seed)
    cls = nn.ConvTranspose2d if transpose else nn.Conv2d
    conv = cls(4, 8, kernel, padding=kernel // 2, groups=groups, bias=bias).double()
    norm, x = norm_with_history(8), torch.rand(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(tu.fuse_conv_and_bn(conv, norm)(x), norm(conv(x)))
    assert conv.training and not norm.training, "the originals stay as they were"


@given(groups=st.sampled_from([1, 2, 4]), kernel=st.integers(1, 3), bias=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_fuse_bn_and_conv(groups, kernel, bias, seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 8, kernel, groups=groups, bias=bias).double()
    norm, x = norm_with_history(4), torch.rand(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(tu.fuse_bn_and_conv(norm, conv)(x), conv(norm(x)))


@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_fuse_bn_and_padded_conv_is_refused(padding):
    with pytest.raises(ValueError, match="cannot be folded into the padded convolution"):
        tu.fuse_bn_and_conv(norm_with_history(4), nn.Conv2d(4, 8, 3, padding=padding).double())


def test_initialize_weights_spares_backbones():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Sequential(nn.BatchNorm2d(2)), nn.BatchNorm2d(2)))
    model[1][0].out_channels, model[1][0].out_strides = [2], [8]
    tu.initialize_weights(model, eps=1e-3, momentum=0.03)
    assert [m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [1e-3, 1e-5, 1e-3]


@pytest.mark.parametrize(
    "module, expected",
    [
        (nn.Conv2d(3, 8, 3, padding=1), 2 * 3 * 8 * 9 * 16 * 24),
        (nn.Conv2d(3, 6, 1, groups=3), 2 * 6 * 16 * 24),
        (nn.Sequential(nn.Flatten(2), nn.Linear(384, 5)), 2 * 3 * 384 * 5),
        (nn.BatchNorm2d(3), 0),  # only convolutions and matrix products count
    ],
)
def test_count_flops(module, expected):
    nn.init.ones_(next(module.parameters()))
    assert tu.count_flops(module, (16, 24)) == expected
    assert module.training and not next(module.parameters()).is_meta


def test_attention_counts():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):  # [B, 3, H, W]: H * W tokens of 3 channels
            tokens = x.flatten(2).transpose(1, 2)[:, None] * self.scale
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert tu.count_flops(Attention(), 8) == 2 * (2 * 64 * 64 * 3)  # q k^T and weights v


def test_model_info(tiny_model_cfg, caplog):
    caplog.set_level("INFO")
    model = DetectionModel(tiny_model_cfg)
    total = sum(p.numel() for p in model.parameters())
    next(model.parameters()).requires_grad = False
    line = tu.model_info(model, verbose=True, imgsz=64)
    assert line.startswith(f"7 layers, {total} parameters, {total - 216} gradients, ")
    assert "model.0.conv.weight" in caplog.text and "[8, 3, 3, 3]" in caplog.text


@pytest.mark.parametrize(
    "ratio, same_shape, shape",
    [
        (1.0, False, (64, 96)),
        (0.5, False, (32, 64)),
        (0.83, False, (64, 96)),
        (0.67, False, (64, 96)),
        (0.5, True, (64, 96)),
    ],
)
def test_scale_img(ratio, same_shape, shape):
    image = torch.zeros(1, 3, 64, 96)
    scaled = tu.scale_img(image, ratio, same_shape, gs=32)
    assert tuple(scaled.shape[2:]) == shape
    height, width = int(64 * ratio), int(96 * ratio)
    assert scaled[..., :height, :width].abs().max() == 0
    if ratio != 1:
        assert scaled[..., height:, :].unique().tolist() in ([], [pytest.approx(0.447)])
        assert scaled[..., width:].unique().tolist() in ([], [pytest.approx(0.447)])


def test_smart_inference_mode():
    @tu.smart_inference_mode()
    def mode(value):
        """Doc."""
        return value, torch.is_inference_mode_enabled()

    assert mode(3) == (3, True) and mode.__doc__ == "Doc."
    with torch.inference_mode():
        assert mode(4) == (4, True)
    assert not torch.is_inference_mode_enabled()


def test_profile(caplog):
    caplog.set_level("INFO")
    results = tu.profile(torch.rand(1, 3, 8, 8), [nn.Conv2d(3, 4, 1), torch.relu], n=2, device="cpu")
    assert [r["parameters"] for r in results] == [16, 0]
    assert [r["flops"] for r in results] == [2 * 3 * 4 * 64, 0]
    assert results[0]["input"] == (1, 3, 8, 8) and results[0]["output"] == (1, 4, 8, 8)
    assert all(r["forward_ms"] > 0 and r["backward_ms"] > 0 for r in results)
    assert math.isnan(tu.profile(torch.rand(2), torch.Tensor.detach, n=1, device="cpu")[0]["backward_ms"])


class Odd(nn.Module):
    """Parameters that sit outside the usual places."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.linear.weight


def test_groups_of_odd_parameters():
    model = Odd()
    names = {id(p): name for name, p in model.named_parameters()}
    biases, norms, weights = ([names[id(p)] for p in group] for group in optimizers.parameter_groups(model))
    assert biases == ["attention.in_proj_bias", "attention.out_proj.bias", "norm.bias", "linear.bias"]
    assert norms == ["gamma", "temperature", "norm.weight"]
    assert weights == ["attention.in_proj_weight", "attention.out_proj.weight", "linear.weight"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize(
    "cfg", ["yolov5n.yaml", "yolov5_edgevit.yaml", "yolov5s-transformer.yaml", "yolov5-bifpn.yaml"]
)
def test_optimizer_groups_cover_every_parameter_once(name, cfg):
    model = DetectionModel(cfg) if cfg != "yolov5-bifpn.yaml" else Odd()
    optimizer = tu.smart_optimizer(model, name, lr=0.02, momentum=0.8, decay=0.05)
    groups = optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0, 0, 0.05]
    assert {group["lr"] for group in groups} == {0.02}
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    positions = {id(m.weight) for m in model.modules() if isinstance(m, PositionEmbed)}
    assert len(positions) == (cfg == "yolov5_edgevit.yaml") * 12
    assert all(p.ndim <= 1 or id(p) in positions for p in groups[0]["params"] + groups[1]["params"])
    assert positions <= {id(p) for p in groups[1]["params"]}
    if name == "SGD":
        assert groups[0]["momentum"] == 0.8 and groups[0]["nesterov"]
    else:
        assert groups[0]["betas"] == (0.8, 0.999)


def test_the_backbone_may_have_its_own_rate():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    slow = [*model[0].parameters(), *model[1].parameters()]
    groups = tu.smart_optimizer(model, "AdamW", lr=0.1, decay=0.05, slow=slow, slow_part=0.2).param_groups
    assert [[p.numel() for p in group["params"]] for group in groups] == [[5], [], [20], [4, 4], [4], [108]]
    assert [group["lr"] for group in groups] == pytest.approx([0.1] * 3 + [0.02] * 3)
    assert [group["weight_decay"] for group in groups] == [0, 0, 0.05] * 2
    assert len(tu.smart_optimizer(model, "AdamW", slow=slow, slow_part=1.0).param_groups) == 3


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the flags of the CPU are read from Linux")
def test_bfloat16_follows_the_flags_of_the_cpu():
    flags = subprocess.run(["grep", "-cE", "avx512_bf16|amx_bf16", "/proc/cpuinfo"], capture_output=True, text=True)
    assert tu.multiplies_bfloat16() == (int(flags.stdout) > 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of another C library")
def test_freed_memory_is_kept():
    code = """
import resource, torch
from utils.torch_utils import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (40, 80, 60, 100):
        torch.ones(megabytes << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
assert keep_freed_memory()
print(given_back, [faults() for _ in range(4)][-1])
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, output.split())
    assert kept < given_back / 10


def test_uncovered_and_doubled_parameters_are_named():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"exactly one optimizer group, but: bias \(in 0\)"):
        optimizers.check_covered(model, torch.optim.SGD([model.weight], lr=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [model.bias]})
    with pytest.raises(ValueError, match=r"bias \(in 2\)"):
        optimizers.check_covered(model, optimizer)
    with pytest.raises(ValueError, match="the optimizer has 3 parameters, the model 2"):
        optimizers.check_covered(model, torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(1))], lr=1))


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="optimizer 'Lion': expected SGD, Adam, AdamW, Muon or RMSProp"):
        tu.smart_optimizer(nn.Linear(2, 2), "Lion")


def test_ema_follows_the_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    ema = tu.ModelEMA(model, decay=0.9, tau=3)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for step in range(1, 6):
        model(torch.randn(4, 2, 5, 5)).sum()  # moves the batch-norm's statistics
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        ema.update(model)
        d = 0.9 * (1 - math.exp(-step / 3))
        for name, tensor in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * tensor if tensor.is_floating_point() else tensor.double()
    assert ema.updates == 5 and not ema.ema.training
    assert not any(p.requires_grad for p in ema.ema.parameters())
    for name, tensor in ema.ema.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert ema.ema.state_dict()["1.num_batches_tracked"] == 5


def test_ema_is_float32_and_leaves_equal_tensors_exact():
    model = nn.Linear(3, 3).bfloat16()
    ema = tu.ModelEMA(model)
    start = copy.deepcopy(ema.ema.state_dict())
    for _ in range(3):
        ema.update(model)
    for name, tensor in ema.ema.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, start[name]), "an average of equal values is that value"


def test_ema_goes_on_from_its_state():
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    whole, first = tu.ModelEMA(model), tu.ModelEMA(model)
    resumed = tu.ModelEMA(nn.Linear(3, 3))
    for step in range(4):
        model.weight.data.normal_()
        whole.update(model)
        (first if step < 2 else resumed).update(model)
        if step == 1:
            resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert resumed.updates == 4
    assert torch.equal(whole.ema.weight, resumed.ema.weight)


@pytest.mark.parametrize(
    "patience, fitness, stops_at",
    [
        (2, [0.1, 0.2, 0.1, 0.1], 3),  # two epochs without improvement
        (2, [0.1, 0.2, 0.1, 0.3, 0.1], None),
        (2, [0.2, 0.2, 0.2, 0.2], None),  # an equal fitness counts as improvement
        (1, [0.0, 0.0], None),  # zero at the start is no reason to stop
        (0, [0.5] + [0.1] * 20, None),  # never
    ],
)
def test_early_stopping(patience, fitness, stops_at):
    stopper = tu.EarlyStopping(patience)
    stops = [stopper(epoch, value) for epoch, value in enumerate(fitness)]
    assert (stops.index(True) if True in stops else None) == stops_at


def test_early_stopping_state_and_possible_stop():
    first, second = tu.EarlyStopping(2), tu.EarlyStopping(2)
    assert not first(0, 0.5) and not first.possible_stop
    assert not first(1, 0.4) and first.possible_stop
    second.load_state_dict(first.state_dict())
    assert second.best_epoch == 0 and second(2, 0.4)


def test_evaluating_restores_each_mode():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with tu.evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_de_parallel_and_copy_attr():
    model = nn.Linear(2, 2)
    assert tu.de_parallel(nn.DataParallel(model)) is model and tu.de_parallel(model) is model

    class Plain:
        pass

    source, target = Plain(), Plain()
    source.a, source.b, source._c = 1, 2, 3
    tu.copy_attr(target, source, exclude=("b",))
    assert vars(target) == {"a": 1}
    tu.copy_attr(target, source, include=("b",))
    assert vars(target) == {"a": 1, "b": 2}
