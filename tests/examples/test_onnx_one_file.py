"""The example needs numpy, onnxruntime and Pillow alone, and draws what the file finds."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from models.backends.base import ExportSpec
from models.backends.metadata import Metadata

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from models.backends.onnx_graph import add_image_input  # noqa: E402

EXAMPLE = ROOT / "examples" / "onnx_one_file.py"
RUN = """
import runpy, sys
script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "torchvision", "cv2", "yaml", "models", "utils", "engine"}, loaded
assert loaded >= {"numpy", "onnxruntime", "PIL"}
"""
FOUND = [[64, 32, 40, 20, 1, 0.9, 0.2], [20, 60, 16, 16, 0.5, 0.1, 0.7]]  # xywh, objectness, class scores, at 64 x 128


@pytest.fixture
def weights(tmp_path):
    """A file that finds the same two boxes in every picture."""
    axes = {"images": ["batch", 3, "height", "width"], "output0": [1, 2, 7]}
    image, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in axes.items()
    )
    found = onnx.numpy_helper.from_array(np.array([FOUND], np.float32), "found")
    node = onnx.helper.make_node("Identity", ["found"], ["output0"])
    graph = onnx.helper.make_graph([node], "network", [image], [output], [found])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    metadata = Metadata({0: "box", 1: "disc"}, [8.0, 16.0], 32, [128, 128], output="image")
    model = add_image_input(model, ExportSpec((128, 128)), metadata)
    onnx.helper.set_model_props(model, metadata.to_strings())
    onnx.save(model, str(tmp_path / "best.onnx"))
    return tmp_path / "best.onnx"


def test_it_is_short():
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line]) <= 15


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_it_draws_the_boxes(weights, tmp_path, mode):
    Image.new("RGB", (256, 128), (120, 130, 140)).convert(mode).save(tmp_path / "picture.png")
    arguments = [EXAMPLE, weights, tmp_path / "picture.png", tmp_path / "drawn.png"]
    run = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    before = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"), int)
    changed = (np.asarray(Image.open(tmp_path / "drawn.png"), int) != before).any(2)
    for left, top, right, bottom in ((88, 44, 168, 84), (24, 104, 56, 127)):  # twice FOUND's; the lower one is cut
        assert changed[top, left : right + 1].all() and changed[top:bottom, left].all(), "the outline"
        assert changed[top + 4 : top + 16, left + 4 : right].any(), "the name"
    assert not changed[:40].any() and not changed[:, 200:].any()
