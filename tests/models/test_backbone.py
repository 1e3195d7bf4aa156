"""The backbone contract, loading of a file's tensors into a backbone, and timm's models."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.backbone import backbones, is_backbone, load_backbone_weights, slots
from models.backbone.Edgevit import EdgeViT, edgevit_xxs
from models.yolo import DetectionModel


def tiny_backbone(seed: int) -> EdgeViT:
    torch.manual_seed(seed)
    return EdgeViT((1, 1, 1, 1), (8, 8, 8, 8), 8)


def classifier_file(path, model, prefix="", extra=True):
    """A published checkpoint's content: the backbone's tensors, final norm and head."""
    tensors = {prefix + name: tensor.clone() for name, tensor in model.state_dict().items()}
    if extra:
        tensors.update({f"{prefix}norm.weight": torch.ones(8), f"{prefix}head.weight": torch.ones(10, 8)})
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors} if path.suffix == ".pth" else tensors, path)
    return path


def same(a, b) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


class Declared(nn.Module):
    def __init__(self, strides, channels):
        super().__init__()
        self.out_strides, self.out_channels = strides, channels


@pytest.mark.parametrize(
    "strides, expected",
    [([4, 8, 16, 32], [1, 2, 3, 4]), ([8, 16, 32], [2, 3, 4]), ([2, 4, 8, 16, 32], [0, 1, 2, 3, 4]), ([16], [3])],
)
def test_slots(strides, expected):
    backbone = Declared(strides, [8] * len(strides))
    assert is_backbone(backbone)
    assert slots(backbone) == expected


@pytest.mark.parametrize(
    "strides, channels, message",
    [
        ([32, 16, 8], [8, 8, 8], "finest first, found"),  # coarsest first
        ([8, 8, 16], [8, 8, 8], "finest first, found"),  # two maps of one size
        ([8, 12], [8, 8], "some of"),
        ([1, 2], [8, 8], "some of"),
        ([32, 64], [8, 8], "some of"),
        ([], [], "some of"),
        ([8, 16], [8], "2 strides but 1 channels"),
    ],
)
def test_broken_contract(strides, channels, message):
    with pytest.raises(ValueError, match=message):
        slots(Declared(strides, channels))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "model.", "module.backbone.", "model.0."])
def test_load_strips_prefixes_and_lists_the_rest(tmp_path, caplog, suffix, prefix):
    caplog.set_level("INFO")
    source, target = tiny_backbone(1), tiny_backbone(2)
    path = classifier_file(tmp_path / f"edge{suffix}", source, prefix)
    total = len(source.state_dict())
    assert load_backbone_weights(target, path) == total
    assert same(source, target)
    assert f"{total} of the backbone's {total} tensors match" in caplog.text
    assert f"{prefix}norm.weight" in caplog.text and f"{prefix}head.weight" in caplog.text
    assert "not in the file: none" in caplog.text


def test_load_into_a_detector_touches_the_backbone_alone(tmp_path):
    path = tmp_path / "xxs.pt"
    source = edgevit_xxs()
    torch.save(source.state_dict(), path)
    model = DetectionModel("yolov5_edgevit.yaml", nc=2)
    neck = copy.deepcopy(model.model[1:])
    load_backbone_weights(model, path)
    assert same(source, model.model[0]) and same(neck, model.model[1:])


def test_less_than_nine_tenths_is_refused_and_nothing_is_changed(tmp_path):
    source, target = tiny_backbone(1), tiny_backbone(2)
    before = copy.deepcopy(target)
    source.patch_embed1 = source.blocks1 = nn.Identity()  # about a third of the tensors
    path = classifier_file(tmp_path / "part.pt", source)
    with pytest.raises(ValueError, match="expected at least 90%; not in the file: patch_embed1"):
        load_backbone_weights(target, path)
    assert same(before, target)


def test_another_shape_is_listed_with_both_shapes(tmp_path, caplog):
    """A stem for 3 channels does not fit a backbone for 4; everything else does."""
    caplog.set_level("INFO")
    source = tiny_backbone(1)
    target = EdgeViT((1, 1, 1, 1), (8, 8, 8, 8), 8, in_chans=4)
    loaded = load_backbone_weights(target, classifier_file(tmp_path / "rgb.pt", source))
    assert loaded == len(source.state_dict()) - 1
    assert "patch_embed1.proj.weight (shape [8, 3, 4, 4], expected [8, 4, 4, 4])" in caplog.text


def test_model_without_backbone(tmp_path, tiny_model_cfg):
    path = classifier_file(tmp_path / "edge.pt", tiny_backbone(1))
    with pytest.raises(ValueError, match="edge.pt: expected a model with one backbone.*found 0"):
        load_backbone_weights(DetectionModel(tiny_model_cfg), path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        load_backbone_weights(tiny_backbone(1), "nowhere.pt")


@pytest.mark.parametrize("as_keyword", [True, False])
def test_weights_in_the_model_file(tmp_path, as_keyword):
    """Loaded after all else is built; a checkpoint of that model needs the file no more."""
    path = tmp_path / "xxs.pt"
    source = edgevit_xxs()
    torch.save(source.state_dict(), path)
    from tests.models.test_yolo import FORK_STYLE

    cfg = copy.deepcopy(FORK_STYLE)
    cfg["backbone"][0][3] = [{"weights": str(path), "drop_path_rate": 0.1}] if as_keyword else [str(path)]
    model = DetectionModel(cfg)
    assert same(source, backbones(model)[0])
    assert model.model[0].blocks4[-1].SelfAttn.drop_path.rate == pytest.approx(0.1 if as_keyword else 0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="xxs.pt"):
        DetectionModel(cfg)
    DetectionModel(cfg, load_backbones=False)


@pytest.mark.parametrize("call", [lambda path: edgevit_xxs(weights=path), lambda path: edgevit_xxs(3, path)])
def test_weights_of_the_function(tmp_path, call):
    path = tmp_path / "xxs.pt"
    source = edgevit_xxs()
    torch.save(source.state_dict(), path)
    assert same(source, call(path))


def timm_cfg(*args):
    head = [[[2, 3, 4], 1, "Detect", ["nc", "anchors"]]]
    return {"nc": 2, "anchors": [[8, 8]] * 3, "backbone": [[-1, 1, "timm", list(args)]], "head": head}


@pytest.mark.parametrize(
    "args, strides",
    [
        (["resnet18"], [2, 4, 8, 16, 32]),
        (["mobilenetv3_small_050"], [2, 4, 8, 16, 32]),  # batch-norms with activations inside
        (["convnext_atto"], [4, 8, 16, 32]),  # without batch-norm
        (["swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}], [4, 8, 16, 32]),  # maps are [B, H, W, C]
        (["resnet18", {"out_indices": [2, 3, 4]}], [8, 16, 32]),  # three maps
    ],
)
def test_timm_family(args, strides):
    """Forward, gradients, channels other than 3, fuse."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = DetectionModel(timm_cfg(*args), ch=4) if len(args) == 1 or "out_indices" in args[1] else None
    backbone = model.model[0] if model else _timm(*args)
    assert backbone.out_strides == strides
    image = torch.rand(2, 4 if model else 3, 64, 64)
    maps = backbone(image)
    assert [list(m.shape) for m in maps] == [[2, c, 64 // s, 64 // s] for c, s in zip(backbone.out_channels, strides)]
    sum(m.mean() for m in maps).backward()
    backbone.eval()
    with torch.no_grad():
        before = backbone(image)
        backbone.fuse()
        after = backbone(image)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    for a, b in zip(before, after):
        assert (a - b).abs().max() / a.abs().max() < 1e-5


def _timm(name, keywords):
    from models.backbone import timm_backbone

    return timm_backbone(3, name, **keywords)


def test_timm_weights_from_a_classifier(tmp_path):
    """features_only models write stages.0 as stages_0; a classifier's file fits all the same."""
    timm = pytest.importorskip("timm")
    from models.backbone import timm_backbone

    classifier = timm.create_model("convnext_atto")
    path = tmp_path / "convnext.pt"
    torch.save(classifier.state_dict(), path)
    model = timm_backbone(3, "convnext_atto", path)
    assert torch.equal(model.model.stem_0.weight, classifier.stem[0].weight)


@pytest.mark.parametrize(
    ("name", "size", "keyword"),
    [
        ("swin_tiny_patch4_window7_224", "224 x 224", "{strict_img_size: false}"),
        ("swinv2_tiny_window8_256", "256 x 256", "{strict_img_size: false}"),  # It would pass a probe of 256 px.
        ("vit_tiny_patch16_224", "224 x 224", "{dynamic_img_size: true}"),
    ],
)
def test_a_timm_model_of_one_size_names_the_keyword(name, size, keyword):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=f"row 0 .*{name} takes images of {size} px alone; with {keyword}"):
        DetectionModel(timm_cfg(name))


def test_a_size_that_a_timm_model_refuses():
    pytest.importorskip("timm")
    from models.backbone import timm_backbone

    backbone = timm_backbone(3, "maxvit_rmlp_pico_rw_256")
    with pytest.raises(ValueError, match=r"timm maxvit_rmlp_pico_rw_256: images of \[320, 256\] px do not fit it"):
        backbone(torch.zeros(1, 3, 320, 256))


def test_unknown_timm_name():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"row 0 .*timm has no model 'resnet17', did you mean .*resnet"):
        DetectionModel(timm_cfg("resnet17"))
