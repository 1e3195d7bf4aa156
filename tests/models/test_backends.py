"""DetectMultiBackend: YOLOv5's attributes, and the same numbers as the model itself."""

import numpy as np
import pytest
import torch

from models.backends import FORMATS, DetectMultiBackend, bfloat16, find_format, format_of, pytorch
from models.backends.base import Backend
from models.experimental import Ensemble, attempt_load
from tests.conftest import SHARED, needs_shared
from tests.models.backends.conftest import write_other_weights
from tests.tiny_detector import write_tiny_weights


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


def random_images(batch=2, height=64, width=96, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def test_attributes(weights):
    model = DetectMultiBackend(weights)
    assert model.pt and not (model.jit or model.onnx or model.engine)
    assert model.names == {0: "box", 1: "disc"} and model.nc == 2 and model.imgsz == 64 and model.task == "detect"
    assert model.stride == 32 and isinstance(model.stride, int)  # the head's coarsest is 16, but see PyTorchBackend
    assert model.fp16 is False and model.device == torch.device("cpu")
    assert model.eval() is model and model.warmup((1, 3, 64, 64)) is None
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = model.colour


def test_calls_of_scripts_for_yolov5(weights):
    model = DetectMultiBackend(weights)
    assert not (model.triton or model.saved_model or model.pb or model.edgetpu or model.tfjs or model.nhwc)
    assert model.warmup(imgsz=(1, 3, 64, 64), half=False) is None  # v6.0
    images = model.from_numpy(np.zeros((1, 3, 64, 64), np.float32))  # v7
    assert isinstance(images, torch.Tensor) and model.from_numpy(images) is images
    expected = attempt_load(weights, map_location="cpu")(images)[0]  # until v6.1
    torch.testing.assert_close(model(images, augment=False, val=True), expected)  # v6.1
    assert attempt_load(weights, torch.device("cpu")).names == attempt_load(weights, map_location=None).names
    boxes = attempt_load(weights).autoshape()(np.zeros((64, 64, 3), np.uint8))  # v5
    assert boxes.xyxy[0].shape[1] == 6


def test_forward_gives_the_models_own_predictions(weights):
    images = random_images()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    model = DetectMultiBackend(weights)
    with torch.no_grad():
        expected = attempt_load(weights)(x)[0]
        unfused = attempt_load(weights, fuse=False)(x)[0]
        close = {"rtol": 1e-4, "atol": 1e-4}  # the memory layout, and so the order of sums, is another
        torch.testing.assert_close(model(x), expected, **close)
        torch.testing.assert_close(DetectMultiBackend(weights, fuse=False)(x), unfused, **close)
        torch.testing.assert_close(model(x, augment=True), attempt_load(weights)(x, augment=True)[0], **close)
    torch.testing.assert_close(model.predict(images), expected, **close)
    assert expected.shape == (2, 2 * (8 * 12 + 4 * 6), 7)  # 2 anchors a cell at strides 8 and 16
    assert not model.predict(images).requires_grad


@pytest.mark.parametrize(
    ("task", "shapes"), [("segment", [(2, 2 * 8 * 12, 5 + 2 + 4), (2, 4, 16, 24)]), ("classify", [(2, 2)])]
)
def test_other_tasks(tmp_path, task, shapes):
    """What the model in eval mode gives, without the raw maps."""
    weights, images = write_other_weights(tmp_path / "m.pt", task), random_images()
    model = DetectMultiBackend(weights)
    assert (model.task, model.names, model.stride) == (task, {0: "box", 1: "disc"}, 32)
    found = model.predict(images)
    outputs = found if task == "segment" else (found,)
    assert isinstance(found, tuple) is (task == "segment") and [tuple(x.shape) for x in outputs] == shapes
    with torch.no_grad():
        expected = attempt_load(weights)(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    expected = expected[:2] if task == "segment" else expected
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_prepare_is_rgb_to_planes_from_0_to_1(weights):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[..., :] = (255, 51, 0)
    x = DetectMultiBackend(weights).backend.prepare(image)
    assert x.shape == (1, 3, 32, 32) and x.dtype == torch.float32
    torch.testing.assert_close(x[0, :, 5, 5], torch.tensor([1.0, 0.2, 0.0]))


def test_parallel_map_keeps_the_order_and_the_number_of_threads(weights):
    model = DetectMultiBackend(weights)
    images = [random_images(1, 64, 64 + 32 * (i % 3), seed=i) for i in range(12)]
    expected = [model.predict(image) for image in images]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = list(model.parallel_map(model.predict, images))
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            list(model.parallel_map(lambda i: 1 / i, [1, 2, 0, 3, 4]))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_several_weights_are_an_ensemble(tmp_path, tiny_model_cfg):
    files = [write_tiny_weights(tmp_path / f"{seed}.pt", tiny_model_cfg, seed) for seed in (0, 1)]
    images = random_images(1)
    both = DetectMultiBackend(files)
    assert isinstance(both.model, Ensemble) and both.names == {0: "box", 1: "disc"} and both.imgsz == 64
    single = [DetectMultiBackend(file).predict(images) for file in files]
    assert torch.equal(both.predict(images), torch.cat(single, 1))


@pytest.mark.parametrize("capable", [False, True])
def test_half_on_a_cpu_is_bfloat16_where_the_cpu_multiplies_it(weights, caplog, monkeypatch, capable):
    """Any CPU computes in bfloat16, though most do it slowly, so that the numbers are those of a capable one."""
    monkeypatch.setattr(pytorch, "multiplies_bfloat16", lambda: capable)
    caplog.set_level("INFO")
    model, exact = (DetectMultiBackend(weights, "cpu", fp16=half) for half in (True, False))
    text = "--half: bfloat16; scores differ by at most" if capable else "this CPU does not multiply bfloat16"
    assert (model.fp16, model.bf16) == (False, capable) and text in caplog.text
    assert next(model.model.parameters()).dtype == (torch.bfloat16 if capable else torch.float32)
    image = random_images(1)
    predicted, expected = model.predict(image), exact.predict(image)
    assert predicted.dtype == torch.float32 and torch.equal(predicted, expected) != capable
    assert (predicted - expected).abs()[..., 4:].max() < 0.02


def test_bfloat16_that_changes_the_boxes_is_not_used(weights, caplog, monkeypatch):
    monkeypatch.setattr(pytorch, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(bfloat16, "MAX_SHARE", 0)
    model = DetectMultiBackend(weights, "cpu", fp16=True)
    assert not model.bf16 and "--half: float32 is used: with bfloat16 scores differ by" in caplog.text
    assert next(model.model.parameters()).dtype == torch.float32


def test_names_from_the_data_file_where_the_model_has_none(weights, tmp_path, monkeypatch):
    import models.backends.pytorch

    class Nameless(Backend):
        def __init__(self, *args, **kwargs):
            self.names = {}

    monkeypatch.setattr(models.backends.pytorch, "PyTorchBackend", Nameless)
    data = tmp_path / "data.yaml"
    data.write_text("names: [cat, dog]\n")
    assert DetectMultiBackend(weights, data=data).names == {0: "cat", 1: "dog"}
    assert DetectMultiBackend(weights).names == {}  # and nothing tells how many classes there are


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("model.bin", ["model.bin", "PyTorch (.pt .pth)", "ONNX (.onnx)", "found '.bin'"]),
        ("model", ["found 'model'"]),
        ([], ["at least one model file"]),
        (["a.pt", "b.engine"], ["b.engine"]),
    ],
)
def test_a_file_of_no_known_format(weights, words):
    with pytest.raises(ValueError) as caught:
        DetectMultiBackend(weights)
    for word in words:
        assert word in str(caught.value)


def test_format_table():
    suffixes = [suffix for row in FORMATS for suffix in row.suffixes]
    assert len(suffixes) == len(set(suffixes)) and format_of("A.PT") is FORMATS[0]
    assert format_of("runs/best-int8_openvino_model").key == format_of("x/best.xml").key == "openvino"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tflight", "did you mean tflite"),
        ("paddle", "not written here; use onnx"),
        ("pt", "expected one of torchscript, onnx"),
    ],
)
def test_an_unknown_name_for_include(name, words):
    assert find_format("tflite") is find_format("litert")
    with pytest.raises(ValueError, match=words):
        find_format(name)


def test_a_model_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="nothing.onnx: no such file"):
        DetectMultiBackend("nothing.onnx")


@needs_shared
def test_an_official_checkpoint():
    model = DetectMultiBackend(SHARED / "weights" / "yolov5n.pt")
    assert model.nc == 80 and model.names[0] == "person" and model.stride == 32
    assert model.predict(random_images(1, 64, 64)).shape == (1, 3 * (64 + 16 + 4), 85)
