"""The letterbox in the graph is that of detect.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from utils.augmentations import letterbox

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from models.backends import onnx_letterbox  # noqa: E402
from models.backends.onnx_graph import graph_of_text  # noqa: E402

letterboxes = {}  # by size: sessions of the letterbox alone


def letterboxed(image_rgb, imgsz, opset=13):
    """The four outputs of the letterbox's graph."""
    if (imgsz, opset) not in letterboxes:
        constants = onnx_letterbox.constants(ExportSpec(imgsz), Metadata({}, [], 32, []))
        graph = graph_of_text(onnx_letterbox.SIGNATURE, onnx_letterbox.text(), constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
        letterboxes[imgsz, opset] = onnxruntime.InferenceSession(model.SerializeToString())
    return letterboxes[imgsz, opset].run(None, {"image": image_rgb})


sides = st.integers(1, 900)


@settings(max_examples=150, deadline=None)
@given(h=sides, w=sides, imgsz=st.sampled_from([(320, 320), (128, 320)]), opset=st.sampled_from([13, 21]))
def test_letterbox_is_opencvs(h, w, imgsz, opset):
    """On noise, the hardest picture. In float32 a few pixels in a million are rounded to the level next to it."""
    image = np.random.default_rng(h * 1000 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    expected, (ratio, _), (pad_w, pad_h) = letterbox(image, imgsz)
    images, found_ratio, shift, limit = letterboxed(image, imgsz, opset)
    levels = np.rint(images[0].transpose(1, 2, 0) * 255)
    np.testing.assert_allclose(images[0].transpose(1, 2, 0), levels / 255, atol=1e-6)
    assert levels.shape == expected.shape
    differs = np.abs(levels - expected)
    assert differs.max() <= 1 and np.count_nonzero(differs) <= 10
    assert found_ratio == [np.float32(ratio)]
    assert shift.tolist() == [pad_w, pad_h] * 2 and limit.tolist() == [w, h] * 2


@pytest.mark.parametrize(
    ("hw", "proves"),
    [
        ((640, 640), "half the size, where OpenCV takes the mean of four"),
        ((320, 320), "the same size"),
        ((320, 200), "the same size, and borders"),
        ((160, 160), "double the size"),
        ((1, 1), "one pixel"),
        ((1, 900), "one row, which stays one"),
        ((3000, 2000), "a photograph"),
    ],
)
def test_letterbox_of(hw, proves):
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)
    levels = letterboxed(image, (320, 320))[0][0].transpose(1, 2, 0) * 255
    np.testing.assert_allclose(levels, letterbox(image, (320, 320))[0], atol=1e-3, err_msg=proves)
