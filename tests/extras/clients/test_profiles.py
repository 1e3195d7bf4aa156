"""--for CLIENT: folders with all that a client needs, and the boxes that the client then gets."""

import ast
import json
import tarfile

import cv2
import numpy as np
import pytest
import yaml

from engine import options
from extras.clients import side_files
from extras.clients.decoding import Setting
from extras.clients.profiles import Profile, find_profile, read_table
from extras.clients.runners import RUNNERS, prepared
from extras.export.exporter import export_formats, print_formats
from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from tests.conftest import ROOT
from tests.extras.clients import decodings
from tests.extras.clients.conftest import NAMES, SIZE_PX, assert_same_boxes, export, nms
from utils.boxes import xywh2xyxy

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def outputs_of(weights, picture):
    """Return a function (client) -> (its folder, what onnxruntime gives for the picture)."""

    def run(client: str):
        folder = export(weights, client=client).file
        (model,) = folder.rglob("*.onnx")
        kind = read_table()[client].image
        return folder, RUNNERS["onnx"](model)(prepared(picture[None], kind))

    return run


def all_candidates(rows):
    scores = rows[:, 4:5] * rows[:, 5:]
    return np.column_stack([xywh2xyxy(rows[:, :4]), scores.max(1), scores.argmax(1)])


def test_frigate(outputs_of, weights, rows):
    """The picture is one in which its suppression, which drops more than ours, finds the same."""
    folder, outputs = outputs_of("frigate")
    assert_same_boxes(decodings.frigate(outputs, SIZE_PX), nms(rows, 0.4, 0.4, agnostic=True))
    config = yaml.safe_load((folder / "config.yml").read_text())["model"]
    assert (config["width"], config["height"], config["input_tensor"]) == (SIZE_PX, SIZE_PX, "nchw")
    assert config["path"].endswith("best_frigate/best.onnx") and config["model_type"] == "yolo-generic"
    assert (folder / "labels.txt").read_text() == "0 box\n1 flat disc\n"
    assert (folder / "config.yml").read_text().rstrip() in export(weights, client="frigate").steps


def test_frigate_misreads_the_plain_file(weights, rows, picture):
    """Without the profile it takes objectness for the first class, and no error says so."""
    file = export(weights, include="onnx").file
    found = decodings.frigate(RUNNERS["onnx"](file)(prepared(picture[None], "nchw")), SIZE_PX)
    right = decodings.frigate([rows_as_v8(rows)], SIZE_PX)
    assert len(found) and len(found) != len(right)


def rows_as_v8(rows):
    return np.column_stack([rows[:, :4], rows[:, 4:5] * rows[:, 5:]]).T[None]


def test_frigate_yolonas(outputs_of, rows):
    _, outputs = outputs_of("frigate-yolonas")
    np.testing.assert_allclose(decodings.frigate_yolonas(outputs), nms(rows)[:20], atol=0.01)


def test_deepstream(outputs_of, rows):
    folder, outputs = outputs_of("deepstream")
    found = decodings.deepstream(outputs, SIZE_PX, 0.25, 0.45)
    cut = all_candidates(rows)
    cut[:, :4] = cut[:, :4].clip(0, SIZE_PX)
    cut = cut[((cut[:, 2:4] - cut[:, :2]) >= 1).all(1)]
    assert_same_boxes(found, decodings.greedy(cut[cut[:, 4] >= 0.25], 0.45))
    assert (folder / "labels.txt").read_text() == "box\nflat disc\n"
    config = (folder / "config_infer_primary.txt").read_text()
    assert "num-detected-classes=2\n" in config and "onnx-file=best.onnx\n" in config
    session = RUNNERS["onnx"](folder / "best.onnx").__self__.session
    assert [session.get_inputs()[0].name, session.get_outputs()[0].name] == ["input", "output"]


@pytest.mark.parametrize(("client", "activated"), [("rknn", True), ("photonvision", True), ("hailo", False)])
def test_maps_with_anchors_in_a_text_file(outputs_of, rows, client, activated):
    folder, outputs = outputs_of(client)
    text = (folder / "anchors.txt").read_text()
    assert text.splitlines()[:4] == ["8.0", "8.0", "16.0", "16.0"]
    assert_same_boxes(decodings.rknn(outputs, text, SIZE_PX, 0.25, 0.45, activated), nms(rows))


