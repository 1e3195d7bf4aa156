"""NMS in the graph gives the boxes of non_max_suppression(), the whole detector in one file those of detect.py."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.predict.detector import Detector
from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import exportable
from tests.conftest import SHARED, needs_shared
from tests.tiny_detector import FEW_OPERATORS, write_tiny_weights
from utils.augmentations import letterbox
from utils.nms import non_max_suppression
from utils.sources.frame import Frame

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from models.backends.onnx import traced  # noqa: E402
from models.backends.onnx_graph import add_image_input, add_nms  # noqa: E402

TINY_PX = 96


def without_network(nc=2, batch=None, opset=13, shape=None):
    """A graph whose input "images" is its output "output0", [B, N, 5 + nc]."""
    shape = shape or [batch, None, 5 + nc]
    image, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("images", "output0")
    )
    node = onnx.helper.make_node("Identity", ["images"], ["output0"])
    graph = onnx.helper.make_graph([node], "network", [image], [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.helper.set_model_props(model, {"names": '{"0": "box"}', "licence": "Apache-2.0"})
    return model


def session_of(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def padded_nms(predictions, spec: ExportSpec) -> np.ndarray:
    """non_max_suppression() as [B, max_det, 6] with rows of zeros."""
    limits = {"agnostic": spec.agnostic_nms, "max_det": spec.max_det}
    boxes = np.zeros((len(predictions), spec.max_det, 6), np.float32)
    for row, found in zip(boxes, non_max_suppression(predictions, spec.conf_thres, spec.iou_thres, **limits)):
        row[: len(found)] = found
    return boxes


def predictions(batch, n, nc, ties: bool, seed=0) -> np.ndarray:
    """Overlapping boxes; with `ties` on a grid of few places, sizes and confidences."""
    rng = np.random.default_rng(seed)
    x = rng.random((batch, n, 5 + nc), dtype=np.float32)
    if ties:
        x[..., :4] = rng.integers(1, 7, (batch, n, 4)) * 4
        x[..., 4:] = np.round(x[..., 4:] * 8) / 8
    else:
        x[..., :4] = x[..., :4] * 24 + 4
    return x


NMS_CASES = [  # classes, spec
    (1, {}),
    (3, {"iou_thres": 0.5, "max_det": 20}),
    (3, {"iou_thres": 0.6, "max_det": 10, "agnostic_nms": True}),
    (80, {"conf_thres": 0.001, "iou_thres": 0.6, "max_det": 300}),
    (80, {"conf_thres": 0.5, "iou_thres": 0.25, "max_det": 7, "agnostic_nms": True}),
    (2, {"conf_thres": 0.0, "max_det": 5}),
    (2, {"iou_thres": 1.0, "max_det": 50}),
    (2, {"iou_thres": 0.0, "max_det": 1}),
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("opset", [13, 18, 21])
@pytest.mark.parametrize(("nc", "options"), NMS_CASES)
def test_nms_is_pythons_to_the_last_bit(nc, options, opset, ties):
    spec = ExportSpec((64, 64), **options)
    session = session_of(add_nms(without_network(nc, opset=opset), spec))
    for batch, n in ((1, 50), (3, 200), (2, 1), (1, 0)):
        x = predictions(batch, n, nc, ties)
        np.testing.assert_array_equal(session.run(["boxes"], {"images": x})[0], padded_nms(x, spec))


def test_an_image_without_boxes_does_not_disturb_its_neighbours():
    x = predictions(3, 60, 2, ties=False)
    x[1, :, 4] = 0.1
    spec = ExportSpec((64, 64))
    session = session_of(add_nms(without_network(), spec))
    (boxes,) = session.run(["boxes"], {"images": x})
    assert not boxes[1].any() and boxes[0].any() and boxes[2].any()
    np.testing.assert_array_equal(boxes, padded_nms(x, spec))
    assert not session.run(["boxes"], {"images": x[1:2]})[0].any()


@pytest.mark.parametrize(("nc", "options"), [(nc, options) for nc, options in NMS_CASES if options.get("iou_thres", 1)])
def test_nms_in_openvino(nc, options, tmp_path):
    """It differs where Python's result depends on a tie: equal confidences, or an IoU of exactly iou_thres."""
    openvino = pytest.importorskip("openvino")
    spec = ExportSpec((64, 64), **options)
    onnx.save(add_nms(without_network(nc), spec), str(tmp_path / "nms.onnx"))
    run = openvino.Core().compile_model(tmp_path / "nms.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, n in ((1, 50), (3, 200), (2, 1), (1, 0)):
        x = predictions(batch, n, nc, ties=False)
        np.testing.assert_array_equal(run(x)[0], padded_nms(x, spec))


@pytest.mark.parametrize("batch", [None, 2])
def test_the_rest_of_the_model_is_kept(batch):
    model = without_network(batch=batch)
    before = model.SerializeToString(deterministic=True)
    result = add_nms(model, ExportSpec((64, 64), max_det=30))
    assert model.SerializeToString(deterministic=True) == before
    assert result.metadata_props == model.metadata_props and result.opset_import == model.opset_import
    (output,) = result.graph.output
    dims = [dim.dim_value or None for dim in output.type.tensor_type.shape.dim]
    assert (output.name, dims) == ("boxes", [batch, 30, 6]) and result.graph.input == model.graph.input
    assert {node.domain for node in result.graph.node} == {""}  # ONNX's own operators alone


METADATA = Metadata({}, [], 32, [64, 64])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda model: add_nms(model, ExportSpec((64, 64), conf_thres=1.5)), {}, "conf_thres must be between 0 and 1"),
        (lambda model: add_nms(model, ExportSpec((64, 64), iou_thres=-1)), {}, "iou_thres must be between 0 and 1"),
        (lambda model: add_nms(model, ExportSpec((64, 64), max_det=0)), {}, "max_det must be at least 1"),
        (lambda model: add_nms(model, ExportSpec((64, 64))), {"shape": [1, 3, 64, 64]}, "output .B, N, 5 . classes."),
        (
            lambda model: add_image_input(model, ExportSpec((64, 64)), METADATA),
            {"shape": [1, 3, None, None]},
            "dimensions .1, 3, 0, 0.",
        ),
        (lambda model: add_nms(model, ExportSpec((64, 64))), {"opset": 12}, "opset 13 or later, found 12"),
        (lambda model: add_image_input(model, ExportSpec((64, 70)), METADATA), {}, "multiples of 32, found .64, 70."),
        (
            lambda model: add_image_input(model, ExportSpec((64, 64)), METADATA),
            {"shape": [1, 3, 64, 64]},
            "export it as dynamic",
        ),
    ],
)
def test_what_does_not_fit_is_told(change, options, message):
    with pytest.raises(ValueError, match=message):
        change(without_network(**options))


