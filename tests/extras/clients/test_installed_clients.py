"""Clients' own code on our files, where their packages are installed.

pip install openvino-model-api supervision sahi inference-models cvat-sdk label-studio-ml brings them; where one would
change torch or OpenCV, with --no-deps. None of them is needed otherwise.
"""

import importlib.util
import json
import logging
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from extras.clients.boxes import BoxFinder
from tests.conftest import ROOT
from tests.extras.clients.conftest import NAMES, SIZE_PX, assert_same_boxes, export, nms, partners

ROUNDED_PX = 0.51  # of clients that round boxes to whole pixels


def bgr(picture):
    return np.ascontiguousarray(picture[..., ::-1])


def assert_same_rounded(found, expected):
    """Boxes in whole pixels, cut to the picture; those of the tail of confidences may have swapped places."""
    expected = expected.copy()
    expected[:, :4] = expected[:, :4].clip(0, SIZE_PX)
    assert_same_boxes(found, expected, px=ROUNDED_PX)


def test_openvino_model_api(weights, picture, rows):
    models = pytest.importorskip("model_api.models", reason="needs openvino-model-api")
    pytest.importorskip("openvino")
    folder = export(weights, client="openvino-model-api").file
    model = models.Model.create_model(str(folder / "best.xml"), device="CPU")
    assert type(model).__name__ == "YOLOv8" and list(model.params.labels) == ["box", "flat_disc"]
    result = model(bgr(picture))
    found = np.column_stack([result.bboxes, result.scores, result.labels])
    assert_same_rounded(found, nms(rows))


def test_openvino_model_api_with_a_wide_picture(weights):
    """Its letterbox is ours: the boxes of a picture that is scaled and padded agree to two pixels of it."""
    models = pytest.importorskip("model_api.models", reason="needs openvino-model-api")
    pytest.importorskip("openvino")
    image = cv2.imread(str(ROOT / "data" / "images" / sorted(p.name for p in (ROOT / "data" / "images").glob("*"))[0]))
    folder = export(weights, client="openvino-model-api").file
    result = models.Model.create_model(str(folder / "best.xml"), device="CPU")(image)
    found = np.column_stack([result.bboxes, result.scores, result.labels])
    finder = BoxFinder(export(weights, include="onnx").file)
    expected = finder(np.ascontiguousarray(image[..., ::-1]))
    near = partners(expected, found)
    scale = max(image.shape[:2]) / SIZE_PX
    close = (np.abs(near[:, :4] - expected[:, :4]).max(1) < 2 * scale).mean()
    assert len(found) > 5 and close > 0.8


@pytest.fixture
def roboflow_model(weights, monkeypatch):
    monkeypatch.setenv("OFFLINE_MODE", "True")
    monkeypatch.setenv("ONNXRUNTIME_EXECUTION_PROVIDERS", "[CPUExecutionProvider]")
    pytest.importorskip("inference_models", reason="needs inference-models")
    from inference_models.models.yolov5.yolov5_object_detection_onnx import YOLOv5ForObjectDetectionOnnx

    folder = export(weights, client="roboflow").file
    provider = ["CPUExecutionProvider"]
    return YOLOv5ForObjectDetectionOnnx.from_pretrained(
        str(folder), onnx_execution_providers=provider, device=torch.device("cpu")
    )


def test_roboflow(roboflow_model, picture, rows):
    (result,) = roboflow_model(bgr(picture), confidence=0.25, iou_threshold=0.45, max_detections=300)
    found = np.column_stack([result.xyxy, result.confidence, result.class_id])
    assert roboflow_model.class_names == list(NAMES.values())
    assert_same_rounded(found, nms(rows))


@pytest.fixture
def hub_model(weights):
    from hubconf import custom

    return custom(str(weights), _verbose=False, device="cpu")


def test_supervision(hub_model, picture, rows):
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    detections = supervision.Detections.from_yolov5(hub_model(picture, size=SIZE_PX))
    found = np.column_stack([detections.xyxy, detections.confidence, detections.class_id])
    expected = nms(rows)
    expected[:, :4] = expected[:, :4].clip(0, SIZE_PX)
    assert_same_boxes(found, expected)


