"""LiteRT files: the model's own numbers in every precision, without torch, from several threads."""

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from models.backends import DetectMultiBackend, litert
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata, read_appended
from models.exportable import example_images, exportable
from models.yolo import DetectionModel
from tests.conftest import ROOT, SHARED, needs_shared
from tests.models.backends.conftest import confident, differences

pytest.importorskip("ai_edge_litert")
pytest.importorskip("litert_torch")
FP32 = (0.05, 1e-4)  # the most that boxes (px) and scores may differ
MEAN = {"fp32": (1e-3, 1e-5), "fp16": (0.1, 0.002), "int8": (3.0, 0.05)}  # the same, of their means
SIZES = {"fp32": 1.01, "fp16": 0.6, "int8": 0.4}  # most of the float32 file's


def written(model, file, imgsz, precision="fp32", **options):
    metadata = Metadata(model.names, [8.0, 16.0], 32, list(imgsz), options.get("batch", 1), precision=precision)
    spec = ExportSpec(imgsz, half=precision == "fp16", int8=precision == "int8", **options)
    litert.export(model, file, spec, metadata)
    return file


def calibration():
    for seed in range(4):
        yield example_images(1, (64, 96), seed).numpy()


CONVERTED = {}  # {name: content}; converting is slow


@pytest.fixture
def convert_once(monkeypatch):
    """convert() of each name once in this file's tests."""
    convert = litert.convert

    def once(name):
        def cached(model, spec):
            if name not in CONVERTED:
                CONVERTED[name] = convert(model, spec)
            return CONVERTED[name]

        monkeypatch.setattr(litert, "convert", cached)

    return once


@pytest.fixture
def tiny(tiny_model_cfg, tmp_path):
    return confident(tiny_model_cfg, tmp_path)


@pytest.fixture
def tiny_file(tiny, tmp_path, convert_once):
    convert_once("tiny")
    return written(tiny, tmp_path / "tiny.tflite", (64, 96))


