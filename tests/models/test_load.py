"""attempt_load and Ensemble: from checkpoint files to models that detect."""

import copy

import pytest
import torch

from models.heads import Detect
from models.load import Ensemble, attempt_load
from models.yolo import DetectionModel
from tests.conftest import SHARED, needs_shared
from utils.checkpoint import Checkpoint, save_checkpoint


def saved_model(path, cfg, seed=0, names=("box", "disc"), half=False):
    """A random model and its checkpoint file."""
    torch.manual_seed(seed)
    model = DetectionModel(copy.deepcopy(cfg)).eval()
    model.names = dict(enumerate(names))
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in model.state_dict().items()}
    ckpt = Checkpoint(model.yaml, model.names, model.nc, model.stride.tolist(), state, imgsz=64)
    save_checkpoint(path, ckpt)
    return model, path


@torch.no_grad()
def test_load_gives_the_saved_model(tmp_path, tiny_model_cfg):
    model, path = saved_model(tmp_path / "a.pt", tiny_model_cfg)
    x = torch.rand(1, 3, 64, 96)
    expected = model(x)[0]
    for fuse in (False, True):
        loaded = attempt_load(path, fuse=fuse)
        assert not loaded.training and loaded.names == {0: "box", 1: "disc"} and loaded.imgsz == 64
        assert loaded.stride.tolist() == model.stride.tolist()
        torch.testing.assert_close(loaded(x)[0], expected, rtol=1e-4, atol=1e-4)
        assert any(isinstance(m, torch.nn.BatchNorm2d) for m in loaded.modules()) is not fuse


def test_half_precision_file_becomes_float32(tmp_path, tiny_model_cfg):
    _, path = saved_model(tmp_path / "a.pt", tiny_model_cfg, half=True)
    assert {p.dtype for p in attempt_load(path).parameters()} == {torch.float32}


@pytest.mark.parametrize("inplace", [True, False])
def test_inplace_reaches_the_heads(tmp_path, tiny_model_cfg, inplace):
    model = attempt_load(saved_model(tmp_path / "a.pt", tiny_model_cfg)[1], inplace=inplace)
    assert [head.inplace for head in model.modules() if isinstance(head, Detect)] == [inplace]


@torch.no_grad()
def test_ensemble_joins_the_boxes(tmp_path, tiny_model_cfg):
    files = [saved_model(tmp_path / f"{seed}.pt", tiny_model_cfg, seed)[1] for seed in (0, 1)]
    ensemble = attempt_load(files)
    x = torch.rand(2, 3, 64, 64)
    boxes, maps = ensemble(x)
    first, second = (attempt_load(file)(x)[0] for file in files)
    assert isinstance(ensemble, Ensemble) and maps is None
    assert torch.equal(boxes, torch.cat([first, second], 1)) and not torch.equal(first, second)
    assert (ensemble.names, ensemble.nc, ensemble.imgsz) == ({0: "box", 1: "disc"}, 2, 64)


def test_ensemble_stride_is_the_largest(tmp_path, tiny_model_cfg):
    """With strides (8, 16) and (16, 32), an image size must suit stride 32, in either order."""
    deeper = copy.deepcopy(tiny_model_cfg)
    deeper["backbone"].insert(0, [-1, 1, "Conv", [8, 3, 2]])
    deeper["head"][-1][0] = [4, 6]
    files = [saved_model(tmp_path / f"{i}.pt", cfg)[1] for i, cfg in enumerate([tiny_model_cfg, deeper])]
    for order in (files, files[::-1]):
        assert attempt_load(order).stride.max() == 32


def test_list_of_one_gives_a_plain_model(tmp_path, tiny_model_cfg):
    _, path = saved_model(tmp_path / "a.pt", tiny_model_cfg)
    assert isinstance(attempt_load([path]), DetectionModel)


def test_ensemble_of_other_names_is_an_error(tmp_path, tiny_model_cfg):
    _, a = saved_model(tmp_path / "a.pt", tiny_model_cfg)
    _, b = saved_model(tmp_path / "b.pt", tiny_model_cfg, names=("cat", "dog"))
    with pytest.raises(ValueError, match=r"b\.pt: expected .*'box'.* found .*'cat'"):
        attempt_load([a, b])


def test_an_ensemble_takes_detectors_alone(tmp_path):
    save_checkpoint(tmp_path / "seg.pt", Checkpoint({}, {0: "box"}, 1, [8.0], {}, task="segment"))
    with pytest.raises(ValueError, match=r"seg\.pt: an ensemble takes detection models, found one for .* 'segment'"):
        attempt_load([tmp_path / "seg.pt"] * 2)


@needs_shared
def test_official_checkpoint():
    """The parameters of YOLOv5n as published, and after fusing: 60 batch-norms less, 60 biases more."""
    path = SHARED / "weights" / "yolov5n.pt"
    model = attempt_load(path, fuse=False)
    assert sum(p.numel() for p in model.parameters()) == 1_872_157
    fused = attempt_load(path)
    assert sum(p.numel() for p in fused.parameters()) == 1_867_405
    assert fused.names[0] == "person" and len(fused.names) == 80 and fused.stride.tolist() == [8, 16, 32]
    x = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, expected = fused(x)[0], model(x)[0]
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
