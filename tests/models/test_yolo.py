"""Models from YAML: rows, indices, backbones anywhere, errors that name the row, fusing, TTA, the script."""

import copy
import math

import pytest
import torch
from torch import nn

from models import describe, yolo
from models.backbone import backbones
from models.common import Conv
from models.yolo import BaseModel, DetectionModel, Model, SegmentationModel, model_class, parse_model
from tests.conftest import ROOT
from tests.scripts import run_script
from utils.checkpoint import Checkpoint
from utils.general import load_yaml

EDGEVIT_FILES = ["yolov5_edgevit.yaml", "yolov5_edgevit_xs.yaml", "yolov5_edgevit_s.yaml"]
# a model file as users of the usual YOLOv5 backbone forks write it
FORK_STYLE = {
    "nc": 4,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]],
    "backbone": [[-1, 1, "edgevit_xxs", []], [-1, 1, "SPPF", [1024, 5]]],
    "head": [
        [-1, 1, "Conv", [512, 1, 1]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 3, "C3", [512, False]],
        [-1, 1, "Conv", [256, 1, 1]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 3, "C3", [256, False]],
        [-1, 1, "Conv", [256, 3, 2]],
        [[-1, 10], 1, "Concat", [1]],
        [-1, 3, "C3", [512, False]],
        [-1, 1, "Conv", [512, 3, 2]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 3, "C3", [1024, False]],
        [[13, 16, 19], 1, "Detect", ["nc", "anchors"]],
    ],
}