def test_sizes_of_clients_are_taken_where_none_is_given(weights):
    (result,) = export_formats(options.from_kwargs("export", {"weights": weights, "client": "rknn"}))
    assert json.loads((result.file / "metadata.yaml").read_text())["imgsz"] == [640, 640]


def test_viam(outputs_of, rows):
    folder, outputs = outputs_of("viam")
    assert_same_boxes(decodings.viam(outputs, SIZE_PX, 0.25), nms(rows, max_det=100))
    services = json.loads((folder / "services.json").read_text())["services"]
    assert services[1]["attributes"]["xmin_ymin_xmax_ymax_order"] == [0, 1, 2, 3]
    assert services[0]["attributes"]["label_path"] == f"{folder}/labels.txt"


def test_triton(outputs_of, rows):
    folder, outputs = outputs_of("triton")
    expected = nms(rows, max_det=100)
    np.testing.assert_allclose(outputs[0][0, : len(expected)], expected, atol=0.01)
    repository = folder / "model_repository" / "best"
    assert (repository / "1" / "model.onnx").is_file()
    text = (repository / "config.pbtxt").read_text()
    assert 'name: "boxes", data_type: TYPE_FP32, dims: [ 1, 100, 6 ]' in text and 'name: "best"' in text


def test_files_that_yolov8s_readers_take(outputs_of, rows):
    folder, outputs = outputs_of("ultralytics")
    np.testing.assert_allclose(outputs[0], rows_as_v8(rows), atol=0.01)
    strings = RUNNERS["onnx"](folder / "best.onnx").__self__.strings
    assert ast.literal_eval(strings["names"]) == NAMES and strings["task"] == "detect"
    assert ast.literal_eval(strings["imgsz"]) == [SIZE_PX, SIZE_PX] and int(strings["stride"]) == 32


def test_opencv(weights, picture, rows):
    folder = export(weights, client="opencv").file
    net = cv2.dnn.readNetFromONNX(str(folder / "best.onnx"))
    net.setInput(cv2.dnn.blobFromImage(picture[..., ::-1].copy(), 1 / 255, (SIZE_PX, SIZE_PX), swapRB=True))
    assert_same_boxes(nms(net.forward()[0]), nms(rows))


@pytest.mark.parametrize(("client", "file"), [("x-anylabeling", "config.yaml"), ("blue-onyx", "best.yaml")])
def test_lists_of_names_are_yaml(outputs_of, rows, client, file):
    folder, outputs = outputs_of(client)
    content = yaml.safe_load((folder / file).read_text())
    assert content.get("classes", content.get("NAMES")) == list(NAMES.values())
    assert_same_boxes(nms(outputs[0][0]), nms(rows))


def test_luxonis(outputs_of, rows):
    folder, outputs = outputs_of("luxonis")
    with tarfile.open(folder / "best.tar.xz") as archive:
        assert sorted(archive.getnames()) == ["best.onnx", "config.json"]
        config = json.load(archive.extractfile("config.json"))
    model = config["model"]
    head = model["heads"][0]["metadata"]
    assert [output["name"] for output in model["outputs"]] == ["output1_yolov5", "output2_yolov5"]
    assert [output["shape"] for output in model["outputs"]] == [list(output.shape) for output in outputs]
    text = " ".join(str(value) for level in head["anchors"] for pair in level for value in pair)
    assert_same_boxes(decodings.rknn(outputs, text, SIZE_PX, 0.25, 0.45), nms(rows))
    archives = pytest.importorskip("luxonis_ml.nn_archive", reason="needs luxonis-ml")
    assert archives.is_nn_archive(folder / "best.tar.xz")
    assert archives.Config(**config).model.heads[0].parser == "YOLO"


def test_nnstreamer_wants_three_maps(weights):
    with pytest.raises(ValueError, match="--for nnstreamer: expected a model with 3 maps, found 2"):
        export(weights, client="nnstreamer")


def test_nnstreamers_decoding(weights, rows, picture):
    """In pixels and as fractions; the tensor is that of nnstreamer's profile."""
    for unit, is_scaled in (("px", 1), ("0..1", 0)):
        file = export(weights, include="onnx", layout="v5", box_unit=unit).file
        outputs = RUNNERS["onnx"](file)(prepared(picture[None], "nchw"))
        found = decodings.nnstreamer(outputs, SIZE_PX, is_scaled, 0.25, 0.45)
        assert_same_boxes(found, nms(rows, agnostic=True))