class OneFile:
    """detect.py with a .pt file, and the ONNX file with everything in it, side by side."""

    def __init__(self, weights, imgsz):
        model = DetectMultiBackend(weights, "cpu")
        self.detector = Detector(model, [imgsz, imgsz], max_det=100)
        self.network = traced(exportable(model.backend.model), ExportSpec((imgsz, imgsz), dynamic=True))
        self.metadata = Metadata(model.names, [], model.stride, [imgsz, imgsz])
        self.model = add_image_input(self.network, ExportSpec((imgsz, imgsz)), self.metadata)
        self.session = session_of(self.model)

    def run(self, image_bgr):
        return self.session.run(["boxes", "scores", "classes"], {"image": np.ascontiguousarray(image_bgr[..., ::-1])})

    def differences(self, image_bgr) -> list:
        """What detect.py finds and the file does not, and the reverse; empty if they agree.

        detect.py rounds the boxes to whole pixels, so that there is half a pixel between them.
        """
        (batch,) = self.detector.batches([[Frame("memory", image_bgr)]])
        ((_, result, _),) = self.detector.detect(batch)
        boxes, scores, classes = self.run(image_bgr)
        found = np.column_stack([boxes, scores, classes])
        assert (np.diff(scores) <= 0).all() and len(found) <= 100
        tolerance = np.array([0.55] * 4 + [1e-3, 0])
        is_same = (np.abs(result.boxes[:, None] - found) <= tolerance).all(2)
        return [*result.boxes[~is_same.any(1)], *found[~is_same.any(0)]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return OneFile(write_tiny_weights(folder / "tiny.pt", FEW_OPERATORS), TINY_PX)


def picture(h, w) -> np.ndarray:
    """Smooth colours and some noise, BGR, the same for every call."""
    rng = np.random.default_rng(h * 1000 + w)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC).astype(int)
    return (smooth + rng.integers(-20, 21, (h, w, 3))).clip(0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(h=st.integers(17, 900), w=st.integers(17, 900))
def test_the_file_finds_what_detect_finds_at_any_size(tiny, h, w):
    assert not tiny.differences(picture(h, w))


@pytest.mark.parametrize("hw", [(17, 900), (900, 17), (17, 17), (96, 96), (192, 192), (95, 96), (1200, 1600)])
def test_the_file_finds_what_detect_finds_at(tiny, hw):
    image = picture(*hw)
    boxes, scores, classes = tiny.run(image)
    assert len(boxes) > 1 and set(classes) <= {0, 1} and scores.min() > 0.25
    assert boxes.min() >= 0 and (boxes[:, 2:] <= hw[::-1]).all() and (boxes[:, 2:] >= boxes[:, :2]).all()
    assert not tiny.differences(image)


def test_types_and_shapes_of_the_file_also_without_boxes(tiny):
    strict = add_image_input(tiny.network, ExportSpec((TINY_PX, TINY_PX), conf_thres=1.0), tiny.metadata)
    for session, found in ((tiny.session, True), (session_of(strict), False)):
        boxes, scores, classes = session.run(None, {"image": picture(50, 70)})
        assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int64)
        assert boxes.shape == (len(scores), 4) and scores.shape == classes.shape and bool(len(scores)) is found
    assert [value.name for value in tiny.model.graph.input] == ["image"]
    assert [value.name for value in tiny.model.graph.output] == ["boxes", "scores", "classes"]


