"""INT8 OpenVINO folders: which nodes are quantised, and that those to be kept in float are."""

import pytest
import torch

from extras.export.node_groups import group_nodes
from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel

for package in ("openvino", "nncf", "onnx", "onnxscript"):
    pytest.importorskip(package)
from extras.export.quantizers import OpenVinoQuantizer, openvino_nodes  # noqa: E402
from models.backends import openvino as backend  # noqa: E402

PX = (64, 64)


def calibration():
    return (example_images(1, PX, seed).numpy() for seed in range(4))


def written(model, folder):
    metadata = Metadata(model.names, [8, 16], 32, list(PX))
    backend.export(model, folder, ExportSpec(PX), metadata)
    return folder


@pytest.mark.slow
def test_everything_in_int8_and_then_a_group_in_float(tiny_model_cfg, tmp_path, capfd):
    torch.manual_seed(0)
    tiny = exportable(DetectionModel(tiny_model_cfg).eval())
    quantizer = OpenVinoQuantizer(written(tiny, tmp_path / "m_openvino_model"), calibration)
    folder = tmp_path / "int8_openvino_model"
    quantizer.write(folder, ())
    found = quantizer.quantizable_nodes(folder)
    assert {node.name for node in quantizer.nodes if node.is_layer} <= found
    model, images = DetectMultiBackend(folder, "cpu"), example_images(1, PX)
    assert model.names == tiny.names and model.backend.metadata.precision == "int8"
    output = model(images)
    torch.testing.assert_close(output, tiny(images), rtol=0.1, atol=1.0)
    assert not torch.equal(output, tiny(images))

    last = set(group_nodes(quantizer.nodes, found)["last convolutions"])
    for folder, float_nodes in ((tmp_path / "a_openvino_model", last), (tmp_path / "b_openvino_model", found)):
        quantizer.write(folder, float_nodes, draft=True)
        assert not quantizer.quantizable_nodes(folder) & float_nodes
    torch.testing.assert_close(DetectMultiBackend(folder, "cpu")(images), tiny(images), rtol=1e-4, atol=1e-3)
    backend.complete(folder, ExportSpec(PX, nms=True, max_det=7), Metadata({}, [], 32, list(PX), output="boxes"))
    assert DetectMultiBackend(folder, "cpu")(images).shape == (1, 7, 6)
    printed = capfd.readouterr()
    assert "INFO" not in printed.out + printed.err and "Statistics" not in printed.out


@pytest.mark.slow
def test_groups_of_edgevit(tmp_path):
    model = exportable(DetectionModel("yolov5_edgevit.yaml", nc=3).eval())
    folder = written(model, tmp_path / "m_openvino_model")
    graph = backend.load_openvino().Core().read_model(backend.graph_path(folder))
    nodes = openvino_nodes(graph)
    groups = group_nodes(nodes, {node.name for node in nodes})
    counts = {group: len(members) for group, members in groups.items()}
    expected = {"first convolution": 1, "last convolutions": 3, "softmax": 7, "attention products": 14}
    expected |= {"depthwise 3x3 convolutions": 12, "depthwise 5x5 convolutions": 5, "depthwise 1x1 convolutions": 5}
    assert expected.items() <= counts.items()
