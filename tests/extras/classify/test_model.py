"""model.py: every kind of classifier is built, saved, cut, reshaped, fused and written for other code."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from extras.classify import model as classify
from extras.classify.model import (
    ClassificationModel,
    cut_detector,
    export_weights,
    load_classifier,
    reshape_classifier_output,
)
from extras.classify.networks import IMAGENET, find_network, last_layer, set_dropout
from models.backbone import load_backbone_weights
from models.backbone.classifier import EdgeViTClassifier
from models.backbone.Edgevit import VARIANTS, edgevit_xxs
from models.backbone.export import to_export_form
from models.yolo import DetectionModel, load_cfg
from tests.conftest import SHARED, needs_shared
from tests.models.test_edgevit import closed_form_image, fill, relative_error
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

GOLDEN = SHARED / "golden"
TINY = {  # four rows and a head
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3", [16]]],
    "head": [[-1, 1, "Classify", ["nc"]]],
}


def images(size=64, batch=2, seed=0) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def shaken(model: nn.Module) -> nn.Module:
    """The model with noise on every tensor, so that no zero bias or unit scale hides a mistake; in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.add_(noise * 0.2 if name.endswith("running_var") else (noise - 0.5) * 0.1)
    return model.eval()


def saved(model: ClassificationModel, path, **changes):
    values = {"yaml": model.yaml, "names": model.names, "nc": model.nc, "state_dict": model.state_dict()}
    save_checkpoint(path, Checkpoint(stride=[32.0], task="classify", **{**values, **changes}))
    return path


def detector(path, cfg="yolov5_edgevit.yaml"):
    model = shaken(DetectionModel(cfg, nc=2))
    values = {"yaml": model.yaml, "names": model.names, "nc": 2, "stride": model.stride.tolist()}
    save_checkpoint(path, Checkpoint(state_dict=model.state_dict(), **values))
    return path, model


def logits(model, x=None) -> torch.Tensor:
    with torch.no_grad():
        return model(images() if x is None else x)


@needs_shared
@pytest.mark.parametrize("name", ["edgevit_xxs", "edgevit_xs"])
@pytest.mark.parametrize("fused", [False, True])
def test_logits_equal_the_reference_outputs(name, fused):
    model = ClassificationModel(name)
    fill(model.model)
    model.eval()
    model = model.fuse() if fused else model
    expected = torch.from_numpy(np.load(GOLDEN / "edgevit_64x96.npz")[f"{name}/logits"])
    assert relative_error(logits(model, closed_form_image()), expected) <= 1e-5


@needs_shared
@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"edgevit_n", "edgevit_t"}))
def test_exported_names_and_shapes_are_those_of_published_checkpoints(name):
    expected = json.loads((GOLDEN / "edgevit_state_dict_keys.json").read_text())[name]
    found = ClassificationModel(name).export_state_dict()
    assert {key: list(tensor.shape) for key, tensor in found.items()} == expected


@pytest.mark.parametrize(
    "name, parameters", [("edgevit_xxs", 4_067_704), ("edgevit_xs", 6_770_056), ("edgevit_s", 13_108_168)]
)
def test_parameters_are_those_of_the_paper(name, parameters):
    assert sum(p.numel() for p in ClassificationModel(name).parameters()) == parameters


SOURCES = [
    ("edgevit_xxs", "edgevit_xxs", "head"),
    ("EdgeViT-XS", "edgevit_xs", "head"),  # any spelling
    ("resnet18", "torchvision/resnet18", "fc"),
    ("torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_small", "classifier.3"),
    ("squeezenet1_1", "torchvision/squeezenet1_1", "classifier.1"),  # ends with a convolution
    ("timm/resnet18", "timm/resnet18", "fc"),  # timm's, though torchvision has the name too
    ("convnext_atto", "timm/convnext_atto", "head.fc"),  # timm's alone
    (TINY, None, "3.linear"),  # a model file
]


