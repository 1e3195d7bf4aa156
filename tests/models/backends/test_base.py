"""What all runtimes share: one or two outputs in any batch, the check of their shapes, flags that have no effect."""

import numpy as np
import pytest
import torch

from models.backends import DetectMultiBackend, coreml, find_format
from models.backends.base import ExportedBackend, ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images
from tests.models.backends.conftest import model_of
from tests.models.backends.mil_interpreter import MilInterpreter

PX = (64, 96)
RUNTIMES = ["torchscript", "onnx", "onnx dnn", "openvino", "litert", "ncnn", "executorch", "coreml"]


def written(row, model, folder, **options):
    """The path of the model's file in the format `row`."""
    file = folder / f"m{row.suffixes[0]}"
    spec = ExportSpec(PX, **options)
    strides = [int(stride) for stride in model.stride]
    fields = {"batch": spec.batch, "dynamic": spec.dynamic, "precision": spec.precision, "task": model.task}
    backend = row.module
    backend.export(model, file, spec, Metadata(model.names, strides, 8, list(PX), **fields))
    return file


def assert_same(found, expected, atol) -> None:
    """Of an output, or a tuple of them."""
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.fixture
def coreml_runs(monkeypatch):
    """MilInterpreter in the place of CoreML's runtime, which is macOS' alone."""
    ct = pytest.importorskip("coremltools")
    monkeypatch.setattr(coreml, "runs_here", lambda: True)
    monkeypatch.setattr(ct.models, "MLModel", MilInterpreter)


@pytest.mark.parametrize("task", ["segment", "classify"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_models_for_other_tasks(runtime, task, tmp_path, request):
    """Three images through a file for two at once, where the format has such, and pictures as they are."""
    key, *dnn = runtime.split()
    row = find_format(key)
    if missing := row.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    model = model_of(task)
    file = written(row, model, tmp_path, batch=2)
    if key == "coreml":
        request.getfixturevalue("coreml_runs")
    opened = DetectMultiBackend(file, "cpu", dnn=bool(dnn))
    assert (opened.task, opened.names, opened.nc) == (task, model.names, len(model.names)) and not opened.end2end
    images = example_images(3, PX)
    assert_same(opened(images), model(images), 1e-5)
    pictures = np.random.default_rng(0).integers(0, 256, (1, *PX, 3), dtype=np.uint8)
    found, expected = opened.predict(pictures), model(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    expected = tuple(x.numpy() for x in expected) if task == "segment" else expected.numpy()
    assert_same(found, expected, 1e-5)


@pytest.mark.parametrize("task", ["segment", "classify"])
@pytest.mark.parametrize("key", ["torchscript", "onnx", "openvino"])
def test_other_sizes_and_half_precision(key, task, tmp_path):
    row = find_format(key)
    if missing := row.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    model = model_of(task)
    opened = DetectMultiBackend(written(row, model, tmp_path, dynamic=True, half=True), "cpu")
    for batch, height, width in ((1, *PX), (3, 32, 64)):
        images = example_images(batch, (height, width))
        assert_same(opened(images), model(images), 0.02)
    if key == "onnx":
        assert {output.type for output in opened.backend.runner.session.get_outputs()} == {"tensor(float)"}


@pytest.mark.parametrize(
    ("task", "names", "shapes", "classes", "expected"),
    [
        ("detect", 0, [[1, 9, 7]], 2, ""),
        ("detect", 2, [[None, None, 7]], 2, ""),
        ("detect", 2, [[None, None, None]], 0, ""),  # unknown
        ("detect", 2, [[]], 0, ""),
        ("detect", 1, [[1, 9, 7]], 0, "an output [B, N, 5 + 1], found [1, 9, 7]"),
        ("detect", 0, [[1, 9, 5]], 0, "an output [B, N, 5 + classes], found [1, 9, 5]"),
        ("detect", 0, [[1, 9]], 0, "an output [B, N, 5 + classes], found [1, 9]"),
        ("detect", 0, [[1, 9, 7], [1, 4, 8, 8]], 0, "an output [B, N, 5 + classes], found [1, 9, 7], [1, 4, 8, 8]"),
        ("segment", 2, [[1, 9, 11], [1, 4, 8, 8]], 2, ""),
        ("segment", 0, [[1, None, 11], [1, None, 8, 8]], 0, ""),
        ("segment", 3, [[1, 9, 11], [1, 4, 8, 8]], 0, "outputs [B, N, 5 + 3 + masks] and [B, masks, H / 4, W / 4], "),
        ("segment", 2, [[1, 9, 7]], 0, "outputs [B, N, 5 + 2 + masks]"),
        ("classify", 5, [[1, 5]], 5, ""),
        ("classify", 4, [[1, 5]], 0, "an output [B, 4], found [1, 5]"),
    ],
)
def test_check_of_the_outputs(task, names, shapes, classes, expected):
    backend = ExportedBackend("m.x", Metadata(dict.fromkeys(range(names), ""), [], 32, [], task=task))
    if expected:
        with pytest.raises(ValueError) as caught:
            backend.check_outputs(shapes)
        assert f"m.x: expected {expected}" in str(caught.value)
    else:
        backend.check_outputs(shapes)
        assert backend.output_classes == classes


def test_an_unknown_task():
    with pytest.raises(ValueError, match="m.x: expected one of the tasks detect, segment, classify, found 'pose'"):
        Metadata.from_dict({"task": "pose"}, "m.x")
    assert Metadata.from_dict({}, "m.x").task == "detect"


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        ({"device": "cpu", "fp16": False, "dnn": False}, "fp32", []),
        ({"device": torch.device("cpu")}, "fp32", []),
        ({"fp16": True}, "fp16", []),  # as asked for
        ({"fp16": True}, "int8", ["m.x: --half is not used: the precision of a file", "this one is int8"]),
        ({"device": "0", "dnn": True}, "fp32", ["--device is not used", "--dnn is not used: it is for ONNX files"]),
    ],
)
def test_flags_without_effect(flags, precision, expected, caplog):
    ExportedBackend("m.x", Metadata({}, [], 32, [], precision=precision)).warn_of_unused(**flags)
    assert all(words in caplog.text for words in expected) and bool(expected) == bool(caplog.text)
