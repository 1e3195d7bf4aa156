"""Classification on the engine: a training's files, validation, predictions, and options of its own."""

import csv
import json

import numpy as np
import pytest
import yaml
from conftest import write_tiny_classes
from kill_driver import MODEL

import classify.predict
import classify.train
import classify.val
from engine.options import from_kwargs
from engine.train.build import freeze_layers
from extras.classify.model import ClassificationModel
from extras.classify.task import CLASSIFY
from utils.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_classes(tmp_path_factory.mktemp("data") / "classes", train=8, val=3)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The run folder of a short training."""
    project = tmp_path_factory.mktemp("runs")
    model = project / "classifier.yaml"
    model.write_text(yaml.safe_dump({**MODEL, "head": [[-1, 1, "Classify", ["nc"]]]}))
    options = {"model": str(model), "data": str(data), "epochs": 8, "batch_size": 4, "imgsz": 64, "workers": 0}
    options |= {"lr0": 0.01, "hyp": {"nominal_batch": 4, "hsv_v": 0.1, "ema_tau": 5}, "optimizer": "AdamW"}
    return project / classify.train.run(**options, project=str(project)).save_dir.split("/")[-1]


def test_files_of_a_run(trained):
    names = {file.name for file in trained.iterdir()}
    pictures = "results.png train_batch0.jpg val_batch0_labels.jpg val_batch0_pred.jpg confusion_matrix.png"
    assert {"hyp.yaml", "opt.yaml", *pictures.split()} <= names
    rows = list(csv.DictReader((trained / "results.csv").open()))
    columns = "epoch train/loss metrics/accuracy_top1 metrics/accuracy_top5 val/loss x/lr0 x/lr1 x/lr2 time"
    assert list(rows[0]) == columns.split() and len(rows) == 8
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert load_checkpoint(trained / "weights/best.pt").names == {0: "dark", 1: "light"}


def test_validation_measures_what_training_measured(trained, data, tmp_path):
    rows = list(csv.DictReader((trained / "results.csv").open()))
    best = max(float(row["metrics/accuracy_top1"]) for row in rows)
    weights = str(trained / "weights/best.pt")
    result = classify.val.run(weights=weights, data=str(data), workers=0, project=str(tmp_path), verbose=True)
    assert result.top1 == pytest.approx(best, abs=1e-3) and result.top1 == 1.0  # dark and light are easily told apart
    assert (result.images, result.top5) == (6, 1.0)


def test_prediction(trained, data, tmp_path):
    options = {"weights": str(trained / "weights/best.pt"), "source": str(data / "val/light"), "project": str(tmp_path)}
    results = classify.predict.run(**options, save_txt=True, save_csv=True, save_json=True)
    assert len(results) == 3
    for result in results:
        assert result.probabilities.sum() == pytest.approx(1) and result.top(1)[0][0] == 1
        assert result.summary().startswith("light 0.") or result.summary().startswith("light 1.")
    lines = (tmp_path / "exp/labels/000.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["light", "dark"]
    record = json.loads((tmp_path / "exp/predictions.json").read_text())[0]
    assert [entry["name"] for entry in record["classes"]] == ["light", "dark"] and "boxes" not in record
    assert len((tmp_path / "exp/predictions.csv").read_text().splitlines()) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({}, "lr0", 0.001),  # the table's own
        ({"lr0": 0.02}, "lr0", 0.02),  # flags go before
        ({"decay": 0.1, "hyp": {"weight_decay": 0.2}}, "weight_decay", 0.1),  # ... also before a file's values
        ({"label_smoothing": 0.0}, "label_smoothing", 0.0),  # 0 is a value, not the lack of one
    ],
)
def test_hyperparameters(options, key, value):
    hyp = options.pop("hyp", None)
    assert CLASSIFY.read_hyp(from_kwargs("classify/train", options), hyp)[key] == value


def test_a_hyperparameter_of_detection_is_unknown():
    with pytest.raises(ValueError, match="unknown hyperparameter 'mosaic'"):
        CLASSIFY.read_hyp(from_kwargs("classify/train", {"hyp": {"mosaic": 1.0}}))


def test_probabilities_are_the_same_for_one_picture_and_for_a_batch(trained, data):
    options = {"weights": str(trained / "weights/best.pt"), "source": str(data / "val"), "nosave": True}
    options["source"] = [str(data / "val/dark"), str(data / "val/light")]
    one, four = (classify.predict.run(**options, batch_size=size) for size in (1, 4))
    for a, b in zip(one, four):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ([0], set()),
        ([2], {"patch_embed1", "blocks1"}),  # the first parts, as the network has no numbered rows
        (["head"], {"head"}),
        ([1, 3], {"blocks1", "blocks2"}),
    ],
)
def test_freeze(freeze, frozen):
    model = ClassificationModel("edgevit_xxs", nc=2)
    names = freeze_layers(model, freeze)
    assert {name.split(".")[1] for name in names} == frozen
    assert all(not model.get_parameter(name).requires_grad for name in names)


def test_freezing_more_than_there_is():
    with pytest.raises(ValueError, match="--freeze: the model's last row is"):
        freeze_layers(ClassificationModel("edgevit_xxs", nc=2), [99])