@pytest.mark.parametrize("source, stored, last", SOURCES, ids=[str(row[1]) for row in SOURCES])
def test_every_source_is_built_saved_and_loaded(tmp_path, source, stored, last):
    if str(stored).startswith("timm/"):
        pytest.importorskip("timm")
    model = ClassificationModel(source, nc=3)
    assert stored is None or model.yaml["model"] == stored
    assert (model.nc, model.names, model.stride.tolist(), model.task) == (3, {0: "0", 1: "1", 2: "2"}, [32], "classify")
    name, layer = last_layer(model.model)
    assert name == last and layer.weight.shape[0] == 3
    training, evaluating = model.train()(images()), model.eval()(images())
    assert training.shape == evaluating.shape == (2, 3)
    assert str(sum(p.numel() for p in model.parameters())) in model.info(img_size=64)
    assert len(model.layer_table().splitlines()) == 1 + len(list(model.model.children()))
    shaken(model).names = {0: "a", 1: "b", 2: "c"}
    again = ClassificationModel.from_checkpoint(load_checkpoint(saved(model, tmp_path / "a.pt", imgsz=64)))
    assert torch.equal(logits(again), logits(model)) and not again.training
    assert (again.names, again.imgsz, again.yaml) == (model.names, 64, model.yaml)
    fused = ClassificationModel.from_checkpoint(load_checkpoint(tmp_path / "a.pt"), fuse=True)
    torch.testing.assert_close(logits(fused), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet81", "no classifier 'resnet81', did you mean resnet18"),
        ("edgevit_xxl", "did you mean edgevit_xxs"),
        ("torchvision/convnext_atto", "did you mean"),  # torchvision has no such model
        ("nothing_at_all_like_it", f"did you mean {' or '.join(VARIANTS)} or resnet18"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        find_network(name)


def test_bad_arguments_are_told_with_what_was_found():
    with pytest.raises(ValueError, match="resnet18: torchvision's models take 3 input channels, found ch=1"):
        ClassificationModel("resnet18", ch=1)
    with pytest.raises(ValueError, match="last row of a classifier must be Classify, found C3"):
        ClassificationModel({**TINY, "head": []})
    with pytest.raises(ValueError, match="normalize: expected none, imagenet, .* found 'inception'"):
        ClassificationModel("edgevit_xxs", normalize="inception")
    with pytest.raises(ValueError, match="dropout: expected a probability .* found 1"):
        ClassificationModel("edgevit_xxs", dropout=1)
    with pytest.raises(ValueError, match="no address of weights for edgevit_xxs: give a file, --pretrained"):
        load_classifier("edgevit_xxs", 3, pretrained=True)


def test_a_grey_classifier():
    assert ClassificationModel("edgevit_xxs", ch=1, nc=2)(images()[:, :1]).shape == (2, 2)


@pytest.mark.parametrize("name", ["edgevit_xxs", "resnet18"])
def test_normalisation_is_part_of_the_model_but_not_of_its_tensors(name):
    plain = shaken(ClassificationModel(name, nc=3))
    usual = ClassificationModel({**plain.yaml, "normalize": "imagenet"}).eval()
    assert usual.state_dict().keys() == plain.state_dict().keys()
    usual.load_state_dict(plain.state_dict())
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    expected = logits(plain, (images() - mean) / deviation)
    torch.testing.assert_close(logits(usual), expected)
    torch.testing.assert_close(logits(copy.deepcopy(usual).fuse()), expected, rtol=1e-4, atol=1e-5)
    own = ClassificationModel({**plain.yaml, "normalize": [[0.5] * 3, [0.25] * 3]}).eval()  # as some of timm's want it
    own.load_state_dict(plain.state_dict())
    torch.testing.assert_close(logits(own), logits(plain, (images() - 0.5) / 0.25))


@pytest.mark.parametrize("normalize", ["none", "imagenet"])
def test_the_export_form_has_the_same_logits(normalize):
    """What models/exportable.py does to a detector works for a classifier, and a trace needs nothing of Python."""
    model = shaken(ClassificationModel("edgevit_xxs", nc=3, normalize=normalize))
    form = copy.deepcopy(model).fuse()
    to_export_form(form)
    for module in form.modules():
        if hasattr(module, "export"):
            module.export = True
    traced = torch.jit.trace(form.requires_grad_(False), images(), check_trace=False)
    torch.testing.assert_close(traced(images(seed=3)), logits(model, images(seed=3)), rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    model = ClassificationModel("edgevit_xxs", nc=3).train()
    nn.functional.cross_entropy(model(images()), torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_authors_checkpoints_load_and_ours_load_there(tmp_path):
    """Both ways give equal logits, though their code takes off ImageNet's mean and deviation, and ours did not."""
    theirs = shaken(EdgeViTClassifier(**VARIANTS["edgevit_xxs"], nc=5))
    torch.save({"model": theirs.state_dict(), "epoch": 300}, tmp_path / "edgevit.pth")
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    their_input = (images() - mean) / deviation
    ours = load_classifier("edgevit_xxs", 5, pretrained=tmp_path / "edgevit.pth").eval()
    assert ours.yaml["normalize"] == "imagenet"
    torch.testing.assert_close(logits(ours), logits(theirs, their_input))

    for normalize in ("none", "imagenet"):
        trained = shaken(ClassificationModel("edgevit_xxs", nc=5, normalize=normalize))
        source = saved(trained, tmp_path / "best.pt")
        export_weights(source, tmp_path / "out.pth")
        export_weights(source, tmp_path / "out.safetensors")
        tensors = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
        assert tensors.keys() == theirs.state_dict().keys() == load_file(tmp_path / "out.safetensors").keys()
        theirs.load_state_dict(tensors)
        torch.testing.assert_close(logits(theirs, their_input), logits(trained), rtol=1e-4, atol=1e-5)
        back = load_classifier("edgevit_xxs", 5, pretrained=tmp_path / "out.safetensors").eval()
        torch.testing.assert_close(logits(back), logits(trained), rtol=1e-4, atol=1e-5)


def test_pretrained_weights_of_another_number_of_classes(tmp_path, caplog):
    """All tensors but the head's; a checkpoint of this project says itself how its images were normalised."""
    caplog.set_level("INFO")
    source = shaken(ClassificationModel("edgevit_xxs", nc=7))
    model = load_classifier("edgevit_xxs", 3, pretrained=saved(source, tmp_path / "seven.pt"))
    assert "249 of the classifier's 251 tensors match" in caplog.text
    assert "model.head.weight (shape [7, 288], expected [3, 288])" in caplog.text
    same = [name for name, t in model.state_dict().items() if torch.equal(t, source.state_dict().get(name, t + 1))]
    assert len(same) == 249 and model.yaml["normalize"] == "none" and model(images()).shape == (2, 3)
    assert load_classifier("edgevit_xxs", 3, pretrained=tmp_path / "seven.pt", normalize="imagenet").mean_std
    with pytest.raises(ValueError, match="of the classifier's 237 tensors match, expected at least 90%"):
        load_classifier("edgevit_xs", 3, pretrained=tmp_path / "seven.pt")


def test_a_detector_gives_its_backbone_to_an_edgevit_classifier(tmp_path):
    path, source = detector(tmp_path / "detector.pt")
    model = load_classifier("edgevit_xxs", 3, pretrained=path)
    backbone = source.model[0].state_dict()
    assert all(torch.equal(tensor, model.model.state_dict()[name]) for name, tensor in backbone.items())


def test_a_classifier_gives_all_backbone_tensors_to_a_detector(tmp_path):
    trained = shaken(ClassificationModel("edgevit_xxs", nc=5))
    target = DetectionModel("yolov5_edgevit.yaml", nc=2)
    own = target.model[0].state_dict()
    assert load_backbone_weights(target, saved(trained, tmp_path / "best.pt")) == len(own) == 244
    assert all(torch.equal(tensor, trained.model.state_dict()[name]) for name, tensor in own.items())


@pytest.mark.parametrize(
    "cfg, cutoff, kept, head",  # rows that stay, index of the Classify head
    [
        ("yolov5n.yaml", None, 9, 9),  # the row before SPPF
        ("yolov5n.yaml", 10, 9, 9),  # as YOLOv5 documents it for v6 models
        ("yolov5n.yaml", 8, 7, 7),
        ("yolov5_edgevit.yaml", None, 1, 5),  # the backbone's last map, index 4
        ("yolov5_edgevit.yaml", 7, 2, 6),  # with SPPF
        ("yolov3-tiny.yaml", None, 13, 13),  # a backbone without SPP: behind its last row
    ],
)
def test_where_a_detector_is_cut(cfg, cutoff, kept, head):
    cfg = load_cfg(cfg)
    cut = cut_detector(cfg, cutoff)
    assert cut["backbone"] == [*cfg["backbone"], *cfg["head"]][:kept] and "anchors" not in cut
    model = ClassificationModel(cut, nc=4)
    assert model.model[-1].i == head and model.eval()(images()).shape == (2, 4)


@pytest.mark.parametrize(
    "cutoff, expected",
    [(1, r"\[6, 7, 8"), (3, "found 3"), (99, "found 99")],  # no row at all; inside the backbone's slots; too far
)
def test_a_wrong_cutoff_is_told_with_the_right_ones(cutoff, expected):
    with pytest.raises(ValueError, match=f"cutoff: expected one of .*{expected}"):
        cut_detector(load_cfg("yolov5_edgevit.yaml"), cutoff)


@pytest.mark.parametrize("cfg", [{}, {"nc": 2, "backbone": "x", "head": []}, {"nc": 2, "backbone": [], "head": []}])
def test_a_detector_without_rows_cannot_be_cut(cfg):
    with pytest.raises(ValueError, match="model dict: "):
        cut_detector(cfg)


@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5n.yaml"])
def test_a_cut_detector_keeps_its_weights(tmp_path, cfg):
    path, source = detector(tmp_path / "detector.pt", cfg)
    model = load_classifier(path, 3, dropout=0.25)
    own = model.state_dict()
    taken = [name for name in own if torch.equal(own[name], source.state_dict().get(name, own[name] + 1))]
    assert len(taken) == len(own) - len(model.model[-1].state_dict())
    assert model.model[-1].drop.p == 0.25 and model.yaml["normalize"] == "none"
    again = ClassificationModel.from_checkpoint(load_checkpoint(saved(model.eval(), tmp_path / "cls.pt")))
    assert torch.equal(logits(again), logits(model)) and again.model[-1].drop.p == 0.25


def test_a_detector_that_lacks_backbone_tensors_is_refused(tmp_path):
    path, source = detector(tmp_path / "detector.pt", "yolov5n.yaml")
    ckpt = load_checkpoint(path)
    del ckpt.state_dict["model.4.cv1.conv.weight"]
    save_checkpoint(path, ckpt)
    with pytest.raises(ValueError, match="detector.pt: 1 tensors of its backbone are missing: model.4.cv1.conv.weight"):
        load_classifier(path, 3)


@needs_shared
def test_an_official_detector_is_cut():
    model = load_classifier(SHARED / "weights" / "yolov5n.pt", 3)
    official = load_checkpoint(SHARED / "weights" / "yolov5n.pt").state_dict
    assert torch.equal(model.state_dict()["model.8.cv3.conv.weight"], official["model.8.cv3.conv.weight"].float())
    assert [row.type for row in model.model][-2:] == ["C3", "Classify"] and model.model[
        -1
    ].conv.conv.out_channels == 1280


@pytest.mark.parametrize("size", ["n", "m"])
def test_an_official_classifier_is_rebuilt_from_its_tensors(size):
    """It holds no YAML; its input is normalised as ImageNet's, and its names are those of a cut detector."""
    source = shaken(ClassificationModel(cut_detector(load_cfg(f"yolov5{size}.yaml")), nc=6, normalize="imagenet"))
    names = {i: f"name {i}" for i in range(6)}
    official = Checkpoint(yaml={}, names=names, nc=6, stride=[], state_dict=source.state_dict(), task="classify")
    model = ClassificationModel.from_checkpoint(official)
    assert torch.equal(logits(model), logits(source)) and model.names == names
    official.state_dict = {"conv1.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match="expected a classifier of this project .* found a model with conv1.weight"):
        ClassificationModel.from_checkpoint(official)


@pytest.mark.parametrize("source", ["edgevit_xxs", "resnet18", "squeezenet1_1", TINY], ids=str)
def test_another_number_of_classes_keeps_all_other_tensors(source):
    model = ClassificationModel(source, nc=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert reshape_classifier_output(model, 11) is model
    name, _ = last_layer(model.model)
    for key, tensor in model.state_dict().items():
        is_last = key in (f"model.{name}.weight", f"model.{name}.bias")
        assert (tensor.shape[0] == 11) if is_last else torch.equal(tensor, before[key])
    assert model(images()).shape == (2, 11) and len(model.names) == model.nc == model.yaml["nc"] == 11
    ClassificationModel(model.yaml).load_state_dict(model.state_dict())  # the yaml rebuilds it
    kept = last_layer(model.model)[1]
    reshape_classifier_output(model, 11)
    assert last_layer(model.model)[1] is kept


def test_a_trained_classifier_as_a_start(tmp_path):
    source = shaken(ClassificationModel("resnet18", nc=4, dropout=0.1, normalize="imagenet"))
    source.names = dict(enumerate("abcd"))
    path = saved(source, tmp_path / "best.pt")
    same = load_classifier(path)
    assert torch.equal(logits(same), logits(source)) and same.names == source.names
    other = load_classifier(path, 9, dropout=0.5)
    assert other(images()).shape == (2, 9) and other.model.fc.p == 0.5 and other.yaml["normalize"] == "imagenet"
    assert torch.equal(other.model.conv1.weight, source.model.conv1.weight)


@pytest.mark.parametrize(
    "source, place",  # where the dropout is
    [("edgevit_xxs", "dropout"), ("mobilenet_v3_small", "classifier.2"), ("resnet18", "fc"), (TINY, "3.drop")],
    ids=str,
)
def test_dropout_before_the_last_layer(source, place):
    model = ClassificationModel(source, nc=3, dropout=0.9)
    assert model.model.get_submodule(place).p == 0.9
    assert torch.equal(logits(model.eval()), logits(model))
    model.model.get_submodule(place).train()
    assert not torch.equal(logits(model), logits(model))
    names = ClassificationModel(source, nc=3).state_dict().keys()
    assert model.state_dict().keys() == names, "the tensors' names do not depend on it"


def test_dropout_is_refused_where_there_is_no_place_for_it():
    with pytest.raises(ValueError, match="dropout: expected a linear last layer in Conv2d"):
        set_dropout(nn.Conv2d(3, 4, 1), 0.5)


def test_a_model_file_may_name_weights_of_its_backbone(tmp_path):
    backbone = shaken(edgevit_xxs())
    torch.save(backbone.state_dict(), tmp_path / "xxs.pth")
    cfg = {"nc": 3, "backbone": [[-1, 1, "edgevit_xxs", [str(tmp_path / "xxs.pth")]]], "head": TINY["head"]}
    model = ClassificationModel(cfg)
    assert all(torch.equal(t, model.model[0].state_dict()[name]) for name, t in backbone.state_dict().items())
    (tmp_path / "xxs.pth").unlink()  # a trained one does without
    ClassificationModel.from_checkpoint(load_checkpoint(saved(model, tmp_path / "a.pt")))


def test_command_writes_weights_and_refuses_others(tmp_path):
    path = saved(ClassificationModel("edgevit_xxs", nc=2), tmp_path / "best.pt")
    classify.main(classify.parse_opt([str(path), str(tmp_path / "out.pth")]))
    assert len(torch.load(tmp_path / "out.pth", weights_only=True)["model"]) == 251
    with pytest.raises(ValueError, match="out.onnx: expected a file name ending in .pt, .pth or .safetensors"):
        export_weights(path, tmp_path / "out.onnx")
    detector(tmp_path / "detector.pt")
    with pytest.raises(ValueError, match="expected a classification model, found one for the task 'detect'"):
        export_weights(tmp_path / "detector.pt", tmp_path / "out.pth")
