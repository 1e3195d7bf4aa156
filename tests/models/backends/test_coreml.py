"""CoreML: what is in the written package, and, through an interpreter of ML Programs, that it gives the same numbers.

The runtime itself exists on macOS alone: where the tests need a prediction, MilInterpreter stands in for it.
"""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.backbone.export import to_export_form
from models.backends import DetectMultiBackend, coreml
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.experimental import attempt_load
from models.exportable import exportable
from models.yolo import DetectionModel
from tests.conftest import ROOT, SHARED, needs_shared
from tests.models.backends.mil_interpreter import OPERATORS, MilInterpreter
from tests.models.test_edgevit import fuse
from tests.models.test_edgevit import tiny as tiny_edgevit
from tests.tiny_detector import write_tiny_weights
from utils.logger import LOGGER

pytest.importorskip("coremltools")

NAMES = {0: "box", 1: "disc"}


def metadata_for(spec, names=NAMES, strides=(8, 16)):
    return Metadata(dict(names), list(strides), 32, list(spec.imgsz), spec.batch, precision=spec.precision)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder, {name: (package, spec)}, exportable model): a tiny detector as a package of each kind."""
    from tests.conftest import tiny_model_cfg

    folder = tmp_path_factory.mktemp("coreml")
    weights = write_tiny_weights(folder / "tiny.pt", tiny_model_cfg.__wrapped__())
    model = exportable(attempt_load(weights))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.mul_(2)  # random weights let little of the picture through
    specs = {
        "fp32": ExportSpec((64, 96)),
        "fp16": ExportSpec((64, 96), half=True),
        "int8": ExportSpec((64, 96), int8=True),
        "batch": ExportSpec((64, 96), batch=2),
    }
    packages = {}
    for name, spec in specs.items():
        coreml.export(model, folder / f"{name}.mlpackage", spec, metadata_for(spec))
        packages[name] = folder / f"{name}.mlpackage"
    return packages, model


def operations(package) -> list:
    (function,) = coreml.read_specification(package).mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return block.operations


def random_images(batch=1, height=64, width=96, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def as_input(images) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255


def test_the_interface_is_a_picture_and_one_array(tiny):
    specification = coreml.read_specification(tiny[0]["fp32"])
    assert specification.specificationVersion == 7  # iOS 16, macOS 13
    (picture,), (predictions,) = specification.description.input, specification.description.output
    assert (picture.name, picture.type.imageType.height, picture.type.imageType.width) == ("image", 64, 96)
    assert picture.type.imageType.colorSpace == picture.type.imageType.RGB
    array = predictions.type.multiArrayType
    assert (predictions.name, list(array.shape)) == ("predictions", [1, 2 * (8 * 12 + 4 * 6), 7])
    assert array.dataType == array.FLOAT32
    assert specification.description.metadata.license == "Apache-2.0"
    (several,) = coreml.read_specification(tiny[0]["batch"]).description.input
    assert list(several.type.multiArrayType.shape) == [2, 3, 64, 96]


def test_the_package_holds_nothing_but_the_model(tiny):
    for package in tiny[0].values():
        files = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
        data = "Data/com.apple.CoreML"
        assert files == {"Manifest.json", f"{data}/model.mlmodel", f"{data}/weights/weight.bin"}


@pytest.mark.parametrize(("kind", "expected"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8")])
def test_precision(tiny, kind, expected):
    """float16 up to the last convolution and float32 behind it; or weights of 8 bits with a scale per channel."""
    kinds = Counter(operation.type for operation in operations(tiny[0][kind]))
    assert set(kinds) - {"const"} <= set(OPERATORS)
    program = MilInterpreter(tiny[0][kind]).function.operations
    types = {}
    for operation in program:
        if operation.op_type in ("conv", "sigmoid", "pow", "concat"):
            types.setdefault(operation.op_type, set()).add(operation.outputs[0].dtype.__type_info__().name)
    assert types["conv"] == {"fp16" if expected == "fp16" else "fp32"}
    assert types["sigmoid"] == types["pow"] == {"fp32"}
    assert bool(kinds["constexpr_affine_dequantize"]) == (expected == "int8")
    for operation in program:
        if operation.op_type == "constexpr_affine_dequantize":
            weights = operation.inputs["quantized_data"].val
            assert weights.dtype == np.int8 and operation.inputs["scale"].val.shape == (len(weights),)


@pytest.mark.parametrize(
    ("kind", "box_px", "score"), [("fp32", 1e-3, 1e-5), ("fp16", 0.5, 0.01), ("int8", 8, 0.1), ("batch", 1e-3, 1e-5)]
)
def test_the_program_gives_the_models_numbers(tiny, kind, box_px, score):
    packages, model = tiny
    images = random_images(2 if kind == "batch" else 1)
    value = as_input(images) if kind == "batch" else coreml.picture(as_input(images)[0])
    found = MilInterpreter(packages[kind]).predict({"image": value})["predictions"]
    expected = model(torch.from_numpy(as_input(images))).numpy()
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found[..., :4], expected[..., :4], atol=box_px, rtol=0)
    np.testing.assert_allclose(found[..., 4:], expected[..., 4:], atol=score, rtol=0)
    assert expected[..., 4].std() > 0.01  # it depends on the picture


def test_metadata_is_read_and_replaced(tiny):
    package = tiny[0]["batch"]
    metadata = coreml.read_metadata(package)
    assert metadata == metadata_for(ExportSpec((64, 96), batch=2))
    changed = replace(metadata, parity={"box_px": 0.25, "score": 1e-6, "unmatched": 0}, names={0: "größe", 1: '"'})
    coreml.write_metadata(package, changed)
    assert coreml.read_metadata(package) == changed
    assert MilInterpreter(package).function.outputs[0].shape == (2, 240, 7)  # the rest is as it was
    coreml.write_metadata(package, metadata)


@pytest.fixture
def as_on_macos(monkeypatch, caplog):
    import coremltools

    monkeypatch.setattr(LOGGER, "propagate", True)  # a main() that ran in this process set it otherwise
    caplog.set_level("WARNING", LOGGER.name)
    monkeypatch.setattr(coreml, "runs_here", lambda: True)
    monkeypatch.setattr(coremltools.models, "MLModel", MilInterpreter)


@pytest.mark.parametrize("kind", ["fp32", "batch"])
def test_the_backend_on_macos(tiny, as_on_macos, kind, caplog):
    """Single pictures and a number of them that is no multiple of the file's batch."""
    packages, model = tiny
    detector = DetectMultiBackend(packages[kind], "cpu", fp16=True, dnn=True)
    assert detector.coreml and detector.names == NAMES and detector.fixed_hw == (64, 96) and not detector.end2end
    assert "--half is not used" in caplog.text and "--dnn is not used" in caplog.text
    images = random_images(3)
    expected = model(torch.from_numpy(as_input(images))).numpy()
    np.testing.assert_allclose(detector.predict(images), expected, atol=0.01)
    with pytest.raises(ValueError, match="exported for 64x96 px"):
        detector.predict(random_images(1, 96, 64))
    with pytest.raises(ValueError, match="--device 0: CoreML has"):
        DetectMultiBackend(packages[kind], "0")


