"""ncnn folders: the model's own numbers, without torch, from several threads."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from models.backends import DetectMultiBackend
from models.backends import ncnn as backend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel
from tests.conftest import ROOT, SHARED, needs_shared
from tests.models.backends.conftest import assert_equal_predictions

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")
FP32, FP16 = (0.05, 1e-4), (16.0, 0.02)  # most that boxes (px) and scores may differ


def varied(cfg, imgsz) -> torch.nn.Module:
    """An exportable() detector of random weights whose raw predictions have a standard deviation of 2."""
    torch.manual_seed(0)
    model = exportable(DetectionModel(cfg, nc=3).eval())
    kept = []

    def rescale(conv, inputs, output):
        output = output - conv.bias[:, None, None]
        factor = 2 / output.std((0, 2, 3)).clamp(min=1e-6)
        conv.weight.mul_(factor[:, None, None, None])
        conv.bias.copy_(-output.mean((0, 2, 3)) * factor)
        return output * factor[:, None, None]

    with torch.no_grad():
        kept += [conv.register_forward_hook(rescale) for conv in model.model[-1].m]
        model(example_images(2, imgsz, seed=5))
    for hook in kept:
        hook.remove()
    return model


def written(model, folder, imgsz, half=False, **options):
    metadata = Metadata(model.names, [8.0, 16.0, 32.0], 32, list(imgsz), precision="fp16" if half else "fp32")
    backend.export(model, folder, ExportSpec(imgsz, half=half), metadata)
    return DetectMultiBackend(folder, device="cpu", **options)


@pytest.fixture(scope="module")
def edgevit():
    return varied("yolov5_edgevit.yaml", (64, 96))


@pytest.fixture
def tiny(tiny_model_cfg):
    return varied(tiny_model_cfg, (64, 64))


@pytest.mark.parametrize(("half", "limits"), [(False, FP32), (True, FP16)])
def test_edgevit(edgevit, tmp_path, half, limits):
    folder = tmp_path / "m_ncnn_model"
    exported = written(edgevit, folder, (64, 96), half)
    assert exported.ncnn and exported.fixed_hw == (64, 96) and exported.stride == 32 and exported.device == "cpu"
    assert sorted(file.name for file in folder.iterdir()) == ["metadata.yaml", "model.ncnn.bin", "model.ncnn.param"]
    assert_equal_predictions(exported, edgevit, (64, 96), limits, batch=2)
    floats = sum(parameter.numel() for parameter in edgevit.parameters())
    assert (folder / "model.ncnn.bin").stat().st_size / floats == pytest.approx(2 if half else 4, rel=0.1)


@pytest.mark.parametrize("imgsz", [(64, 64), (32, 96)])
def test_a_convolutional_model(tiny, tmp_path, imgsz):
    assert_equal_predictions(written(tiny, tmp_path / "m_ncnn_model", imgsz), tiny, imgsz, FP32, batch=3)


@needs_shared
@pytest.mark.parametrize("imgsz", [(64, 96), pytest.param((640, 640), marks=pytest.mark.slow)])
def test_an_official_checkpoint(tmp_path, imgsz):
    from models.experimental import attempt_load

    model = exportable(attempt_load(SHARED / "weights" / "yolov5n.pt", fuse=False))
    assert_equal_predictions(written(model, tmp_path / "m_ncnn_model", imgsz), model, imgsz, FP32, batch=2)


@pytest.mark.slow
@pytest.mark.parametrize("imgsz", [(640, 640), (480, 640)])
@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5_edgevit_xs.yaml", "yolov5_edgevit_s.yaml"])
def test_every_edgevit_at_large_sizes(tmp_path, cfg, imgsz):
    model = varied(cfg, imgsz)
    assert_equal_predictions(written(model, tmp_path / "m_ncnn_model", imgsz), model, imgsz, FP32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov5s-transformer", "yolov5s-ghost", "yolov5s6", "yolov3-spp", "yolov5-bifpn"])
def test_other_model_files(tmp_path, name):
    model = varied(f"models/hub/{name}.yaml", (256, 320))
    exported = written(model, tmp_path / "m_ncnn_model", (256, 320))
    assert_equal_predictions(exported, model, (256, 320), (0.5, 5e-3))  # some features vary by 1e-4 only


CHANNELS_REVERSED = """7767517
2 2
Input in0 0 1 in0
Convolution conv 1 1 in0 out0 0=3 1=1 5=1 6=9
"""


@pytest.fixture
def folder(tmp_path):
    """A folder whose graph swaps red and blue and adds 1 to each value."""
    folder = tmp_path / "hand_ncnn_model"
    folder.mkdir()
    weights = np.concatenate([[0], np.eye(3)[::-1].ravel(), np.ones(3)]).astype(np.float32)
    (folder / "model.ncnn.param").write_text(CHANNELS_REVERSED)
    (folder / "model.ncnn.bin").write_bytes(weights.tobytes())
    Metadata({0: "a"}, [8.0], 32, [64, 64]).save(folder)
    return folder


def test_a_folder_that_another_program_wrote(folder):
    images = example_images(3, (64, 64))
    exported = DetectMultiBackend(folder, device="cpu")
    assert exported.names == {0: "a"}
    torch.testing.assert_close(exported(images), images.flip(1) + 1)
    with pytest.raises(ValueError, match="exported for 64x64 px, found 32x64"):
        exported(images[:, :, :32])


def test_several_threads_at_once(tiny, tmp_path):
    exported = written(tiny, tmp_path / "m_ncnn_model", (64, 64), threads=1)
    images = [example_images(2, (64, 64), seed).numpy() for seed in range(16)]
    expected = [exported(batch) for batch in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(exported, images))
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from models.backends import DetectMultiBackend
model = DetectMultiBackend(sys.argv[1])
np.save(sys.argv[2], model.predict(np.load(sys.argv[3])))
"""


