"""ExecuTorch files: the model's own numbers, metadata behind the program, from several threads."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("executorch")


from models.backends import DetectMultiBackend
from models.backends import executorch as backend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata, read_appended
from models.experimental import attempt_load
from models.exportable import example_images, exportable
from models.yolo import DetectionModel
from tests.conftest import SHARED, needs_shared
from tests.models.backends.conftest import assert_equal_predictions, confident

WRITTEN = {}  # {name: content}; writing is slow


def written(model, file, imgsz, batch=1):
    metadata = Metadata(model.names, [8.0, 16.0], 32, list(imgsz), batch)
    backend.export(model, file, ExportSpec(imgsz, batch), metadata)
    return file


@pytest.fixture
def tiny(tiny_model_cfg, tmp_path):
    return confident(tiny_model_cfg, tmp_path)


@pytest.fixture
def tiny_file(tiny, tmp_path):
    file = tmp_path / "tiny.pte"
    if "tiny" not in WRITTEN:
        WRITTEN["tiny"] = written(tiny, file, (64, 96)).read_bytes()
    file.write_bytes(WRITTEN["tiny"])
    return file


@pytest.mark.slow
def test_edgevit(shallow_edgevit, tmp_path, capfd):
    exported = DetectMultiBackend(written(shallow_edgevit, tmp_path / "m.pte", (64, 96)))
    assert exported.pte and exported.fixed_hw == (64, 96) and exported.stride == 32 and exported.device == "cpu"
    assert exported.names == {0: "box", 1: "disc"}
    assert capfd.readouterr() == ("", "")
    assert_equal_predictions(exported, shallow_edgevit, (64, 96))


def test_layer_norms_of_convolutions_give_the_same(shallow_edgevit):
    images = example_images(1, (64, 96))
    expected = shallow_edgevit(images)
    model = backend.xnnpack_form(copy.deepcopy(shallow_edgevit))
    assert not any(isinstance(module, backend.MapNorm) for module in model.modules())
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-3)


def test_a_convolutional_model_in_batches(tiny, tmp_path):
    tiny = exportable(tiny.to(memory_format=torch.channels_last))  # as loaded for inference
    exported = DetectMultiBackend(written(tiny, tmp_path / "m.pte", (64, 64), batch=2))
    assert_equal_predictions(exported, tiny, (64, 64), batch=3)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("imgsz", [(640, 640), (480, 640)])
def test_an_official_checkpoint(tmp_path, imgsz):
    model = exportable(attempt_load(SHARED / "weights" / "yolov5n.pt", fuse=False))
    file = written(model, tmp_path / "m.pte", imgsz)
    assert_equal_predictions(DetectMultiBackend(file), model, imgsz, (0.5, 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5_edgevit_xs.yaml", "yolov5_edgevit_s.yaml"])
def test_every_edgevit_at_a_large_size(tmp_path, cfg):
    model = confident({**DetectionModel(cfg).yaml, "nc": 2}, tmp_path)
    file = written(model, tmp_path / "m.pte", (480, 640))
    assert_equal_predictions(DetectMultiBackend(file), model, (480, 640), (0.5, 1e-3))


def test_metadata_is_replaced_and_the_file_still_runs(tiny, tiny_file):
    metadata = read_appended(tiny_file)
    metadata.parity = {"images": 3}
    backend.write_metadata(tiny_file, metadata)
    exported = DetectMultiBackend(tiny_file, threads=1)
    assert exported.backend.metadata == metadata
    assert_equal_predictions(exported, tiny, (64, 96))


def test_a_file_without_metadata(tiny, tiny_file):
    content = tiny_file.read_bytes()
    tiny_file.write_bytes(content[: content.index(b"PK\x03\x04")])
    exported = DetectMultiBackend(tiny_file)
    assert (exported.names, exported.fixed_hw, exported.backend.batch) == ({0: "0", 1: "1"}, (64, 96), 1)
    assert_equal_predictions(exported, tiny, (64, 96))


def test_several_threads_at_once(tiny_file):
    exported = DetectMultiBackend(tiny_file)
    pictures = [np.random.default_rng(seed).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8) for seed in range(16)]
    expected = [exported.predict(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(exported.predict, pictures))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("damage", ["half", "empty", "text", "noise", "hole"])
def test_a_damaged_file(tiny_file, damage):
    content = tiny_file.read_bytes()
    damaged = {
        "half": content[: len(content) // 2],
        "empty": b"",
        "text": b"no model at all" * 9,
        "noise": np.random.default_rng(0).bytes(100_000),
        "hole": content[:100] + bytes(len(content) - 200) + content[-100:],
    }
    tiny_file.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"tiny\.pte: not an ExecuTorch program"):
        DetectMultiBackend(tiny_file)


def test_options_that_have_no_effect_are_told(tiny_file, caplog):
    DetectMultiBackend(tiny_file, device="0", fp16=True, dnn=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