@pytest.mark.parametrize("precision", MEAN)
def test_edgevit(shallow_edgevit, tmp_path, convert_once, capfd, precision):
    convert_once("edgevit")
    file = written(shallow_edgevit, tmp_path / "m.tflite", (64, 96), precision, calibration=calibration)
    exported = DetectMultiBackend(file)
    assert exported.tflite and exported.fixed_hw == (64, 96) and exported.stride == 32 and exported.device == "cpu"
    assert exported.names == {0: "box", 1: "disc"} and exported.backend.metadata.precision == precision
    found = differences(exported, shallow_edgevit, (64, 96), of=torch.mean)
    assert found[0] < MEAN[precision][0] and found[1] < MEAN[precision][1]
    assert file.stat().st_size < len(CONVERTED["edgevit"]) * SIZES[precision]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_convolutional_model_in_batches(tiny, tmp_path, convert_once, precision):
    convert_once("batch")
    tiny = exportable(tiny.to(memory_format=torch.channels_last))  # as loaded for inference
    file = written(tiny, tmp_path / "m.tflite", (64, 96), precision, batch=2, calibration=calibration)
    found = differences(DetectMultiBackend(file), tiny, (64, 96), batch=3, of=torch.mean)
    assert found[0] < MEAN[precision][0] and found[1] < MEAN[precision][1]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("imgsz", [(640, 640), (480, 640)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_official_checkpoint(tmp_path, imgsz, precision):
    from models.experimental import attempt_load

    model = exportable(attempt_load(SHARED / "weights" / "yolov5n.pt", fuse=False))
    file = written(model, tmp_path / "m.tflite", imgsz, precision)
    found = differences(DetectMultiBackend(file), model, imgsz)
    assert found[0] < (0.5 if precision == "fp32" else 16) and found[1] < (1e-3 if precision == "fp32" else 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5_edgevit_xs.yaml", "yolov5_edgevit_s.yaml"])
def test_every_edgevit_at_a_large_size(tmp_path, cfg):
    model = confident({**DetectionModel(cfg).yaml, "nc": 2}, tmp_path)
    found = differences(DetectMultiBackend(written(model, tmp_path / "m.tflite", (480, 640))), model, (480, 640))
    assert found[0] < 0.5 and found[1] < 1e-3


def test_metadata_is_replaced_and_the_file_still_runs(tiny, tiny_file):
    metadata = read_appended(tiny_file)
    metadata.parity = {"images": 3}
    litert.write_metadata(tiny_file, metadata)
    exported = DetectMultiBackend(tiny_file, threads=1)
    assert exported.backend.metadata == metadata
    assert differences(exported, tiny, (64, 96))[0] < FP32[0]


def test_several_threads_at_once(tiny, tiny_file):
    exported = DetectMultiBackend(tiny_file)
    pictures = [np.random.default_rng(seed).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8) for seed in range(16)]
    expected = [exported.predict(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(exported.predict, pictures))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_runs_without_torch(tiny_file):
    program = (
        "import sys, numpy as np; sys.modules.update(torch=None, litert_torch=None, yaml=None)\n"
        "from models.backends import DetectMultiBackend\n"
        f"model = DetectMultiBackend({str(tiny_file)!r})\n"
        "print(model.names, model.predict(np.zeros((1, 64, 96, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout == "{0: 'box', 1: 'disc'} (1, 240, 7)\n"


def test_files_of_yolov5_give_boxes_as_fractions_of_the_image(tiny, tiny_file):
    tiny_file.write_bytes(CONVERTED["tiny"])
    unnamed = DetectMultiBackend(tiny_file)
    assert unnamed.names == {0: "0", 1: "1"}
    assert (unnamed.stride, unnamed.fixed_hw, unnamed.backend.batch) == (32, (64, 96), 1)
    with zipfile.ZipFile(tiny_file, "a") as archive:
        archive.writestr("temp/meta.txt", str({"stride": 16, "names": {0: "box", 1: "disc"}}))
    named = DetectMultiBackend(tiny_file)
    assert (named.names, named.stride, named.fixed_hw) == ({0: "box", 1: "disc"}, 16, (64, 96))
    images = example_images(1, (64, 96))
    expected = tiny(images) * torch.tensor([96, 64, 96, 64, 1, 1, 1])
    for exported in (unnamed, named):
        torch.testing.assert_close(exported(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_values_as_a_tensors_type(kind):
    limits = np.iinfo(kind)
    tensor = {"dtype": kind, "quantization": (1 / 255, limits.min)}
    values = np.float32([0, 0.2, 1, 2])
    numbers = litert.quantized(values, tensor)
    assert numbers.dtype == kind and list(numbers) == [limits.min, limits.min + 51, limits.max, limits.max]
    np.testing.assert_allclose(litert.dequantized(numbers, tensor), [0, 0.2, 1, 1], atol=1e-6)
    plain = {"dtype": np.float32, "quantization": (0.0, 0)}
    assert litert.quantized(values, plain) is values and litert.dequantized(values, plain) is values


@pytest.mark.parametrize("damage", ["half", "empty", "text", "hole"])
def test_a_damaged_file(tiny_file, damage):
    content = tiny_file.read_bytes()
    damaged = {
        "half": content[: len(content) // 2],
        "empty": b"",
        "text": b"no model at all" * 9,
        "hole": content[:100] + bytes(len(content) - 200) + content[-100:],
    }
    tiny_file.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"tiny\.tflite: not a LiteRT model"):
        DetectMultiBackend(tiny_file)


def test_a_model_that_is_no_detector(tmp_path):
    file = tmp_path / "other.tflite"
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    file.write_bytes(litert.convert(model, ExportSpec((64, 64))))
    with pytest.raises(
        ValueError, match=r"other\.tflite: expected an output \[B, N, 5 \+ classes\], found \[1, 15376\]"
    ):
        DetectMultiBackend(file)


def test_int8_needs_images(tiny, tmp_path):
    with pytest.raises(ValueError, match="int8 needs images"):
        written(tiny, tmp_path / "m.tflite", (64, 64), "int8")
    assert not (tmp_path / "m.tflite").exists()


def test_options_that_have_no_effect_are_told(tiny_file, caplog):
    DetectMultiBackend(tiny_file, device="0", fp16=True, dnn=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
