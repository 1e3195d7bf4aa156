"""Classifiers as YOLOv5's classify/train.py pickles them: with the steps before the model, and numbers that are stale.

The pickles are made here, with classes of our own under the names of YOLOv5 and torchvision.
"""

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models as vision
from torchvision import transforms

import models.yolo
from classify import predict
from extras.classify.model import ClassificationModel, _official_yaml, load_classifier
from tests.conftest import ROOT
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.files.pickles import UnsafeCheckpointError

IMAGE = ROOT / "data" / "images" / "shapes" / "shapes1.jpg"


class CenterCrop:
    """A step that YOLOv5 has in utils.augmentations. The test ends if it is built."""

    def __setstate__(self, state):
        raise AssertionError("a step of the pickle was built")


CenterCrop.__module__, CenterCrop.__qualname__ = "utils.augmentations", "CenterCrop"


def nested(tensors: dict[str, torch.Tensor], root: nn.Module) -> nn.Module:
    """Put tensors under their names into modules below `root`."""
    for name, tensor in tensors.items():
        module, (*parents, last) = root, name.split(".")
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        module.register_buffer(last, tensor)
    return root


def as_yolov5(monkeypatch: pytest.MonkeyPatch, path: Path, names: dict[int, str], nc: int, outputs: int) -> Path:
    """Write YOLOv5n's classifier of so many outputs as YOLOv5 does, with its `nc` and `names`."""
    published = type("ClassificationModel", (nn.Module,), {"__module__": "models.yolo"})
    monkeypatch.setattr(models.yolo, "ClassificationModel", published, raising=False)
    import utils.augmentations

    monkeypatch.setattr(utils.augmentations, "CenterCrop", CenterCrop, raising=False)
    torch.manual_seed(0)
    stem = {"model.0.conv.weight": torch.zeros(16, 3, 6, 6)}
    ours = ClassificationModel(_official_yaml(Checkpoint({}, {}, outputs, [], stem, task="classify")), nc=outputs)
    model = nested(ours.state_dict(), published())
    model.nc, model.names, model.stride = nc, names, torch.tensor([8.0, 16.0, 32.0])
    steps = [CenterCrop(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3), transforms.Resize(64)]
    model.transforms = transforms.Compose(steps)
    with monkeypatch.context() as hidden:
        hidden.delattr(CenterCrop, "__setstate__")
        torch.save({"epoch": 3, "model": model, "ema": None, "opt": {"imgsz": 64, "model": "yolov5n-cls.pt"}}, path)
    monkeypatch.undo()
    return path


@pytest.mark.parametrize(
    "names, expected",
    [
        ({0: "cat", 1: "dog", 2: "owl"}, {0: "cat", 1: "dog", 2: "owl"}),
        ({i: f"of ImageNet {i}" for i in range(1000)}, {0: "class0", 1: "class1", 2: "class2"}),
        (["cat", "dog", "owl"], {0: "cat", 1: "dog", 2: "owl"}),
    ],
    ids=["names", "names of another model", "list"],
)
def test_the_tensors_decide_the_number_of_classes(tmp_path, monkeypatch, names, expected):
    """What a pickle calls `nc` may be that of the model that the training began with."""
    path = as_yolov5(monkeypatch, tmp_path / "cls.pt", names, nc=1000, outputs=3)
    ckpt = load_checkpoint(path)
    assert (ckpt.task, ckpt.nc, ckpt.names, ckpt.imgsz) == ("classify", 3, expected, 64)


def test_it_predicts_and_is_a_start_for_training(tmp_path, monkeypatch):
    path = as_yolov5(monkeypatch, tmp_path / "cls.pt", {0: "cat", 1: "dog", 2: "owl"}, nc=1000, outputs=3)
    (result,) = predict.run(weights=path, source=IMAGE, project=tmp_path, nosave=True)
    assert set(result.names.values()) == {"cat", "dog", "owl"} and abs(result.probabilities.sum() - 1) < 1e-5
    before = load_checkpoint(path).state_dict["model.0.conv.weight"]
    model = load_classifier(path, nc=5)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert torch.equal(model.state_dict()["model.0.conv.weight"], before)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_a_network_of_torchvision(tmp_path, name):
    """YOLOv5's --model takes those too, and pickles them as they are."""
    torch.manual_seed(0)
    network = vision.get_model(name, weights=None, num_classes=2).eval()
    network.names, network.transforms = {0: "a", 1: "b"}, transforms.Compose([transforms.ToTensor()])
    path = tmp_path / "best.pt"
    torch.save({"epoch": 0, "model": network, "opt": {"imgsz": 64, "model": name}}, path)
    model = ClassificationModel.from_checkpoint(load_checkpoint(path))
    x = torch.rand(2, 3, 64, 64)
    mean, deviation = (torch.tensor(v).view(-1, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(model(x), network((x - mean) / deviation))
    assert model.names == {0: "a", 1: "b"}


@pytest.mark.parametrize("opt", [{}, {"model": "runs/train-cls/exp/weights/best.pt"}])
def test_a_network_of_torchvision_without_its_name(tmp_path, opt):
    path = tmp_path / "best.pt"
    torch.save({"model": vision.squeezenet1_1(num_classes=2), "opt": opt}, path)
    with pytest.raises(ValueError, match=r"best\.pt: .*expected a name for torchvision"):
        load_checkpoint(path)


def test_steps_of_other_packages_stay_refused(tmp_path, monkeypatch):
    """Only names that YOLOv5's own classifiers hold have shells."""
    module = types.ModuleType("albumentations")
    module.Compose = type("Compose", (), {"__module__": "albumentations", "__qualname__": "Compose"})
    monkeypatch.setitem(sys.modules, "albumentations", module)
    network = vision.squeezenet1_1(num_classes=2)
    network.transforms = module.Compose()
    torch.save({"model": network}, tmp_path / "best.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"best\.pt: .*albumentations\.Compose"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_model_that_cannot_be_rebuilt_names_its_file(tmp_path, monkeypatch):
    published = type("ClassificationModel", (nn.Module,), {"__module__": "models.yolo"})
    monkeypatch.setattr(models.yolo, "ClassificationModel", published, raising=False)
    model = nested({"model.0.linear.weight": torch.zeros(2, 4), "model.0.linear.bias": torch.zeros(2)}, published())
    torch.save({"model": model}, tmp_path / "odd.pt")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"odd\.pt: expected a classifier"):
        predict.run(weights=tmp_path / "odd.pt", source=IMAGE, project=tmp_path)