@pytest.mark.skipif(sys.platform == "darwin", reason="CoreML runs here")
def test_elsewhere_one_line_says_where_it_runs(tiny):
    with pytest.raises(OSError, match=r"fp32.mlpackage: CoreML files .* run on macOS only, not on "):
        DetectMultiBackend(tiny[0]["fp32"])


@pytest.mark.parametrize(
    ("manifest", "model", "words"),
    [
        (None, b"", "Manifest.json"),
        ("[", b"", "not the manifest of a CoreML package"),
        ("{}", b"", "not the manifest of a CoreML package"),
        ("good", b"\xff" * 9, "not a CoreML specification"),
    ],
)
def test_a_broken_package_is_named(tmp_path, tiny, manifest, model, words):
    package = tmp_path / "broken.mlpackage"
    package.mkdir()
    if manifest == "good":
        manifest = (tiny[0]["fp32"] / "Manifest.json").read_text()
        (package / "Data" / "com.apple.CoreML").mkdir(parents=True)
        (package / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(model)
    if manifest:
        (package / "Manifest.json").write_text(manifest)
    with pytest.raises((ValueError, OSError), match=words):
        coreml.read_metadata(package)


class TinyEdgeVit(torch.nn.Module):
    """A backbone with every kind of layer, in its export form; its last map comes out."""

    def __init__(self):
        super().__init__()
        self.backbone = fuse(tiny_edgevit().eval()).requires_grad_(False)
        to_export_form(self.backbone)

    def forward(self, x):
        return self.backbone(x)[-1]


@pytest.mark.slow
def test_edgevits_blocks_and_a_silent_export(tmp_path, capfd, recwarn):
    model = TinyEdgeVit()
    spec = ExportSpec((64, 64))
    coreml.export(model, tmp_path / "e.mlpackage", spec, metadata_for(spec))
    assert capfd.readouterr() == ("", "") and not recwarn.list
    x = as_input(random_images(1, 64, 64))
    found = MilInterpreter(tmp_path / "e.mlpackage").predict({"image": coreml.picture(x[0])})["predictions"]
    expected = model(torch.from_numpy(x)).detach().numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def compare(model, package, images, imgsz):
    """The largest differences of boxes in px and of scores between a model and its package."""
    program, box_px, score = MilInterpreter(package), 0.0, 0.0
    for image in images:
        x = as_input(image[None])
        found = program.predict({"image": coreml.picture(x[0])})["predictions"]
        difference = np.abs(model(torch.from_numpy(x)).numpy() - found)
        box_px, score = max(box_px, difference[..., :4].max()), max(score, difference[..., 4:].max())
    return box_px, score


def photographs(folder, imgsz, count=2) -> list:
    import cv2

    files = sorted(folder.glob("*.jpg"))[:count]
    return [cv2.resize(cv2.imread(str(file)), (imgsz, imgsz))[..., ::-1] for file in files]


@pytest.mark.slow
@needs_shared
def test_an_official_checkpoint(tmp_path):
    model = exportable(attempt_load(SHARED / "weights" / "yolov5n.pt"))
    spec = ExportSpec((320, 320))
    coreml.export(model, tmp_path / "n.mlpackage", spec, metadata_for(spec, {}, [8, 16, 32]))
    images = photographs(SHARED / "datasets" / "coco256" / "images" / "val2017", 320)
    box_px, score = compare(model, tmp_path / "n.mlpackage", images, 320)
    assert box_px < 0.01 and score < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5_edgevit_xs.yaml", "yolov5_edgevit_s.yaml"])
def test_edgevit(tmp_path, cfg, half):
    torch.manual_seed(0)
    model = exportable(DetectionModel(cfg))
    spec = ExportSpec((256, 256), half=half)
    coreml.export(model, tmp_path / "e.mlpackage", spec, metadata_for(spec, {}, [8, 16, 32]))
    images = photographs(ROOT / "data" / "images" / "shapes", 256)
    box_px, score = compare(model, tmp_path / "e.mlpackage", images, 256)
    assert box_px < (1 if half else 0.01) and score < (0.01 if half else 1e-4)
