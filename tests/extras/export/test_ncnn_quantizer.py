"""INT8 ncnn folders: which layers are quantised, that those to be kept in float are, and what the files must hold."""

import numpy as np
import pytest
import torch

from extras.export.ncnn_quantizer import INT8_TAG, NcnnQuantizer, Weights, quantized, read_weights
from extras.export.node_groups import group_nodes
from models.backends import DetectMultiBackend, ncnn
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel

for package in ("ncnn", "pnnx"):
    pytest.importorskip(package)
PX = (64, 64)


def calibration():
    return (example_images(1, PX, seed).numpy() for seed in range(4))


@pytest.fixture
def tiny(tiny_model_cfg, tmp_path):
    """A model, and the float32 folder of it."""
    torch.manual_seed(0)
    model = exportable(DetectionModel(tiny_model_cfg).eval())
    folder = tmp_path / "m_ncnn_model"
    ncnn.export(model, folder, ExportSpec(PX), Metadata(model.names, [8, 16], 32, list(PX)))
    return model, folder


def test_everything_in_int8_and_then_a_group_in_float(tiny, tmp_path, capfd):
    model, folder = tiny
    quantizer, images = NcnnQuantizer(folder, calibration), example_images(1, PX)
    groups = group_nodes(quantizer.nodes, quantizer.quantizable_nodes(folder))
    assert {"first convolution", "last convolutions"} <= groups.keys()
    assert not any(group.startswith("depthwise") for group in groups)
    errors, sizes = {}, {}
    for kept in ((), ("convolutions 1/8", "first convolution"), tuple(groups)):
        int8 = tmp_path / f"{len(kept)}_ncnn_model"
        quantizer.write(int8, {name for group in kept for name in groups[group]})
        opened = DetectMultiBackend(int8)
        assert opened.names == model.names and opened.backend.metadata.precision == "int8"
        errors[len(kept)] = (opened(images) - model(images)).abs().mean().item()
        sizes[len(kept)] = (int8 / ncnn.WEIGHTS).stat().st_size
    assert errors[len(groups)] < 0.1 * errors[0]
    assert sizes[0] < sizes[2] < sizes[len(groups)]
    assert (int8 / ncnn.WEIGHTS).read_bytes() == (folder / ncnn.WEIGHTS).read_bytes()  # All in float is the same file.
    assert capfd.readouterr() == ("", "")


def test_weights_are_within_half_a_step():
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    values[1] = 0  # A channel without weights must not divide by zero.
    content = quantized(Weights(values, b"bias"), largest_input=2.0)
    assert content[:4] == INT8_TAG and len(content) == 4 + 16 + 4 + 4 * (3 + 1)  # 15 weights are padded to 16.
    integers = np.frombuffer(content[4:19], np.int8).reshape(3, 5)
    assert content[20:24] == b"bias"
    scales = np.frombuffer(content[24:36], np.float32)
    assert np.frombuffer(content[36:], np.float32) == pytest.approx(127 / 2)
    assert np.all(np.abs(integers - values * scales[:, None]) <= 0.5)
    assert not integers[1].any()


def test_a_file_that_is_not_as_its_layers_say(tiny):
    _, folder = tiny
    layers = NcnnQuantizer(folder, calibration).layers
    file = folder / ncnn.WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content + b"1234")
    with pytest.raises(ValueError, match=rf"expected {len(content)} bytes for layers of .*Convolution.*, found"):
        list(read_weights(layers, file))
    file.write_bytes(b"\x47\x6b\x30\x01" + content[4:])  # ncnn's mark of 16 bits
    with pytest.raises(ValueError, match="expected weights in float32, found the mark 476b3001"):
        list(read_weights(layers, file))
