"""INT8 LiteRT files: which operators are quantised, and that those to be kept in float are."""

import pytest
import torch

from extras.export.litert_quantizer import LiteRtQuantizer
from extras.export.node_groups import group_nodes
from models.backends import DetectMultiBackend, litert
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel

for package in ("ai_edge_litert", "ai_edge_quantizer", "litert_torch"):
    pytest.importorskip(package)
PX = (64, 64)


def calibration():
    return (example_images(1, PX, seed).numpy() for seed in range(4))


def test_everything_in_int8_and_then_a_group_in_float(tiny_model_cfg, tmp_path, capfd):
    torch.manual_seed(0)
    tiny = exportable(DetectionModel(tiny_model_cfg).eval())
    file = tmp_path / "m.tflite"
    litert.export(tiny, file, ExportSpec(PX), Metadata(tiny.names, [8, 16], 32, list(PX)))
    quantizer, images = LiteRtQuantizer(file, calibration), example_images(1, PX)
    groups = group_nodes(quantizer.nodes, quantizer.quantizable_nodes(file))
    assert {"first convolution", "SiLU"} <= groups.keys() and any("convolutions 1/" in group for group in groups)
    layers = {node.name for node in quantizer.nodes if node.is_layer}
    errors, sizes = {}, {}
    for kept in ((), ("convolutions 1/8", "first convolution"), tuple(groups)):
        int8 = tmp_path / f"{len(kept)}.tflite"
        quantizer.write(int8, {name for group in kept for name in groups[group]})
        model = DetectMultiBackend(int8)
        assert model.names == tiny.names and model.backend.metadata.precision == "int8"
        errors[len(kept)] = (model(images) - tiny(images)).abs().mean().item()
        sizes[len(kept)] = int8.stat().st_size
    assert layers & quantizer.quantizable_nodes(file) and len(layers) >= 10
    assert errors[len(groups)] < 0.1 * errors[0]  # All in float is the float32 file.
    assert sizes[0] < sizes[2] < sizes[len(groups)]
    assert capfd.readouterr() == ("", "")
