"""OpenVINO folders: the model's own numbers at any size, devices, threads, broken files, and nothing that is sent."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images
from tests.conftest import ROOT
from utils.nms import non_max_suppression

pytest.importorskip("openvino")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
from models.backends import openvino as backend  # noqa: E402

PX = (64, 96)


def written(model, folder, spec: ExportSpec, **options) -> DetectMultiBackend:
    fields = {"batch": spec.batch, "dynamic": spec.dynamic, "output": spec.output, "precision": spec.precision}
    strides = [float(stride) for stride in model.stride]
    backend.export(model, folder, spec, Metadata(model.names, strides, 32, list(spec.imgsz), **fields))
    return DetectMultiBackend(folder, **options)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return tmp_path_factory.mktemp("once") / "tiny_openvino_model"


@pytest.fixture
def folder(tiny, once, tmp_path):
    """A copy, to be broken, of a folder that is written once."""
    if not once.exists():
        written(tiny, once, ExportSpec(PX))
    return Path(shutil.copytree(once, tmp_path / once.name))


@pytest.mark.parametrize(("half", "atol_px", "atol_score"), [(False, 1e-3, 1e-5), (True, 2.0, 1e-2)])
def test_predictions_at_several_sizes_and_batches(edgevit, tmp_path, half, atol_px, atol_score):
    model = written(edgevit, tmp_path / "m_openvino_model", ExportSpec(PX, dynamic=True, half=half))
    assert model.xml and not model.onnx and model.fixed_hw is None and not model.end2end and model.fp16 is False
    for batch, height, width in ((1, 64, 96), (3, 32, 32), (2, 128, 64)):
        images = example_images(batch, (height, width))
        found, expected = model(images), edgevit(images)
        torch.testing.assert_close(found[..., :4], expected[..., :4], rtol=0, atol=atol_px)
        torch.testing.assert_close(found[..., 4:], expected[..., 4:], rtol=0, atol=atol_score)
    parameters = sum(p.numel() for p in edgevit.parameters())
    size = (tmp_path / "m_openvino_model" / "m.bin").stat().st_size
    assert size == pytest.approx((2 if half else 4) * parameters, rel=0.02)


def test_files_and_metadata(folder, tiny):
    assert sorted(file.name for file in folder.iterdir()) == ["metadata.yaml", "tiny.bin", "tiny.xml"]
    for opened in (folder, folder / "tiny.xml"):
        model = DetectMultiBackend(opened)
        assert model.names == tiny.names and model.stride == 32 and model.fixed_hw == PX and model.imgsz == list(PX)
    metadata = Metadata.load(folder)
    metadata.names = {0: "cat", 1: "dog"}
    backend.write_metadata(folder, metadata)
    assert DetectMultiBackend(folder).names == {0: "cat", 1: "dog"}


def test_a_fixed_batch_and_size(tiny, tmp_path):
    model = written(tiny, tmp_path / "m_openvino_model", ExportSpec(PX, batch=2))
    images = example_images(3, PX)  # one more than the file takes
    torch.testing.assert_close(model(images), tiny(images), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="was exported for 64x96 px, found 64x64"):
        model(example_images(1, (64, 64)))
    with pytest.raises(ValueError, match="m_openvino_model: cannot take images of shape 2x3x64x64"):
        model.backend.run(np.zeros((2, 3, 64, 64), np.float32))


def test_nms_in_the_file(tiny, tmp_path):
    spec = ExportSpec(PX, dynamic=True, nms=True, conf_thres=0.25, iou_thres=0.5, max_det=20)
    model = written(tiny, tmp_path / "m_openvino_model", spec)
    images = example_images(2, (96, 96))
    found = model(images)
    assert model.end2end and found.shape == (2, 20, 6)
    expected = non_max_suppression(tiny(images), 0.25, 0.5, max_det=20)
    for rows, boxes in zip(found, expected):
        assert len(boxes) > 3 and int((rows[:, 4] > 0).sum()) == len(boxes)
        torch.testing.assert_close(rows[: len(boxes)], boxes, rtol=1e-4, atol=1e-3)


def test_nms_behind_a_finished_folder(folder, tiny):
    spec = ExportSpec(PX, nms=True, conf_thres=0.25, iou_thres=0.5, max_det=20)
    images, metadata = example_images(1, PX), Metadata.load(folder)
    metadata.output = spec.output
    backend.complete(folder, ExportSpec(PX), metadata)  # nothing to do
    assert DetectMultiBackend(folder)(images).shape == tiny(images).shape
    backend.complete(folder, spec, metadata)
    assert sorted(file.name for file in folder.iterdir()) == ["metadata.yaml", "tiny.bin", "tiny.xml"]
    found = DetectMultiBackend(folder)(images)[0]
    (expected,) = non_max_suppression(tiny(images), 0.25, 0.5, max_det=20)
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-3)


def test_without_metadata_the_graph_says_what_it_takes(folder, tiny, tmp_path):
    (folder / "metadata.yaml").unlink()
    model = DetectMultiBackend(folder)
    assert model.names == {0: "0", 1: "1"} and model.fixed_hw == PX and model.backend.batch == 1
    dynamic = tmp_path / "dynamic_openvino_model"
    written(tiny, dynamic, ExportSpec(PX, dynamic=True))
    (dynamic / "metadata.yaml").unlink()
    model = DetectMultiBackend(dynamic)
    assert model.fixed_hw is None and model.imgsz is None and model.backend.batch is None


def test_metadata_of_yolov5(folder):
    (folder / "metadata.yaml").write_text("description: x\nstride: 32\nnames:\n  0: cat\n  1: dog\n")
    model = DetectMultiBackend(folder)
    assert model.names == {0: "cat", 1: "dog"} and model.fixed_hw == PX


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda xml, bin: xml.write_text(xml.read_text()[:3000]), ValueError, "tiny.xml: not an OpenVINO model: Start"),
        (lambda xml, bin: xml.write_text(""), ValueError, "tiny.xml: not an OpenVINO model: no <net>"),
        (lambda xml, bin: xml.write_bytes(bytes(range(256))), ValueError, "tiny.xml: not an OpenVINO model"),
        (lambda xml, bin: bin.write_bytes(bin.read_bytes()[:100]), ValueError, "tiny.xml: .* weights"),
        (lambda xml, bin: bin.unlink(), FileNotFoundError, "tiny.bin: no such file"),
        (lambda xml, bin: xml.unlink(), FileNotFoundError, "tiny_openvino_model: expected one .xml file"),
        (
            lambda xml, bin: (xml.parent / "metadata.yaml").write_text("names: ["),
            ValueError,
            "metadata.yaml:[12]: not valid YAML",
        ),
    ],
)
def test_broken_files_are_named(folder, change, error, words):
    change(folder / "tiny.xml", folder / "tiny.bin")
    with pytest.raises(error, match=words):
        DetectMultiBackend(folder)


def test_a_graph_that_is_no_detector(folder):
    openvino = backend.load_openvino()
    x = openvino.opset13.parameter([1, 8], name="x")
    openvino.save_model(openvino.Model([openvino.opset13.relu(x)], [x]), folder / "tiny.xml")
    with pytest.raises(ValueError, match=r"tiny.xml: expected an input of shape \[B, 3, H, W\], found \[1,8\]"):
        DetectMultiBackend(folder)


class FakeCore:
    available_devices = ("CPU", "GPU.0", "GPU.1")


@pytest.mark.parametrize(
    ("device", "name"),
    [("", "CPU"), ("cpu", "CPU"), (torch.device("cpu"), "CPU"), ("0", "GPU.0"), ("1", "GPU.1"), ("gpu", "GPU")]
    + [("AUTO", "AUTO"), ("auto:gpu,cpu", "AUTO:GPU,CPU")],
)
def test_names_of_devices(device, name):
    assert backend.find_device(FakeCore, device) == name


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="--device npu: OpenVINO has no such device here, only CPU, GPU.0, GPU.1"):
        backend.find_device(FakeCore, "npu")


def test_a_device_that_cannot_run_it(folder):
    with pytest.raises(ValueError, match="tiny.xml: cannot be run on CPU.7"):
        DetectMultiBackend(folder, device="CPU.7")


def test_options(folder, tiny, caplog):
    model = DetectMultiBackend(folder, threads=1, dnn=True)
    assert model.backend.compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert "--dnn is not used: it is for ONNX files" in caplog.text
    images = example_images(1, PX)
    precise, half = model(images), DetectMultiBackend(folder, fp16=True)(images)
    torch.testing.assert_close(precise, tiny(images), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(half, tiny(images), rtol=0.05, atol=2)
    with pytest.raises(ValueError, match="--augment and --visualize need the .pt file"):
        model(images, augment=True)


def test_run_from_several_threads(folder, tiny):
    model = DetectMultiBackend(folder)
    images = [example_images(1, PX, seed) for seed in range(4)]
    expected = [model(x) for x in images]
    wrong = []

    def work(i):
        for _ in range(10):
            if not torch.equal(model(images[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Telemetry would start with the import. What it needs is a socket, a child process or a file below the home folder.
SILENT = """
import socket, sys
import numpy as np