def test_sahi(weights, picture, rows, monkeypatch):
    """As SAHI's documentation has it: the repository's root on the path is the package `yolov5`."""
    sahi = pytest.importorskip("sahi", reason="needs sahi")
    from sahi.predict import get_prediction, get_sliced_prediction

    monkeypatch.syspath_prepend(str(ROOT))
    logging.getLogger("sahi").setLevel(logging.ERROR)
    model = sahi.AutoDetectionModel.from_pretrained(
        model_type="yolov5", model_path=str(weights), confidence_threshold=0.25, device="cpu", image_size=SIZE_PX
    )
    result = get_prediction(picture, model)
    found = np.array([[*one.bbox.to_xyxy(), one.score.value, one.category.id] for one in result.object_prediction_list])
    expected = nms(rows)
    expected[:, :4] = expected[:, :4].clip(0, SIZE_PX)
    expected = expected[(expected[:, 2:4] > expected[:, :2]).all(1)]  # It drops what lies beside the picture.
    assert_same_boxes(found, expected)
    assert {one.category.name for one in result.object_prediction_list} == set(NAMES.values())
    wide = np.concatenate([picture, picture], 1)
    flags = {"slice_height": SIZE_PX, "slice_width": SIZE_PX, "overlap_height_ratio": 0.0, "overlap_width_ratio": 0.0}
    assert get_sliced_prediction(wide, model, **flags, verbose=0).object_prediction_list


def example(name):
    """The module examples/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cvat(weights, picture, rows):
    cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")

    class Context(cvataa.DetectionFunctionContext):
        frame_name, conf_threshold, conv_mask_to_poly = "a.jpg", None, False

    function = example("cvat_function").create(weights=str(weights), conf_thres=0.25)
    assert [(label.name, label.id) for label in function.spec.labels] == [("box", 0), ("flat disc", 1)]
    shapes = function.detect(Context(), Image.fromarray(picture))
    found = np.array([[*shape.points, 0, shape.label_id] for shape in shapes])
    expected = nms(rows)
    expected[:, :4] = expected[:, :4].clip(0, SIZE_PX)
    assert_same_boxes(found, expected, score=1)
    Context.conf_threshold = 0.4
    assert len(function.detect(Context(), Image.fromarray(picture))) == (expected[:, 4] >= 0.4).sum()


def test_label_studio(weights, picture, rows, tmp_path, monkeypatch):
    pytest.importorskip("label_studio_ml.model", reason="needs label-studio-ml")
    monkeypatch.setenv("WEIGHTS", str(weights))
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    interface = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
        <Label value="box"/><Label value="flat disc"/></RectangleLabels></View>"""
    backend = example("label_studio_backend").Backend(label_config=interface)
    monkeypatch.setattr(backend, "get_local_path", lambda address: str(file))
    (prediction,) = backend.predict([{"data": {"image": "/data/upload/picture.png"}}])
    boxes = [[row["value"][key] for key in ("x", "y", "width", "height")] for row in prediction["result"]]
    xywh = np.array(boxes) * SIZE_PX / 100
    classes = [list(NAMES.values()).index(row["value"]["rectanglelabels"][0]) for row in prediction["result"]]
    scores = [row["score"] for row in prediction["result"]]
    found = np.column_stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:], scores, classes])
    expected = nms(rows)
    expected[:, :4] = expected[:, :4].clip(0, SIZE_PX)
    assert_same_boxes(found, expected)


def test_pycocotools_reads_what_val_saves(weights, tiny_dataset, tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    import val

    val.run(
        weights=str(weights), data=str(tiny_dataset), imgsz=SIZE_PX, save_json=True, project=str(tmp_path), workers=0
    )
    (file,) = tmp_path.rglob("*predictions.json")
    predictions = json.loads(file.read_text())
    truth = coco.COCO()
    images = sorted({one["image_id"] for one in predictions})
    truth.dataset = {"images": [{"id": one, "width": SIZE_PX, "height": SIZE_PX} for one in images], "annotations": []}
    truth.dataset["categories"] = [{"id": number, "name": name} for number, name in NAMES.items()]
    truth.createIndex()
    assert len(truth.loadRes(str(file)).anns) == len(predictions) > 0
    assert "ultralytics" not in sys.modules
