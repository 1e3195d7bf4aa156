"""extras/export/exporter.py: names, metadata, and that what fails says so and leaves nothing behind."""

import hashlib
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest

import extras.export.exporter
from engine import options
from extras.export.exporter import evenly, export_formats, print_formats, reason, replace, summary
from models.backends import DetectMultiBackend, find_format
from tests.models.backends.conftest import write_other_weights
from tests.tiny_detector import write_tiny_weights
from utils.data.images import find_images
from utils.general import SHAPES_WEIGHTS, VERSION


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "best.pt", tiny_model_cfg)


def export(weights, **flags):
    return export_formats(options.from_kwargs("export", {"weights": weights, **flags}))


def test_metadata_of_a_written_file(weights, tiny_dataset):
    (result,) = export(weights, data=str(tiny_dataset), imgsz=[64, 96], batch_size=2)
    assert result.file == weights.with_name("best.torchscript") and result.error == ""
    model = DetectMultiBackend(result.file)
    metadata = model.backend.metadata
    assert metadata.names == {0: "box", 1: "disc"} and metadata.strides == [8, 16] and metadata.stride == 32
    assert (metadata.imgsz, metadata.batch, metadata.dynamic) == ([64, 96], 2, False)
    assert (metadata.output, metadata.precision, metadata.task) == ("raw", "fp32", "detect")
    assert (metadata.licence, metadata.version) == ("Apache-2.0", VERSION)
    assert metadata.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert metadata.model["backbone"][0][2] == "Conv"
    assert metadata.parity == result.parity and metadata.parity["images"] == 4
    assert model.jit and not model.pt and model.fixed_hw == (64, 96)


def test_pictures_of_the_project_without_data(weights, caplog):
    caplog.set_level("INFO")
    (result,) = export(weights)
    assert result.parity["images"] == len(find_images(extras.export.exporter.IMAGES)) > 4
    assert "comparing on data/images (--data is not given)" in caplog.text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"include": ["onx"]}, "did you mean onnx"),
        ({"include": ["paddle"]}, "X2Paddle"),
        ({"half": True, "int8": True}, "exclude each other"),
        ({"int8": True}, "--int8 needs --data"),
        ({"batch_size": 0}, "--batch-size: expected a whole number from 1, found 0"),
        ({"imgsz": [64, 64, 64]}, "expected one number, or height and width"),
        ({"weights": ["a.pt", "b.pt"]}, "expected one checkpoint, found 2"),
    ],
)
def test_options_that_cannot_be(weights, flags, words):
    with pytest.raises(ValueError, match=words):
        export(**{"weights": weights, **flags})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"include": ["ncnn"], "nms": True}, "--nms is not for this format"),
        (
            {"include": ["executorch"], "half": True, "dynamic": True},
            "--dynamic --half is not for this format, which has",
        ),
    ],
)
def test_an_option_that_the_format_does_not_have(weights, flags, words, monkeypatch):
    monkeypatch.setattr("models.backends.Format.missing", lambda self, tools=True: [])
    (result,) = export(weights, **flags)
    assert words in result.error and result.file is None


def test_a_missing_package_names_the_pip_line_and_the_others_go_on(weights, monkeypatch):
    monkeypatch.setattr("models.backends.installed", lambda package: package != "pnnx")
    failed, written = export(weights, include=["ncnn", "torchscript"])
    assert failed.error.endswith('needs pnnx: pip install ".[ncnn]"')
    assert written.error == "" and written.file.is_file()
    assert "failed" in summary([failed, written]) and str(written.file) in summary([failed, written])


def test_a_failing_exporter_leaves_the_old_file_and_no_other(weights, monkeypatch):
    old = weights.with_name("best.torchscript")
    old.write_bytes(b"old")
    monkeypatch.setattr(extras.export.exporter, "exportable", lambda model: None)
    (result,) = export(weights)
    assert result.error and old.read_bytes() == b"old"
    assert sorted(file.name for file in weights.parent.iterdir()) == ["best.pt", "best.torchscript"]


def test_replace(tmp_path):
    new, old, foreign = (tmp_path / name for name in ("new", "old", "foreign"))
    for folder, name in ((new, "metadata.yaml"), (old, "metadata.yaml"), (foreign, "holiday.jpg")):
        folder.mkdir()
        (folder / name).write_text(folder.name)
    with pytest.raises(FileExistsError, match="expected an earlier export, found another folder"):
        replace(new, foreign)
    assert (foreign / "holiday.jpg").is_file()
    assert (replace(new, old) / "metadata.yaml").read_text() == "new"


@pytest.mark.parametrize(
    ("flag", "name", "output"), [("nms", "best.onnx", "boxes"), ("embed", "best-embed.onnx", "image")]
)
def test_final_boxes_come_out_of_the_file(tmp_path, flag, name, output):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    weights = shutil.copy(SHAPES_WEIGHTS, tmp_path / "best.pt")
    (result,) = export(weights, include="onnx", **{flag: True})
    assert result.error == "" and result.file.name == name and result.parity["boxes"] > 4
    model = DetectMultiBackend(result.file)
    assert model.end2end and model.backend.metadata.output == output