def refuse(*args, **kwargs):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
{imports}
from models.backends import DetectMultiBackend
DetectMultiBackend({folder!r}).backend.run(np.zeros((1, 3, 64, 96), np.float32))
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules), "telemetry was loaded"
assert {allows_torch} or "torch" not in sys.modules, "torch was imported"
import openvino.tools.ovc.telemetry_utils as used
assert used.tm.__name__.endswith("telemetry_stub")
"""


def run_silently(folder, home, imports="", allows_torch=False):
    code = SILENT.format(folder=str(folder), imports=imports, allows_torch=allows_torch)
    # without the variables by which a CI server turns telemetry off by itself
    environment = {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "LOCALAPPDATA": str(home),
        "PATH": "",
        "PYTHONPATH": ".",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [file for file in home.rglob("*") if "intel" in str(file.relative_to(home)).lower()]


def test_nothing_is_sent_and_torch_is_not_needed(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    run_silently(folder, home)


def test_nothing_is_sent_by_nncf_either(folder, tmp_path):
    pytest.importorskip("nncf")
    home = tmp_path / "home"
    home.mkdir()
    imports = "from extras.export.quantizers import load_nncf\nload_nncf()"
    run_silently(folder, home, imports, allows_torch=True)


def test_a_moved_folder_still_opens(folder, tmp_path):
    moved = shutil.move(folder, tmp_path / "other_openvino_model")
    assert DetectMultiBackend(moved).fixed_hw == PX
