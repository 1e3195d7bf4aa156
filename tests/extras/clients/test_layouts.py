"""--layout and --box-unit: tensors to the column, the same boxes in every one, and what is refused."""

import numpy as np
import pytest

from engine import options
from extras.clients.layouts import LAYOUTS
from extras.clients.runners import RUNNERS, prepared
from extras.export.exporter import export_formats
from models.backends import DetectMultiBackend
from tests.extras.clients.conftest import SIZE_PX, export, nms
from utils.boxes import xywh2xyxy

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
PX = 0.01  # most that a box may differ, in fp32
# N is 2 anchors on 8 x 8 and 4 x 4 cells; nc is 2
SHAPES = {
    "v5": [(1, 160, 7)],
    "scored": [(1, 160, 7)],
    "v8": [(1, 6, 160)],
    "rows6": [(1, 160, 6)],
    "heads": [(1, 14, 8, 8), (1, 14, 4, 4)],
    "e2e": [(1, 100, 6)],
    "split": [(1, 100, 4), (1, 100), (1, 100)],
}


@pytest.fixture(scope="module")
def outputs(weights, picture):
    """Return a function (layout, flags) -> what onnxruntime gives for the picture, exported once for each."""
    done = {}

    def run(layout, **flags):
        key = (layout, *flags.items())
        if key not in done:
            file = export(weights, include="onnx", layout=layout, **flags).file
            done[key] = RUNNERS["onnx"](file)(prepared(picture[None], "nchw"))
        return done[key]

    return run


@pytest.mark.parametrize("layout", SHAPES)
def test_shapes(outputs, layout):
    assert [array.shape for array in outputs(layout)] == SHAPES[layout]


def test_before_nms(outputs, rows):
    (v5,), (scored,), (v8,), (rows6,) = map(outputs, ("v5", "scored", "v8", "rows6"))
    scores = rows[:, 4:5] * rows[:, 5:]
    np.testing.assert_allclose(v5[0], rows, atol=1e-3)
    np.testing.assert_allclose(scored[0], np.column_stack([rows[:, :4], scores.max(1), scores]), atol=1e-3)
    np.testing.assert_allclose(v8[0].T[:, :4], rows[:, :4], atol=PX)
    np.testing.assert_allclose(v8[0].T[:, 4:], scores, atol=1e-5)
    np.testing.assert_allclose(rows6[0, :, :4], xywh2xyxy(rows[:, :4]), atol=PX)
    np.testing.assert_allclose(rows6[0, :, 4], scores.max(1), atol=1e-5)
    np.testing.assert_array_equal(rows6[0, :, 5], scores.argmax(1))


def test_after_nms(outputs, rows):
    expected = nms(rows, max_det=100)
    assert len(expected) > 20
    (e2e,), (flat7,), (location, category, score) = map(outputs, ("e2e", "flat7", "split"))
    n = len(expected)
    np.testing.assert_allclose(e2e[0, :n], expected, atol=PX)
    assert not e2e[0, n:].any() and flat7.shape == (n, 7)
    np.testing.assert_allclose(flat7, np.column_stack([np.zeros(n), expected]), atol=PX)
    np.testing.assert_allclose(location[0, :n], expected[:, :4], atol=PX)
    np.testing.assert_allclose(np.stack([score[0, :n], category[0, :n]], 1), expected[:, 4:], atol=1e-5)


def test_maps_are_the_rows_before_they_are_decoded(outputs, rows):
    fine, coarse = outputs("heads")
    objectness = [y.reshape(2, 7, *y.shape[2:])[:, 4].ravel() for y in (fine, coarse)]
    np.testing.assert_allclose(np.concatenate(objectness), rows[:, 4], atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "boxes"),
    [
        ("v8", lambda y: y[0][0].T[:, :4]),
        ("rows6", lambda y: y[0][0, :, :4]),
        ("e2e", lambda y: y[0][0, :, :4]),
        ("flat7", lambda y: y[0][:, 1:5]),
        ("split", lambda y: y[0][0]),
    ],
)
def test_boxes_as_fractions(outputs, layout, boxes):
    in_px, fractions = boxes(outputs(layout)), boxes(outputs(layout, box_unit="0..1"))
    np.testing.assert_allclose(fractions * SIZE_PX, in_px, atol=1e-4)


