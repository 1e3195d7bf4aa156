"""Every exported format of every task is run by all that takes model files, and finds what the checkpoint finds.

Those that cannot run on this machine are skipped, each with its reason.
"""

from functools import cache
from importlib import import_module
from operator import attrgetter

import numpy as np
import pytest
import torch
from conftest import with_masks, write_tiny_classes, write_tiny_dataset

import export
import hubconf
from extras.benchmark import worker
from extras.classify.model import ClassificationModel
from extras.export.exporter import can_run
from models.backends import FORMATS
from models.yolo import SegmentationModel
from tests.tiny_detector import write_tiny_weights
from utils.checkpoint import Checkpoint, save_checkpoint

CLASSIFIER = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[-1, 1, "Classify", ["nc"]]],
}
# task -> the scripts that take its files: validation, prediction
SCRIPTS = {"detect": ("val", "detect"), "segment": ("segment.val", "segment.predict")}
SCRIPTS["classify"] = ("classify.val", "classify.predict")
FIGURES = {"detect": attrgetter("map", "map50"), "segment": attrgetter("boxes.map50", "masks.map50")}
FIGURES["classify"] = attrgetter("top1", "top5")
EXPORTED = [row for row in FORMATS if row.exports]
SLOW = {"executorch": SCRIPTS, "litert": SCRIPTS, "ncnn": ("segment", "classify"), "openvino": ("segment",)}
CASES = [
    pytest.param(task, row, id=f"{task}-{row.key}", marks=[pytest.mark.slow] * (task in SLOW.get(row.key, ())))
    for task in SCRIPTS
    for row in EXPORTED
]
BOX_PX, SCORE = 2.0, 5e-3  # what formats may differ in: boxes are in whole pixels here


def write_weights(task: str, folder, cfg: dict):
    """Write a tiny checkpoint of a task that tells pictures apart, and return its path."""
    file = folder / "best.pt"
    if task == "detect":
        return write_tiny_weights(file, cfg)
    torch.manual_seed(0)
    if task == "classify":
        model = ClassificationModel(CLASSIFIER)
        layers, stride = [model.model[-1].linear], [32.0]
    else:
        model = SegmentationModel(with_masks(cfg))
        layers, stride = model.model[-1].m, model.stride.tolist()
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(20)
            layer.bias.view(model.model[-1].na, -1)[:, 4:7].fill_(1.0) if task == "segment" else layer.bias.zero_()
    names = {0: "box", 1: "disc"} if task == "segment" else {0: "dark", 1: "light"}
    save_checkpoint(file, Checkpoint(model.yaml, names, 2, stride, model.state_dict(), imgsz=64, task=task))
    return file


def uses(task: str, weights, data, pictures, folder) -> dict:
    """Run a model file by every script and by torch.hub, and return what they found, by the script's name."""
    val, predict = (import_module(name) for name in SCRIPTS[task])
    same = {"weights": weights, "project": folder, "device": "cpu", "imgsz": 64}
    result = val.run(data=data, workers=0, batch_size=2, **same)
    found = {"val": list(FIGURES[task](result))}
    limits = {} if task == "classify" else {"conf_thres": 0.3, "max_det": 20}
    results = predict.run(source=pictures, nosave=True, batch_size=2, **limits, **same)
    assert results and not any(result.error for result in results)
    found["predict"] = [r.boxes if r.probabilities is None else r.probabilities for r in results]
    model = hubconf.custom(weights, device="cpu", _verbose=False)
    if task == "segment":  # comes as it is
        with torch.no_grad():
            found["hub"] = [output.numpy() for output in model(torch.zeros(1, 3, 64, 64))[:2]]
        return found
    pred = model([str(file) for file in pictures], size=64).pred
    found["hub"] = [np.asarray(rows) for rows in pred]
    if task == "detect":
        job = {"file": str(weights), "data": str(data), "device": "cpu", "imgsz": 64, "batch_size": 1}
        measured = worker.measure({**job, "half": False, "threads": 0, "workers": 0})
        found["benchmark"] = [np.array([measured["map"], measured["map50"]])]
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Function (task) -> its checkpoint, data, pictures, and what the checkpoint itself finds; made once."""
    from conftest import tiny_model_cfg

    @cache
    def make(task: str):
        folder = tmp_path_factory.mktemp(task)
        weights = write_weights(task, folder, tiny_model_cfg.__wrapped__())
        if task == "classify":
            data = write_tiny_classes(folder / "data")
            pictures = sorted((data / "val").rglob("*.jpg"))
        else:
            data = write_tiny_dataset(folder / "data", polygons=task == "segment")
            pictures = sorted((data.parent / "images" / "val").iterdir())
        return weights, data, pictures[:3], uses(task, weights, data, pictures[:3], folder / "runs")

    return make


def assert_same(found: dict, expected: dict) -> None:
    """Compare what two files found, but for the order of boxes of nearly the same score."""
    assert found.keys() == expected.keys()
    assert found["val"] == pytest.approx(expected["val"], abs=0.02)
    for use in found.keys() - {"val"}:
        assert [np.shape(rows) for rows in found[use]] == [np.shape(rows) for rows in expected[use]], use
        for rows, same in zip(found[use], expected[use]):
            tolerance = BOX_PX if rows.ndim == 2 else SCORE
            np.testing.assert_allclose(np.sort(rows, axis=0), np.sort(same, axis=0), atol=tolerance, err_msg=use)


@pytest.mark.parametrize("task, row", CASES)
def test_every_format_is_run_by_all_that_takes_model_files(models, task, row, tmp_path):
    if missing := row.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    if not can_run(row):
        pytest.skip(f"runs on {row.runs_on}")
    weights, data, pictures, expected = models(task)
    (exported,) = export.run(weights=weights, include=[row.key], imgsz=64, device="cpu")
    assert not exported.error
    assert_same(uses(task, exported.file, data, pictures, tmp_path), expected)


def test_what_is_not_run_here_is_known():
    """A format that is new has to be in the test above, or in this list."""
    here = {row.key for row in EXPORTED if not row.runs_on}
    assert here == {"torchscript", "onnx", "openvino", "litert", "ncnn", "executorch"}