@pytest.mark.parametrize(
    ("key", "flag", "name", "output"),
    [
        ("onnx", "nms", "best-int8.onnx", "boxes"),
        ("onnx", "embed", "best-int8-embed.onnx", "image"),
        ("openvino", "nms", "best-int8_openvino_model", "boxes"),
    ],
)
def test_final_boxes_come_out_of_an_int8_file(weights, tiny_dataset, key, flag, name, output):
    if missing := find_format(key).missing():
        pytest.skip(f"needs {', '.join(missing)}")
    flags = {"int8": True, flag: True, "max_drop": 100, "workers": 0, "topk_all": 20}
    (result,) = export(weights, include=[key], data=str(tiny_dataset), **flags)
    assert result.error == "" and result.file.name == name
    assert result.parity["boxes"] == 80 and 0 < result.parity["score"] < 0.1  # 20 in each image, from rounded numbers
    model = DetectMultiBackend(result.file)
    metadata = model.backend.metadata
    assert model.end2end and model.names == {0: "box", 1: "disc"}
    assert (metadata.output, metadata.precision, metadata.dynamic) == (output, "int8", flag == "embed")
    assert metadata.limits["max_det"] == 20 and metadata.parity == result.parity
    hw = (50, 70) if flag == "embed" else (64, 64)
    pictures = np.random.default_rng(0).integers(0, 256, (1, *hw, 3), dtype=np.uint8)
    assert model.predict(pictures).shape == (1, 20, 6)


@pytest.mark.parametrize(("max_drop", "is_kept"), [(0, True), (-0.5, False)])
def test_an_int8_file_without_a_search_keeps_the_budget_or_is_refused(weights, tiny_dataset, max_drop, is_kept):
    """The formats that need it run elsewhere: a float32 file, which loses nothing, stands in for theirs."""
    flags = {"weights": weights, "data": str(tiny_dataset), "imgsz": [64]}
    (result,) = export(**flags)
    job = extras.export.exporter.Job(options.from_kwargs("export", flags))
    job.opt.max_drop, job.opt.workers = max_drop, 0
    with nullcontext() if is_kept else pytest.raises(ValueError, match=r"loses at least .* and --max-drop allows -0.5"):
        job._hold_budget(result.format, result.file)


def test_a_segmentation_model(tmp_path, tiny_dataset, caplog):
    caplog.set_level("INFO")
    weights = write_other_weights(tmp_path / "best.pt", "segment")
    results = export(weights, data=str(tiny_dataset), dynamic=True)
    (result,) = results
    assert result.error == "" and result.task == "segment" and result.parity["masks"] == result.parity["boxes"] > 4
    assert DetectMultiBackend(result.file).task == "segment"
    print_formats(results)
    assert "masks with an IoU of 1.0000" in caplog.text and "python segment/predict.py --weights" in caplog.text


def test_a_classifier(tmp_path, tiny_dataset, caplog):
    caplog.set_level("INFO")
    weights = write_other_weights(tmp_path / "best.pt", "classify")
    for cls in ("box", "disc"):
        shutil.copytree(tiny_dataset.parent / "images" / "val", tmp_path / "folders" / "val" / cls)
    results = export(weights, data=str(tmp_path / "folders"), include="torchscript")
    (result,) = results
    assert result.error == "" and result.parity["top1_changed"] == 0 and result.parity["images"] == 8
    model = DetectMultiBackend(result.file)
    assert model.task == "classify" and model.predict(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 2)
    print_formats(results)
    assert "probabilities within" in caplog.text and "python classify/predict.py --weights" in caplog.text


@pytest.mark.parametrize(("task", "flag"), [("segment", "int8"), ("segment", "nms"), ("classify", "embed")])
def test_what_is_for_detection_alone(tmp_path, task, flag):
    weights = write_other_weights(tmp_path / "best.pt", task)
    with pytest.raises(ValueError, match=f"--{flag}: for detection models so far, found one for the task '{task}'"):
        export(weights, include="onnx", **{flag: True})


def test_evenly():
    assert evenly(list(range(10)), 3) == [0, 3, 6] and evenly([1, 2], 3) == [1, 2]


def test_reason_of_a_foreign_error():
    assert (
        reason(RuntimeError("\nUnsupported: aten::foo\n at line 3")) == "RuntimeError: Unsupported: aten::foo at line 3"
    )
    assert reason(ValueError("plain")) == "plain" and reason(KeyError()) == "KeyError: KeyError"


def test_formats_have_names_of_their_own(weights):
    names = {find_format(key).suffixes[0] for key in ("torchscript", "onnx", "openvino", "litert", "ncnn", "coreml")}
    assert len(names) == 6
    assert json.dumps(sorted(names))