@pytest.mark.parametrize(("layout", "runtime"), [("heads", "openvino"), ("v8", "torchscript")])
def test_other_runtimes(outputs, weights, picture, layout, runtime):
    pytest.importorskip(runtime.replace("torchscript", "torch"))
    file = export(weights, include=runtime, layout=layout).file
    assert layout in file.name
    found = RUNNERS[runtime](file)(prepared(picture[None], "nchw"))
    for array, expected in zip(found, outputs(layout), strict=True):
        np.testing.assert_allclose(array, expected, atol=PX)


@pytest.mark.parametrize("layout", ["v8", "heads", "flat7"])
def test_any_size_and_batch(weights, layout, picture):
    result = export(weights, include="onnx", layout=layout, dynamic=True)
    wide = np.concatenate([picture, picture], 1)
    (first, *_) = RUNNERS["onnx"](result.file)(prepared(np.stack([wide, wide]), "nchw"))
    if layout == "flat7":
        assert set(first[:, 0]) == {0, 1} and (first[:, 3] > SIZE_PX).any()
    else:
        assert first.shape == {"v8": (2, 6, 320), "heads": (2, 14, 8, 16)}[layout]


def test_what_is_readable_here_and_what_is_not(weights, picture, rows):
    file = export(weights, include="onnx", layout="e2e").file
    assert file.name == "best.onnx" and DetectMultiBackend(file).predict(picture[None]).shape == (1, 100, 6)
    file = export(weights, include="onnx", layout="v8").file
    assert file.name == "best-v8.onnx"
    with pytest.raises(ValueError, match="output: expected raw, boxes or image .*--layout.*found 'v8'"):
        DetectMultiBackend(file)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"layout": "head"}, "--layout head: expected one of v5, scored, .*did you mean heads"),
        ({"layout": "v8", "nms": True}, "--nms: expected one of the layouts e2e, flat7 and split, found --layout v8"),
        ({"layout": "heads", "box_unit": "0..1"}, "the layout heads has no boxes"),
        ({"layout": "v8", "box_unit": "0..1", "dynamic": True}, "--dynamic: --layout v8 needs a file of one size"),
        ({"layout": "v8", "embed": True}, "--embed: the file has an output of its own"),
        ({"layout": "v8", "int8": True, "data": "no.yaml"}, "--int8: expected a layout that val.py reads"),
        ({"layout": "v8", "client": "frigate"}, "--for chooses the layout"),
    ],
)
def test_options_that_cannot_be(weights, flags, words):
    with pytest.raises(ValueError, match=words):
        export_formats(options.from_kwargs("export", {"weights": weights, "include": "onnx", **flags}))


def test_a_format_that_a_layout_does_not_have(weights):
    options_of_it = options.from_kwargs("export", {"weights": weights, "include": "ncnn", "layout": "v8"})
    (result,) = export_formats(options_of_it)
    assert "the layout v8: expected --include with one of onnx openvino litert torchscript, found ncnn" in result.error


def test_the_gate_notices_another_layout(weights, monkeypatch):
    """A file whose tensor is not what its client takes it for is rejected."""
    from extras.clients import gate

    monkeypatch.setitem(
        gate.DECODERS, "v8", lambda tensors, setting: gate.DECODERS["v5"]([tensors[0][:, ::-1]], setting)
    )
    given = {"weights": weights, "include": "onnx", "layout": "v8", "imgsz": SIZE_PX}
    (result,) = export_formats(options.from_kwargs("export", given))
    assert "expected raw predictions of shape" in result.error or "differs" in result.error
    assert set(LAYOUTS) == set(gate.DECODERS)
