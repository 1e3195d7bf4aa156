"""detect.py with an exported file, where there is no PyTorch."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

import detect
import export
from tests.conftest import ROOT
from tests.tiny_detector import write_tiny_weights

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ALLOWED = ("numpy", "cv2", "onnxruntime", "google", "flatbuffers", "packaging")  # the last ones are onnxruntime's

DETECT_WITHOUT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
sys.path.insert(0, ROOT)
sys.argv = ["detect.py", *FLAGS]
import runpy
runpy.run_path(ROOT + "/detect.py", run_name="__main__")
"""


@pytest.fixture
def exported(tmp_path, tiny_model_cfg) -> Path:
    weights = write_tiny_weights(tmp_path / "best.pt", tiny_model_cfg)
    (result,) = export.run(weights=str(weights), include="onnx", dynamic=True)
    assert result.error == ""
    return result.file


@pytest.fixture
def pictures(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i, size in enumerate([(64, 48), (64, 64), (40, 64)]):
        noise = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), size)
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), noise)
    return tmp_path / "pictures"


def found_by_pytorch(exported, pictures, project) -> list:
    return detect.run(weights=str(exported.with_suffix(".pt")), source=str(pictures), project=str(project), nosave=True)


def assert_same(file: Path, expected: list) -> None:
    """predictions.json of detect.py has the boxes of these Results."""
    records = json.loads(file.read_text())
    assert [record["source"] for record in records] == [result.path for result in expected]
    for record, result in zip(records, expected):
        boxes = np.array([[*box["box_xyxy"], box["confidence"], box["class"]] for box in record["boxes"]])
        assert len(boxes) == len(result.boxes) > 0
        np.testing.assert_allclose(boxes[:, :4], result.boxes[:, :4], atol=1)
        np.testing.assert_allclose(boxes[:, 4:], result.boxes[:, 4:], atol=1e-3)


def test_nothing_on_the_path_imports_pytorch_or_other_packages(exported, pictures, tmp_path):
    blocked = ["torch", "torchvision", "yaml", "PIL", "tqdm", "pandas", "matplotlib", "onnx", "scipy"]
    flags = ["--weights", exported, "--source", pictures, "--project", tmp_path / "out", "--save-json"]
    code = f"BLOCKED, ROOT, FLAGS = {blocked!r}, {str(ROOT)!r}, {list(map(str, flags))!r}\n" + DETECT_WITHOUT
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out" / "exp").glob("*.png"))) == 3
    assert_same(tmp_path / "out" / "exp" / "predictions.json", found_by_pytorch(exported, pictures, tmp_path))


@pytest.mark.slow
def test_an_environment_of_the_runtime_alone(exported, pictures, tmp_path):
    """The packages of requirements-runtime.txt and no other; peak memory and start at most half of PyTorch's."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", ROOT / "requirements-runtime.txt"], check=True)
    done = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in done.stderr
    flags = ["--source", pictures, "--project", tmp_path / "out", "--save-json"]
    light = measured(python, *flags, "--weights", exported)
    assert_same(tmp_path / "out" / "exp" / "predictions.json", found_by_pytorch(exported, pictures, tmp_path))
    heavy = measured(sys.executable, *flags, "--weights", exported.with_suffix(".pt"))
    print(f"runtime alone {light}, PyTorch {heavy} (peak MB, CPU seconds)")
    assert light[0] <= heavy[0] / 2 and light[1] <= heavy[1] / 2


def measured(python, *flags):
    """(peak MB, CPU seconds) of detect.py in a process of its own."""
    code = (
        "import json, resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([code, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]))"
    )
    line = [sys.executable, "-c", code, str(python), str(ROOT / "detect.py"), *map(str, flags)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    code, *figures = json.loads(done.stdout)
    assert code == 0, done.stderr
    return figures