def test_openvino_with_rt_info(weights, picture, rows):
    pytest.importorskip("openvino")
    from models.backends.openvino import load_openvino

    folder = export(weights, client="dlstreamer").file
    graph = load_openvino().Core().read_model(folder / "best.xml")
    keys = "model_type labels resize_type confidence_threshold".split()
    values = {key: graph.get_rt_info(["model_info", key]).astype(str) for key in keys}
    assert values["model_type"] == "yolo_v8" and values["labels"] == "box flat_disc"
    assert values["resize_type"] == "fit_to_window_letterbox" and values["confidence_threshold"] == "0.25"
    (output,) = RUNNERS["openvino"](folder)(prepared(picture[None], "nchw"))
    np.testing.assert_allclose(output, rows_as_v8(rows), atol=0.01)


@pytest.mark.slow
def test_edge_impulse(weights, picture, rows):
    pytest.importorskip("litert_torch")
    folder = export(weights, client="edge-impulse").file
    (output,) = RUNNERS["litert"](folder / "best.tflite")(prepared(picture[None], "nhwc"))
    output[..., :4] *= SIZE_PX
    assert_same_boxes(nms(output[0]), nms(rows))


def test_thresholds_of_classes_and_odd_names(tmp_path):
    """They go into DeepStream's and Roboflow's files; names stay on one line, and numbers stay numbers."""
    names, own = {0: "box", 1: "flat\n  'disc'"}, {"conf": [0.3, 0.55]}
    metadata = Metadata(names, [8, 16], 32, [64, 64], thresholds=own)
    setting = Setting((64, 64), 2, anchors_px=((8, 8, 16, 16), (24, 24, 40, 40)), strides=(8.0, 16.0))
    texts = {}
    for client, file in (("deepstream", "config_infer_primary.txt"), ("roboflow", "model_config.json")):
        (tmp_path / "model.onnx").write_bytes(b"")
        job = side_files.Job(
            find_profile(client), "onnx", ExportSpec((64, 64)), metadata, setting, tmp_path / "best_x", "best", ".onnx"
        )
        folder = side_files.write_folder(job, tmp_path / "model.onnx", tmp_path / client)
        texts[client] = (folder / file).read_text()
    assert "[class-attrs-1]\nnms-iou-threshold=0.45\npre-cluster-threshold=0.55\n" in texts["deepstream"]
    assert (tmp_path / "deepstream" / "labels.txt").read_text() == "box\nflat 'disc'\n"
    recommended = json.loads(texts["roboflow"])["recommended_parameters"]
    assert recommended == {"confidence": 0.25, "per_class_confidence": {"box": 0.3, "flat 'disc'": 0.55}}


def test_the_table_is_whole():
    """Every client has a title and steps; every name in its texts is one that can be filled in."""
    table = read_table()
    assert len(table) >= 18 and all(profile.title and profile.steps for profile in table.values())
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert not [key for key in table if f"`{key}`" not in page]
    assert Profile().formats == ("onnx",)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"client": "frigatte"}, "--for frigatte: expected one of frigate, .*did you mean frigate"),
        ({"client": "frigate", "imgsz": [64, 96]}, "--imgsz: --for frigate needs a square, found 64x96"),
        ({"client": "frigate", "dynamic": True}, "--dynamic: --for frigate needs a file of one size"),
        ({"client": "frigate", "box_unit": "px"}, "it excludes --layout and --box-unit"),
    ],
)
def test_options_that_cannot_be(weights, flags, words):
    with pytest.raises(ValueError, match=words):
        export_formats(options.from_kwargs("export", {"weights": weights, **flags}))


def test_a_folder_is_replaced_but_not_a_foreign_one(weights, caplog):
    caplog.set_level("INFO")
    result, given = export(weights, client="opencv"), {"weights": weights, "client": "opencv", "imgsz": SIZE_PX}
    print_formats([result])
    assert "example_dnn_yolo_detector" in caplog.text and "Predict:" not in caplog.text
    (again,) = export_formats(options.from_kwargs("export", given))
    assert again.file == result.file and DetectMultiBackend(again.file / "best.onnx").nc == 2
    (result.file / "metadata.yaml").rename(result.file / "holiday.txt")
    (failed,) = export_formats(options.from_kwargs("export", given))
    assert "expected an earlier export, found another folder" in failed.error
    (result.file / "holiday.txt").rename(result.file / "metadata.yaml")