def test_a_picture_of_the_networks_size_goes_through_as_it_is(tiny):
    """So a program that letterboxes by itself may use the file too."""
    image = picture(300, 200)
    padded, (ratio, _), (pad_w, pad_h) = letterbox(image, (TINY_PX, TINY_PX))
    boxes, scores, _ = tiny.run(padded)
    expected, expected_scores, _ = tiny.run(image)
    inside = (boxes - [pad_w, pad_h] * 2) / ratio
    np.testing.assert_allclose(inside.clip(0, [200, 300] * 2), expected, atol=1e-3)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_the_file_in_openvino(tiny, tmp_path):
    openvino = pytest.importorskip("openvino")
    onnx.save(tiny.model, str(tmp_path / "file.onnx"))
    run = openvino.Core().compile_model(tmp_path / "file.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for hw in ((300, 200), (77, 90)):
        image = picture(*hw)
        found = run({"image": image[..., ::-1].copy()})
        for name, expected in zip(("boxes", "scores", "classes"), tiny.run(image)):
            np.testing.assert_allclose(found[name], expected, atol=1e-2)


COCO = SHARED / "datasets" / "coco256" / "images" / "val2017"
BCCD = SHARED / "datasets" / "bccd" / "images" / "val"


@pytest.fixture(scope="module")
def yolov5n():
    return OneFile(SHARED / "weights" / "yolov5n.pt", 640)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("folder", [COCO, BCCD])
def test_real_pictures(yolov5n, folder):
    files = sorted(folder.glob("*.jpg"))
    assert files and not {file.name: rows for file in files if (rows := yolov5n.differences(cv2.imread(str(file))))}


@needs_shared
@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(number=st.integers(0, 100), h=st.integers(17, 900), w=st.integers(17, 900))
def test_real_pictures_of_any_size(yolov5n, number, h, w):
    image = cv2.imread(str(sorted(COCO.glob("*.jpg"))[number]))
    assert not yolov5n.differences(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA))
