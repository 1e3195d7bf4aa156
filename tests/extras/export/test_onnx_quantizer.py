"""INT8 ONNX files: which nodes are quantised, how, and that those to be kept in float are."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from extras.export.node_groups import group_nodes
from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel
from tests.models.backends.conftest import confident
from utils.nms import non_max_suppression

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from extras.export.quantizers import OnnxQuantizer, onnx_nodes  # noqa: E402
from models.backends import onnx as backend  # noqa: E402

SPEC = ExportSpec((64, 64))


def calibration():
    return (example_images(1, SPEC.imgsz, seed).numpy() for seed in range(4))


def written(model, file, spec=SPEC):
    metadata = Metadata(model.names, [8, 16], 32, list(spec.imgsz), dynamic=spec.dynamic)
    backend.export(model, file, spec, metadata)
    return file


@pytest.fixture
def tiny(tiny_model_cfg):
    torch.manual_seed(0)
    return exportable(DetectionModel(tiny_model_cfg).eval())


def source_of_output(file) -> str:
    return next(node.op_type for node in onnx.load(str(file)).graph.node if "output0" in node.output)


@pytest.mark.parametrize("dynamic", [False, True])
def test_everything_but_the_decoding_in_int8(tiny, tmp_path, dynamic):
    file = written(tiny, tmp_path / "m.onnx", replace(SPEC, dynamic=dynamic))
    quantizer = OnnxQuantizer(file, calibration)
    quantizer.write(tmp_path / "all.onnx", ())
    groups = group_nodes(quantizer.nodes, quantizer.quantizable_nodes(tmp_path / "all.onnx"))
    assert {"first convolution", "last convolutions", "SiLU", "decoding of boxes"} <= set(groups)
    decoding = set(groups["decoding of boxes"])
    quantizer.write(tmp_path / "int8.onnx", decoding)
    assert source_of_output(tmp_path / "all.onnx") == "DequantizeLinear"
    assert source_of_output(tmp_path / "int8.onnx") == "Concat"

    model = DetectMultiBackend(tmp_path / "int8.onnx", "cpu")
    assert model.names == tiny.names and model.backend.metadata.precision == "int8"
    images = example_images(1, (96, 64) if dynamic else SPEC.imgsz)
    output = model(images)
    torch.testing.assert_close(output, tiny(images), rtol=0.1, atol=1.0)
    assert not torch.equal(output, DetectMultiBackend(file, "cpu")(images))


def test_nms_and_a_picture_around_a_finished_file(tiny_model_cfg, tmp_path):
    """Its nodes stand in an order of computation, so that others can be put around them."""
    file = written(confident(tiny_model_cfg, tmp_path), tmp_path / "m.onnx", replace(SPEC, dynamic=True))
    quantizer = OnnxQuantizer(file, calibration)
    decoding = {node.name for node in quantizer.nodes if node.op in ("Sigmoid", "Mul", "Add", "Concat", "Pow")}
    quantizer.write(file, decoding)
    raw = DetectMultiBackend(file, "cpu")
    onnx.checker.check_model(onnx.load(str(file)))
    (expected,) = non_max_suppression(raw(example_images(1, SPEC.imgsz)), 0.25, 0.5, max_det=20)
    metadata = raw.backend.metadata
    backend.complete(file, SPEC, metadata)  # nothing to do
    assert DetectMultiBackend(file, "cpu")(example_images(1, SPEC.imgsz)).shape == (1, 160, 7)

    spec = replace(SPEC, dynamic=True, conf_thres=0.25, iou_thres=0.5, max_det=20)
    for output, added in (("image", replace(spec, embed=True)), ("boxes", replace(spec, nms=True))):
        finished = shutil.copy(file, tmp_path / f"{output}.onnx")
        backend.complete(finished, added, replace(metadata, output=output))
        model = DetectMultiBackend(finished, "cpu")
        assert model.end2end and model.backend.metadata == replace(metadata, output=output)
        assert model.predict(np.zeros((1, 64, 64, 3), np.uint8)).shape[::2] == (1, 6)
    boxes = model(example_images(1, SPEC.imgsz))[0]
    torch.testing.assert_close(boxes[: len(expected)], expected, rtol=1e-4, atol=1e-3)
    assert len(expected) > 3 and not boxes[len(expected) :].any()


def test_all_in_float_is_the_model(tiny, tmp_path):
    file = written(tiny, tmp_path / "m.onnx")
    quantizer = OnnxQuantizer(file, calibration)
    quantizer.write(tmp_path / "float.onnx", {node.name for node in quantizer.nodes})
    assert quantizer.quantizable_nodes(tmp_path / "float.onnx") == set()
    images = example_images(1, SPEC.imgsz)
    torch.testing.assert_close(DetectMultiBackend(tmp_path / "float.onnx", "cpu")(images), tiny(images))


def test_weights_are_symmetric_and_per_channel(tiny, tmp_path):
    quantizer = OnnxQuantizer(written(tiny, tmp_path / "m.onnx"), calibration)
    quantizer.write(tmp_path / "int8.onnx", ())
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: array for name, array in arrays.items() if name.endswith("weight_quantized")}
    assert len(weights) == sum(node.is_layer for node in quantizer.nodes)
    assert all(array.dtype == np.int8 for array in weights.values())
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            channels = len(weights[node.input[0]])
            assert arrays[node.input[1]].shape == (channels,) and not arrays[node.input[2]].any()


def test_groups_of_edgevit(tmp_path):
    model = exportable(DetectionModel("yolov5_edgevit.yaml", nc=3).eval())
    nodes = onnx_nodes(onnx.load(str(written(model, tmp_path / "m.onnx"))))
    groups = group_nodes(nodes, {node.name for node in nodes})
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(node.name for node in nodes)
    counts = {group: len(members) for group, members in groups.items() if not group.startswith("convolutions")}
    # 6 pairs of local and global blocks, of which 2 at stride 32 are global alone, each with a position convolution
    expected = {"first convolution": 1, "last convolutions": 3, "softmax": 7, "attention products": 14, "SiLU": 52}
    expected |= {"depthwise 3x3 convolutions": 12, "depthwise 5x5 convolutions": 5, "depthwise 1x1 convolutions": 5}
    assert expected.items() <= counts.items()
    assert sum(len(groups[group]) for group in groups if group.startswith("convolutions")) == 77


def test_an_opset_without_int8_per_channel(tiny, tmp_path):
    file = written(tiny, tmp_path / "m.onnx", replace(SPEC, opset=12))
    with pytest.raises(ValueError, match="--int8 needs --opset 13 or later, found 12"):
        OnnxQuantizer(file, calibration)
