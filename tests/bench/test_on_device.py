"""bench/on_device.py: a single file that knows nothing of the project, run from elsewhere."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from bench import on_device
from extras.latency.figures import read_figures
from extras.latency.files import write_file
from extras.latency.runtimes import RUNTIMES, reason_to_skip
from tests.conftest import ROOT
from tests.tiny_detector import FEW_OPERATORS

KEYS = [key for key in ("onnx", "openvino", "ncnn", "litert") if not reason_to_skip(RUNTIMES[key])]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A folder as on a device: the script and a file of each runtime."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copyfile(ROOT / "bench" / "on_device.py", folder / "on_device.py")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(FEW_OPERATORS))
    for key in KEYS:
        file = folder / f"tiny-64{RUNTIMES[key].format.suffixes[0]}"
        write_file(folder / "tiny.yaml", 2, 64, RUNTIMES[key], file)
    return folder


def run(folder, *args):
    command = [sys.executable, "-I", "on_device.py", *args, "--seconds", "1"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_it_measures_every_kind_of_file(copied):
    names = sorted(path.name for path in copied.iterdir() if path.name.startswith("tiny-"))
    done = run(copied, *names, "--threads", "1", "2", "--out", "figures.json")
    assert done.returncode == 0, done.stderr[-2000:]
    figures = read_figures(copied / "figures.json")
    assert sorted((f.runtime, f.threads) for f in figures) == sorted((key, n) for key in KEYS for n in (1, 2))
    assert {(f.model, f.size_px) for f in figures} == {("tiny", 64)}
    assert all(0 < f.low_ms <= f.median_ms <= f.high_ms and f.runs >= 20 for f in figures)
    content = json.loads((copied / "figures.json").read_text())
    assert content["cpu"] and content["cores"] >= 1 and "numpy" in content["runtimes"]


@pytest.mark.parametrize(
    ("name", "message"), [("none.onnx", "no such file"), ("on_device.py", "expected a name that ends in .onnx")]
)
def test_a_file_that_cannot_be_run(copied, name, message):
    done = run(copied, name, "--out", "none.json")
    assert done.returncode == 1 and f"error: {name}: {message}" in done.stderr and "Traceback" not in done.stderr
    assert not (copied / "none.json").exists()


@pytest.mark.parametrize(
    ("name", "model", "runtime"),
    [
        ("yolov5n-320.onnx", "yolov5n", "onnx"),
        ("yolov5_edgevit_s-640-int8.tflite", "yolov5_edgevit_s", "onnx-int8"),
        ("yolov5n-320_ncnn_model", "yolov5n", "onnx"),
        ("best.onnx", "best", "onnx"),
        ("my-model.v2.onnx", "my-model", "onnx"),
    ],
)
def test_what_a_name_tells(tmp_path, name, model, runtime):
    found = on_device.describe(tmp_path / name, "onnx")
    assert (found["model"], found["runtime"]) == (model, runtime)


@pytest.mark.parametrize(
    ("shape", "filled"),
    [
        (["batch", 3, "height", "width"], [1, 3, 96, 96]),
        ([1, 3, 64, 64], [1, 3, 64, 64]),
        ([None, None, None, 3], [1, 96, 96, 3]),
    ],
)
def test_open_sizes_are_filled(shape, filled):
    assert on_device.filled(shape, 96) == filled and on_device.side(filled) in (64, 96)


def test_open_sizes_need_a_size():
    with pytest.raises(ValueError, match="--size PX"):
        on_device.filled([1, 3, None, None], None)
