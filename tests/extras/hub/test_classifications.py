"""Classifiers through torch.hub: every kind of picture, and everything that Classifications can do."""

import numpy as np
import pytest
import torch
from PIL import Image

import hubconf
from classify import predict
from extras.classify.model import ClassificationModel
from extras.hub.classifications import Classifications, ClassifyShape
from utils.checkpoint import Checkpoint, save_checkpoint

TINY = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[-1, 1, "Classify", ["nc"]]],
}
NAMES = {0: "cat", 1: "dog", 2: "owl"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture as PNG, and the checkpoint of a classifier that tells pictures apart."""
    folder = tmp_path_factory.mktemp("classifier")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    torch.manual_seed(0)
    model = ClassificationModel(TINY)
    with torch.no_grad():
        model.model[-1].linear.weight.mul_(30)
    ckpt = Checkpoint(model.yaml, NAMES, 3, [32.0], model.state_dict(), imgsz=64, task="classify")
    save_checkpoint(folder / "cls.pt", ckpt)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return hubconf.custom(folder / "cls.pt", _verbose=False, device="cpu")


@pytest.mark.parametrize("kind", ["str", "path", "PIL", "array", "tensor", "list"])
def test_every_kind_of_picture_has_the_probabilities_of_predict(model, folder, kind):
    file = folder / "image.png"
    pixels = np.array(Image.open(file))
    kinds = {
        "str": str(file),
        "path": file,
        "PIL": Image.open(file),
        "array": pixels,
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        "list": [file],
    }
    results = model(kinds[kind])
    assert isinstance(model, ClassifyShape) and isinstance(results, Classifications)
    (expected,) = predict.run(weights=folder / "cls.pt", source=file, nosave=True, project=folder, device="cpu")
    np.testing.assert_allclose(results.probs[0], expected.probabilities, atol=2e-6)
    assert results.names == NAMES and results.s == (1, 3, 64, 64) and len(results) == 1


def test_a_batch_tensor_goes_straight_through(model):
    """Scripts for YOLOv5, whose classifiers take nothing else, do their own softmax."""
    logits = model(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 3) and not torch.allclose(logits.sum(1), torch.ones(2))


def test_what_can_be_done_with_them(model, folder, capsys):
    results = model([folder / "image.png", np.zeros((40, 40, 3), np.uint8)], size=32)
    assert results.s == (2, 3, 32, 32)
    best = [int(p.argmax()) for p in results.probs]
    assert [top[0][0] for top in results.top(2)] == best and [len(top) for top in results.top(2)] == [2, 2]
    results.print()
    text = capsys.readouterr().out
    assert f"image 1/2: 70x90 {NAMES[best[0]]} 0." in text and "softmax per image at shape (2, 3, 32, 32)" in text
    table = results.pandas().probs[0]
    assert list(table.columns) == ["confidence", "class", "name"] and len(table) == 3
    assert table["class"][0] == best[0] and table["confidence"].is_monotonic_decreasing
    assert [len(part) for part in results.tolist()] == [1, 1]
    results.save(save_dir=folder / "out")
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["image.jpg", "image1.jpg"]
    assert results.render()[0].shape == (70, 90, 3)


@pytest.mark.parametrize("options", [{"augment": True}, {"size": 0}, {"size": (1, 2, 3)}])
def test_what_it_cannot_do_is_an_error(model, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        model(np.zeros((40, 40, 3), np.uint8), **options)