def test_running_a_file_needs_no_torch(folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    files = [str(folder), str(tmp_path / "found.npy"), str(tmp_path / "images.npy")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *files], cwd=ROOT, check=True)
    expected = DetectMultiBackend(folder, device="cpu").predict(images)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


def test_metadata_is_replaced_and_the_param_file_opens_too(folder):
    metadata = Metadata.load(folder)
    metadata.parity = {"box_px": 0.1}
    backend.write_metadata(folder, metadata)
    again = DetectMultiBackend(folder / "model.ncnn.param")
    assert again.backend.metadata == metadata and again.ncnn


def test_flags_without_effect_are_named(folder, caplog):
    DetectMultiBackend(folder, device="0", fp16=True, dnn=True)
    assert [flag in caplog.text for flag in ("--half", "--dnn", "--device")] == [True] * 3


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("model.ncnn.param", b"not a graph\n", ValueError, "ncnn cannot read this file"),
        ("model.ncnn.param", None, FileNotFoundError, "model.ncnn.param: no such file"),
        ("model.ncnn.param", b"7767517\n2 2\nInput data 0 1 data\nReLU x 1 1 data y\n", ValueError, "found data, y"),
        ("model.ncnn.bin", b"", ValueError, "ncnn cannot read this file"),
        ("model.ncnn.bin", None, FileNotFoundError, "model.ncnn.bin: no such file"),
        ("metadata.yaml", b"[1]", ValueError, "expected a mapping"),
    ],
)
def test_damaged_folders(folder, name, content, error, words):
    file = folder / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(error, match=words):
        DetectMultiBackend(folder)


class Sorted(torch.nn.Module):
    names = {0: "a"}

    def forward(self, x):
        return x.flatten(2).sort(-1)[0]


def test_layers_that_ncnn_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="ncnn has no layer for .*sort"):
        written(Sorted(), tmp_path / "m_ncnn_model", (32, 32))
    assert not (tmp_path / "m_ncnn_model").exists()


def test_a_conversion_that_fails(tiny, tmp_path, monkeypatch):
    import pnnx

    monkeypatch.setattr(pnnx, "EXEC_PATH", sys.executable)  # which says that it cannot read model.pt
    with pytest.raises(ValueError, match="pnnx could not convert the model; it printed: .*"):
        written(tiny, tmp_path / "m_ncnn_model", (64, 64))