class Pyramid(nn.Module):
    """A backbone of strided averages: maps of the given strides, with `channels` channels each."""

    def __init__(self, in_chans, strides, channels=8, weights=None):
        super().__init__()
        self.out_strides = list(strides)
        self.out_channels = [channels] * len(strides)
        self.stem = nn.Conv2d(in_chans, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        x = self.norm(self.stem(x))
        return [nn.functional.avg_pool2d(x, stride) for stride in self.out_strides]


@pytest.fixture
def pyramid(monkeypatch):
    monkeypatch.setitem(yolo.registry.LAYERS, "pyramid", yolo.registry.Layer(Pyramid, yolo.registry.backbone))


def small(rows, head, **keys) -> dict:
    return {"nc": 2, "anchors": [[8, 8, 16, 16]] * len(head[-1][0]), "backbone": rows, "head": head, **keys}


def randomize_norms(model):
    """Batch-norms as after a training: statistics and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def test_rows_have_true_indices_and_save_lists_what_is_read(tiny_model_cfg):
    model, save = parse_model(tiny_model_cfg, 3)
    assert list(dict(model.named_children())) == [str(i) for i in range(7)]
    assert [row.i for row in model] == list(range(7))
    assert [row.f for row in model] == [-1, -1, -1, -1, -1, -1, [3, 5]]
    assert [row.type for row in model][:4] == ["Conv", "Conv", "Conv", "C3"]
    assert save == [3, 5]
    assert sum(row.np for row in model) == sum(p.numel() for p in model.parameters())


def test_model_from_dict_trains_and_detects(tiny_model_cfg):
    given = copy.deepcopy(tiny_model_cfg)
    model = DetectionModel(tiny_model_cfg)
    assert tiny_model_cfg == given, "the caller's dict must stay as it is"
    assert Model is DetectionModel and isinstance(model, BaseModel)
    assert model.stride.tolist() == [8, 16]
    assert (model.nc, model.names, model.task, model.hyp, model.imgsz) == (2, {0: "0", 1: "1"}, "detect", None, None)
    assert [tuple(m.shape) for m in model(torch.zeros(1, 3, 64, 96))] == [(1, 2, 8, 12, 7), (1, 2, 4, 6, 7)]
    boxes, maps = model.eval()(torch.zeros(1, 3, 64, 96))
    assert boxes.shape == (1, 2 * (8 * 12 + 4 * 6), 7) and len(maps) == 2


def test_fork_style_file_loads_unchanged():
    model = DetectionModel(FORK_STYLE)
    assert [row.i for row in model.model] == [0, *range(5, 21)]
    assert list(dict(model.model.named_children()))[:3] == ["0", "5", "6"]
    assert model.stride.tolist() == [8, 16, 32]
    assert model.save == [2, 3, 6, 10, 13, 16, 19]
    assert model.model[1].cv1.conv.in_channels == 288, "SPPF takes stage 4"
    assert model.model[4].f == [-1, 3]


@pytest.mark.parametrize("name", ["EdgeViT_XXS", "EdgeViT-XXS"])
def test_backbone_in_another_spelling(name):
    cfg = copy.deepcopy(FORK_STYLE)
    cfg["backbone"][0][2] = name
    assert len(backbones(DetectionModel(cfg))) == 1


@pytest.mark.parametrize("file", EDGEVIT_FILES)
def test_edgevit_files(file):
    model = DetectionModel(file)
    assert model.stride.tolist() == [8, 16, 32]
    assert [row.i for row in model.model] == [0, *range(5, 21)]
    sum(m.mean() for m in model(torch.rand(2, 3, 64, 64))).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing, "every parameter must receive a gradient"


@pytest.mark.parametrize(
    "strides, filled",
    [([8, 16, 32], [2, 3, 4]), ([4, 8, 16, 32], [1, 2, 3, 4]), ([2, 4, 8, 16, 32], [0, 1, 2, 3, 4])],
)
def test_backbone_of_3_4_or_5_maps(pyramid, strides, filled):
    model = DetectionModel(small([[-1, 1, "pyramid", [strides]]], [[filled, 1, "Detect", ["nc", "anchors"]]]))
    assert model.model[0].slots == filled == model.save
    assert model.stride.tolist() == strides
    assert model.head.i == 5


def test_backbone_that_is_not_row_0_takes_the_next_five_indices(pyramid):
    """A stem of stride 2 and 6 channels: the backbone's maps are at index 1 + log2(their own stride) - 1."""
    rows = [[-1, 1, "Conv", [6, 3, 2]], [-1, 1, "pyramid", [[4, 8]]]]
    cfg = small(rows, [[3, 1, "Conv", [16, 1]], [[2, 6], 1, "Detect", ["nc", "anchors"]]])
    model = DetectionModel(cfg)
    assert [row.i for row in model.model] == [0, 1, 6, 7]
    assert model.model[1].slots == [2, 3]
    assert model.model[1].stem.in_channels == 8
    assert model.stride.tolist() == [8, 16]


@pytest.mark.parametrize("in_the_file", [True, False])
def test_other_input_channels_reach_the_backbone(in_the_file):
    cfg = {**FORK_STYLE, "ch": 4} if in_the_file else FORK_STYLE
    model = DetectionModel(cfg, ch=3 if in_the_file else 4)
    assert model.yaml["ch"] == 4
    assert model.model[0].patch_embed1.proj.in_channels == 4
    assert next(model.parameters()).shape[1] == 4
    assert "GFLOPs" in model.info(img_size=64)


def test_batch_norm_settings_and_statistics_after_building():
    """YOLOv5's in the neck, EdgeViT's own in the backbone, and the stride pass has moved none of them."""
    model = DetectionModel(FORK_STYLE)
    inside = {id(module) for module in model.model[0].modules()}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            expected = (1e-5, 0.1) if id(module) in inside else (1e-3, 0.03)
            assert (module.eps, module.momentum) == expected
            assert module.running_mean.abs().max() == 0 and module.num_batches_tracked == 0
    assert model.training and all(module.training for module in model.modules())


def test_batch_norm_row_has_yolov5_settings():
    rows = [[-1, 1, "nn.BatchNorm2d", []], [-1, 1, "Conv", [8, 3, 2]]]
    model = DetectionModel(small(rows, [[[1], 1, "Detect", ["nc", "anchors"]]]))
    assert (model.model[0].eps, model.model[0].momentum) == (1e-3, 0.03)


def test_building_draws_the_same_numbers_as_its_rows(tiny_model_cfg):
    """The stride pass must not use the random generator."""
    torch.manual_seed(0)
    parse_model(tiny_model_cfg, 3)
    after_rows = torch.rand(1)
    torch.manual_seed(0)
    DetectionModel(tiny_model_cfg)
    assert torch.equal(torch.rand(1), after_rows)


def test_overrides(tiny_model_cfg):
    model = DetectionModel(tiny_model_cfg, nc=7, anchors=3)
    assert (model.nc, model.head.nc, model.yaml["nc"], model.head.na) == (7, 7, 7, 3)
    model = DetectionModel(tiny_model_cfg, anchors=[[1, 2], [3, 4]])
    assert model.head.anchors.tolist() == [[[1 / 8, 2 / 8]], [[3 / 16, 4 / 16]]]


def test_activation_and_channel_multiple_have_no_global_effect(tiny_model_cfg):
    special = DetectionModel({**tiny_model_cfg, "activation": "nn.LeakyReLU(0.1)", "channel_multiple": 16})
    kinds = {type(m.act) for m in special.modules() if isinstance(m, Conv)}
    assert kinds == {nn.LeakyReLU}
    assert [row.conv.out_channels for row in list(special.model)[:3]] == [16, 16, 32]
    plain = DetectionModel(tiny_model_cfg)
    assert {type(m.act) for m in plain.modules() if isinstance(m, Conv)} == {nn.SiLU}
    assert [row.conv.out_channels for row in list(plain.model)[:3]] == [8, 16, 24]


def change(section, row, column, value):
    def apply(cfg):
        cfg[section][row][column] = value

    return apply


@pytest.mark.parametrize(
    "edit, messages",
    [
        (change("head", 0, 2, "Cnv"), ["row 6", "unknown module 'Cnv'", "did you mean Conv"]),
        (change("head", 1, 2, "Upsample"), ["row 7", "did you mean nn.Upsample"]),
        (change("head", 2, 0, [-1, 30]), ["row 8", "'from' 30 is no earlier row, expected 0 to 7"]),
        (change("head", 2, 0, [-1, 8]), ["row 8", "'from' 8 is no earlier row"]),  # itself
        (change("head", 2, 0, [-1, -20]), ["row 8", "'from' -20 is no earlier row"]),
        (change("head", 2, 0, [-1, "x"]), ["row 8", "'from' must be an index"]),
        (change("head", 2, 0, []), ["row 8", "'from' is an empty list"]),
        (
            change("head", 2, 0, [-1, 0]),
            ["row 8", "index 0, which has no map; there are maps at [1, 2, 3, 4, 5, 6, 7]"],
        ),
        (change("head", 0, 3, []), ["row 6", "expected at least one argument"]),
        (change("head", 0, 3, [512, 1, 1, None, 1, 1, True, 8, 9]), ["row 6", "too many positional arguments"]),
        (change("head", 1, 3, ["None", 2, "nearest", 1, 2, 3, 4]), ["row 7", "too many positional arguments"]),
        (change("head", 0, 3, ["[512", 1]), ["row 6", "'[512' is not a valid Python literal"]),
        (change("head", 0, 3, ["wide", 1]), ["row 6", "number of channels", "'wide'"]),
        (change("head", 0, 3, 512), ["row 6", "expected a list of arguments, found 512"]),
        (change("head", 0, 1, 0), ["row 6", "positive number of repeats, found 0"]),
        (change("head", 0, 0, [-1, 4]), ["row 6", "takes one input, found 2"]),
        (change("head", 0, 3, [512, 1, 1, None, 7]), ["row 6", "groups"]),  # 288 channels in 7 groups
        (change("head", 2, 0, [-1, 2]), ["row 8 Concat, from [-1, 2]", "the maps do not fit"]),  # sizes differ
        (change("head", 14, 0, [13, 16]), ["row 20", "anchors: expected 2 lists, one for each map, found 3"]),
        (change("head", 14, 3, ["nc", "anchor"]), ["row 20", "found 'anchor'"]),
        (change("head", 14, 3, ["nc"]), ["row 20", "found"]),
        (change("head", 8, 0, [20]), ["row 14", "'from' 20 is no earlier row"]),
        (change("backbone", 0, 2, "edgevit_xxl"), ["row 0", "did you mean edgevit_xxs"]),
        (change("backbone", 0, 3, [{"drop": 1}]), ["row 0", "unexpected keyword argument 'drop'"]),
        (lambda cfg: cfg["head"].pop(), ["the last row of a model for 'detect' must be Detect, found C3"]),
        (lambda cfg: cfg["head"][3].pop(), ["row 9", "expected [from, number, module, args]"]),
        (lambda cfg: cfg.pop("nc"), ["key 'nc' is missing"]),
        (lambda cfg: cfg.pop("head"), ["key 'head' is missing"]),
        (lambda cfg: cfg.update(head={}), ["'head' must be a list of rows"]),
        (lambda cfg: cfg.update(backbone=[], head=[]), ["expected at least one row"]),
        (lambda cfg: cfg.update(nc="four"), ["nc: expected a positive number, found 'four'"]),
        (lambda cfg: cfg.update(activation="nn.Silu()"), ["unknown activation 'Silu'"]),
    ],
)
def test_a_mistake_names_its_row(edit, messages):
    cfg = copy.deepcopy(FORK_STYLE)
    edit(cfg)
    with pytest.raises(ValueError) as error:
        DetectionModel(cfg)
    for message in messages:
        assert message in str(error.value)


def test_repeats_between_unequal_channels(tiny_model_cfg):
    tiny_model_cfg["backbone"][1][1] = 2
    with pytest.raises(ValueError, match="row 1 .*2 in sequence need equal input and output channels, found 8 and 16"):
        DetectionModel(tiny_model_cfg)


def test_a_mistake_names_its_file(tmp_path, tiny_model_cfg):
    file = tmp_path / "typo.yaml"
    file.write_text("nc: 2\nbackbone:\n  - [-1, 1, Conw, [8]]\nhead: []\n")
    with pytest.raises(ValueError, match=r"typo.yaml: row 0 .*unknown module 'Conw', did you mean Conv"):
        DetectionModel(file)


def test_unknown_key_is_reported(tiny_model_cfg, caplog):
    DetectionModel({**tiny_model_cfg, "activaton": "nn.ReLU()"})
    assert "unknown key 'activaton' is not used, did you mean activation?" in caplog.text


def test_bare_name_and_path_are_the_same_file():
    assert DetectionModel("yolov5n.yaml").yaml == DetectionModel(ROOT / "models" / "yolov5n.yaml").yaml
    with pytest.raises(FileNotFoundError, match="did you mean yolov5"):
        DetectionModel("yolov5nn.yaml")


@pytest.mark.parametrize("cfg", [*EDGEVIT_FILES[:1], "yolov5n.yaml", "yolov5s-ghost.yaml", "yolov5_timm.yaml"])
def test_fuse(cfg):
    if "timm" in cfg:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = randomize_norms(DetectionModel(cfg, nc=3)).eval()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, _ = model(image)
        assert model.fuse() is model
        after, _ = model(image)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    scale = before.abs().amax((0, 1))
    assert ((after - before).abs().amax((0, 1)) / scale).max() < 1e-5


def test_test_time_augmentation(tiny_model_cfg):
    """The three views stand one after the other, in the image's coordinates."""
    torch.manual_seed(0)
    model = DetectionModel(tiny_model_cfg).eval()
    image = torch.rand(1, 3, 64, 128)
    cells = [sum(2 * (h // s) * (w // s) for s in (8, 16)) for h, w in ((64, 128), (64, 112), (48, 96))]
    with torch.no_grad():
        boxes, maps = model(image, augment=True)
        plain = model(image)[0]
        mirrored = model(image.flip(3), augment=True)[0]
    assert maps is None and boxes.shape == (1, sum(cells), 7)
    assert torch.equal(boxes[:, : cells[0]], plain)
    # the second view is a mirror image: from the mirrored image it finds the plain image's boxes at 0.83
    scaled = model(yolo.scale_img(image, 0.83, gs=16))[0].detach()
    scaled[..., [0, 2]] *= 128 / int(128 * 0.83)
    scaled[..., [1, 3]] *= 64 / int(64 * 0.83)
    second = mirrored[:, cells[0] : cells[0] + cells[1]]
    torch.testing.assert_close(128 - second[..., 0], scaled[..., 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(second[..., 1:], scaled[..., 1:], rtol=1e-4, atol=1e-3)


@pytest.fixture
def tiny_segment_cfg(tiny_model_cfg):
    """The tiny detector with 4 masks and 8 hidden channels of the prototypes."""
    tiny_model_cfg["head"][-1][2:] = ["Segment", ["nc", "anchors", 4, 8]]
    return tiny_model_cfg


def test_segmentation_model(tiny_segment_cfg):
    model = SegmentationModel(tiny_segment_cfg)
    assert (model.task, model.nc, model.head.nm, model.stride.tolist()) == ("segment", 2, 4, [8, 16])
    image = torch.rand(1, 3, 64, 96)
    maps, protos = model(image)
    assert [tuple(m.shape) for m in maps] == [(1, 2, 8, 12, 11), (1, 2, 4, 6, 11)] and protos.shape == (1, 4, 16, 24)
    with torch.no_grad():
        predictions, protos, maps = model.eval()(image)
        assert predictions.shape == (1, 2 * (8 * 12 + 4 * 6), 11) and protos.shape == (1, 4, 16, 24) and len(maps) == 2
        with pytest.raises(ValueError, match="expected augment=False for a segmentation model"):
            model(image, augment=True)
        model.fuse()
        for after, before in zip(model(image)[:2], (predictions, protos)):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
        model.head.export = True
        assert [tuple(t.shape) for t in model(image)] == [tuple(predictions.shape), tuple(protos.shape)]


def test_segmentation_model_from_checkpoint(tiny_segment_cfg):
    model = SegmentationModel(tiny_segment_cfg).eval()
    names, stride = {0: "a", 1: "b"}, model.stride.tolist()
    checkpoint = Checkpoint(model.yaml, names, 2, stride, model.state_dict(), task="segment")
    loaded = SegmentationModel.from_checkpoint(checkpoint)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(image)[:2], model(image)[:2]))
    with pytest.raises(ValueError, match="the last row of a model for 'detect' must be Detect, found Segment"):
        DetectionModel.from_checkpoint(checkpoint)


def test_class_of_a_model_file(tiny_segment_cfg):
    assert model_class(tiny_segment_cfg) is SegmentationModel
    assert model_class("yolov5n-seg.yaml") is SegmentationModel and model_class("yolov5n.yaml") is DetectionModel
    for head in ([], None, [3], [[[5], 1, "Detect", ["nc", "anchors"]]]):  # what is wrong is for the class to say
        assert model_class({**tiny_segment_cfg, "head": head}) is DetectionModel
    with pytest.raises(ValueError, match="the last row of a model for 'segment' must be Segment, found Detect"):
        SegmentationModel("yolov5n.yaml")
    tiny_segment_cfg["head"][-1][3] = ["nc", "anchors", 4]
    with pytest.raises(ValueError, match="row 6 .*expected four arguments, nc, anchors, masks and hidden channels"):
        SegmentationModel(tiny_segment_cfg)


def test_profile_and_visualize(tiny_model_cfg, tmp_path, caplog):
    caplog.set_level("INFO")
    model = DetectionModel(tiny_model_cfg).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64), profile=True)
        assert list(model.row_ms) == list(range(7)) and all(ms > 0 for ms in model.row_ms.values())
        model(torch.zeros(1, 3, 64, 64), visualize=tmp_path)
    assert "SPPF" in caplog.text
    assert len(list(tmp_path.glob("*.png"))) == 6, "one picture for each row but Detect"


def test_from_checkpoint(tiny_model_cfg):
    torch.manual_seed(0)
    model = randomize_norms(DetectionModel(tiny_model_cfg, nc=3)).eval()
    state = {name: t.half() if t.is_floating_point() else t for name, t in model.half().state_dict().items()}
    checkpoint = Checkpoint(
        yaml=model.yaml,
        names={0: "a", 1: "b", 2: "c"},
        nc=3,
        stride=[8, 16],
        state_dict=state,
        imgsz=96,
        hyp={"box": 1},
    )
    loaded = DetectionModel.from_checkpoint(checkpoint)
    assert not loaded.training and loaded.names[2] == "c" and loaded.imgsz == 96 and loaded.hyp == {"box": 1}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.float()(image)[0]
        torch.testing.assert_close(loaded(image)[0], expected)
        fused = DetectionModel.from_checkpoint(checkpoint, fuse=True)
        torch.testing.assert_close(fused(image)[0], expected, rtol=1e-4, atol=1e-4)
    del state["model.0.conv.weight"]
    with pytest.raises(ValueError, match="do not fit its model description: model.0.conv.weight is missing"):
        DetectionModel.from_checkpoint(checkpoint)


def test_script_prints_table_size_and_runs():
    result = run_script("models/yolo.py", "--cfg", "yolov5_edgevit.yaml", "--device", "cpu", "--line-profile")
    assert result.returncode == 0, result.stderr
    for text in (
        "edgevit_xxs",
        "5014629 parameters, 5014629 gradients, 12.8 GFLOPs",
        "strides [8, 16, 32]",
        "forward and backward",
    ):
        assert text in result.stdout
    first_columns = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert first_columns[1:4] == ["0", "5", "6"], "true indices"


def test_script_runs_a_segmentation_file():
    result = run_script("models/yolo.py", "--cfg", "models/segment/yolov5n-seg.yaml", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "SegmentationModel: 25 layers, 1991549 parameters, 1991549 gradients, 7.1 GFLOPs" in result.stdout
    assert "[1, 3, 20, 20, 117], [1, 32, 160, 160]]" in result.stdout


@pytest.mark.parametrize(
    "args, message",
    [(["--cfg", "yolov5q.yaml"], "did you mean yolov5"), (["--device", "9"], "device '9'")],
)
def test_script_errors_are_one_line(args, message):
    result = run_script("models/yolo.py", *args)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


def test_build_all_counts_failures(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    (tmp_path / "models" / "segment").mkdir(parents=True)
    (tmp_path / "models" / "good.yaml").write_text((ROOT / "models" / "yolov5n.yaml").read_text())
    (tmp_path / "models" / "bad.yaml").write_text("nc: 1\nbackbone: [[-1, 1, Conw, [8]]]\nhead: []\n")
    segment = (ROOT / "models" / "segment" / "yolov5n-seg.yaml").read_text()
    (tmp_path / "models" / "segment" / "good-seg.yaml").write_text(segment)
    monkeypatch.setattr(describe, "ROOT", tmp_path)
    assert describe.build_all() == 1
    assert "bad.yaml: failed" in caplog.text and "2 built, 1 failed, 0 skipped" in caplog.text
    assert describe.main(describe.parse_opt(["--test"])) == 1


def test_edgevit_files_have_one_neck():
    """The three files differ in backbone and widths only."""
    shapes = []
    for file in EDGEVIT_FILES:
        cfg = load_yaml(ROOT / "models" / file)
        assert (cfg["nc"], cfg["depth_multiple"], cfg["width_multiple"]) == (80, 1.0, 1.0)
        shapes.append([(row[0], row[1], row[2]) for row in [cfg["backbone"][1], *cfg["head"]]])
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize(
    "number", [math.inf, math.nan, -1e308, 10**400, "1e999", f"[{'9' * 300}]"], ids=lambda n: str(n)[:9]
)
@pytest.mark.parametrize("place", ["argument", "kernel", "anchors", "repeats"])
def test_numbers_that_no_model_can_mean(tiny_model_cfg, number, place):
    cfg = copy.deepcopy(tiny_model_cfg)
    row = cfg["backbone"][0]
    if place == "anchors":
        cfg["anchors"][0][0] = number
    elif place == "repeats":
        row[1] = number
    else:
        row[3][place == "kernel"] = number
    with pytest.raises(ValueError) as caught:
        DetectionModel(cfg)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
