"""TensorRT files as far as that goes without an NVIDIA GPU: layout, errors, the int8 graph, the order of the calls.

The calls go to a stand-in for TensorRT, made after NVIDIA's documentation, that runs the ONNX graph in onnxruntime.
"""

import contextlib
import ctypes
import json
import sys
import types

import numpy as np
import pytest
import torch

from models.backends import engine as backend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import DetectionModel
from tests.models.backends.conftest import model_of

METADATA = Metadata({0: "Käfer"}, [8.0, 16.0], 32, [64, 64])


@pytest.fixture
def model(tiny_model_cfg):
    torch.manual_seed(0)
    model = DetectionModel(tiny_model_cfg).eval()
    with torch.no_grad():
        for conv in model.head.m:
            conv.weight.mul_(30)
    return exportable(model)


def test_the_layout_and_new_metadata(tmp_path):
    file = tmp_path / "m.engine"
    backend.write(file, METADATA, memoryview(b"ftrt\0\xff" * 100))
    data = file.read_bytes()
    length = int.from_bytes(data[:4], "little")
    assert json.loads(data[4 : 4 + length])["stride"] == 32 and data[4 + length :] == b"ftrt\0\xff" * 100
    changed = Metadata(METADATA.names, [8.0], 64, [64, 96], parity={"box_px": 0.5})
    backend.write_metadata(file, changed)
    assert backend.read(file) == (changed, b"ftrt\0\xff" * 100)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "found a header of 0 bytes in a file of 0"),
        (b"ftrt" + bytes(100), r"found a header of \d+ bytes in a file of 104"),
        (b"\x08\0\0\0{'a': 1}engine", "Expecting property name"),
        (b"\x02\0\0\0\xc3(engine", "decode"),
        (b"\x02\0\0\0[]engine", "found list"),
        (b'\x0d\0\0\0{"stride": 0}engine', "expected names and a stride"),
    ],
)
def test_a_file_of_another_layout(tmp_path, data, found):
    file = tmp_path / "m.engine"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"m\.engine: .*{found}"):
        backend.TensorRtBackend(file)


def test_without_the_package(tmp_path, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    file = tmp_path / "m.engine"
    backend.write(file, METADATA, b"engine")
    with pytest.raises(ImportError, match=r'running TensorRT engines needs tensorrt .*pip install "\.\[tensorrt\]"'):
        backend.TensorRtBackend(file)
    with pytest.raises(ImportError, match="writing TensorRT engines needs tensorrt"):
        backend.export(model, file, ExportSpec((64, 64)), METADATA)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_without_a_gpu(device):
    with pytest.raises(ValueError, match=r"m\.engine: TensorRT needs an NVIDIA GPU \(--device 0\), found device 'cpu'"):
        backend.gpu(device, "m.engine")


def test_the_int8_graph_is_what_tensorrt_takes(tmp_path, model):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from models.backends import onnx as onnx_backend

    file, images = tmp_path / "m.onnx", example_images(1, (64, 64)).numpy()
    onnx_backend.export(model, file, ExportSpec((64, 64), int8=True), METADATA)
    quantized = backend.quantized(file, lambda: [images])
    graph = onnx.load(quantized).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [constants[node.input[2]] for node in nodes]
    assert nodes and all(point.dtype == np.int8 and not point.any() for point in zero_points)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    restored = {node.output[0] for node in nodes}
    assert convolutions and all(restored.issuperset(node.input[:2]) for node in convolutions)
    found = onnxruntime.InferenceSession(str(quantized)).run(None, {graph.input[0].name: images})[0]
    np.testing.assert_allclose(found[..., 4:], model(torch.from_numpy(images))[..., 4:], atol=0.15)


class FakeBuilder:
    calls = []

    def __init__(self, logger):
        FakeBuilder.calls = []

    def create_network(self, flags):
        self.network = types.SimpleNamespace(flags=flags, get_input=lambda i: types.SimpleNamespace(name="images"))
        return self.network

    def create_builder_config(self):
        def record(name):
            return lambda *arguments: self.calls.append((name, *arguments))

        names = ("set_memory_pool_limit", "clear_flag", "add_optimization_profile")
        return types.SimpleNamespace(**{name: record(name) for name in names})

    def create_optimization_profile(self):
        return types.SimpleNamespace(set_shape=lambda *shapes: self.calls.append(("set_shape", *shapes)))

    def build_serialized_network(self, network, config):
        return network.graph


class FakeParser:
    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, file):
        with open(file, "rb") as opened:
            self.network.graph = opened.read()
        return b"output0" in self.network.graph

    def get_error(self, index):
        return f"error {index}"


class FakeEngine:
    """Both the engine and its execution context."""

    def __init__(self, graph):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(graph)
        self.names = ["images", *sorted((output.name for output in self.session.get_outputs()), reverse=True)]
        self.num_io_tensors = len(self.names)
        self.create_execution_context = lambda: self
        self.addresses = {}
        self.set_tensor_address = self.addresses.__setitem__

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return "in" if name == "images" else "out"

    def get_tensor_profile_shape(self, name, profile):
        return (1, 3, 32, 32), (2, 3, 64, 64), (2, 3, 64, 64)

    def set_input_shape(self, name, shape):
        self.shape = shape
        return max(shape[2:]) <= 64

    def get_tensor_shape(self, name):
        return self.session.run([name], {"images": np.zeros(self.shape, np.float32)})[0].shape

    def execute_async_v3(self, stream):
        size = int(np.prod(self.shape))
        images = np.ctypeslib.as_array(ctypes.cast(self.addresses["images"], ctypes.POINTER(ctypes.c_float)), (size,))
        for name in self.names[1:]:
            (output,) = self.session.run([name], {"images": images.reshape(self.shape)})
            ctypes.memmove(self.addresses[name], output.ctypes.data, output.nbytes)
        return True


class FakeRuntime:
    def __init__(self, logger):
        self.deserialize_cuda_engine = lambda data: FakeEngine(data) if b"output0" in data else None


@pytest.fixture
def tensorrt(monkeypatch):
    pytest.importorskip("onnxruntime")
    enums = types.SimpleNamespace
    fake = types.ModuleType("tensorrt")
    fake.__version__ = "10.0"
    fake.Logger = type("Logger", (), {"VERBOSE": 0, "WARNING": 2, "__init__": lambda self, severity: None})
    fake.Builder, fake.OnnxParser, fake.Runtime = FakeBuilder, FakeParser, FakeRuntime
    fake.NetworkDefinitionCreationFlag = enums(STRONGLY_TYPED=1)
    fake.MemoryPoolType, fake.BuilderFlag = enums(WORKSPACE="workspace"), enums(TF32="tf32")
    fake.TensorIOMode = enums(INPUT="in", OUTPUT="out")
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(backend, "gpu", lambda device, file: torch.device("cpu"))
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda argument: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: types.SimpleNamespace(cuda_stream=0))
    return fake


@pytest.mark.parametrize(("dynamic", "half"), [(True, False), (False, False), (False, True)])
def test_building_and_running(tmp_path, model, tensorrt, dynamic, half):
    file, spec = tmp_path / "m.engine", ExportSpec((64, 64), batch=2, dynamic=dynamic, half=half, workspace_gb=1)
    backend.export(model, file, spec, Metadata({0: "a", 1: "b"}, [8, 16], 32, [64, 64], batch=2, dynamic=dynamic))
    calls = {name: arguments for name, *arguments in FakeBuilder.calls}
    assert calls["set_memory_pool_limit"] == ["workspace", 2**30] and ("clear_flag" in calls) == (not half)
    if dynamic:
        assert calls["set_shape"] == ["images", (1, 3, 32, 32), (2, 3, 64, 64), (2, 3, 64, 64)]
    opened = backend.TensorRtBackend(file)
    images = example_images(5, (64, 32) if dynamic else (64, 64))
    limits = {"rtol": 0.02, "atol": 0.5} if half else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(opened.forward(images), model(images), **limits)
    if dynamic:
        with pytest.raises(ValueError, match=r"takes images of \(1, 3, 32, 32\) to \(2, 3, 64, 64\), found \(1, 3, 96"):
            opened.forward(example_images(1, (96, 64)))


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_models_for_other_tasks(tmp_path, tensorrt, task):
    model, file = model_of(task), tmp_path / "m.engine"
    metadata = Metadata(model.names, [8], 32, [64, 64], batch=2, dynamic=True, task=task)
    backend.export(model, file, ExportSpec((64, 64), batch=2, dynamic=True), metadata)
    images = example_images(3, (64, 32))
    torch.testing.assert_close(backend.TensorRtBackend(file).forward(images), model(images), rtol=1e-4, atol=1e-5)


def test_an_engine_for_another_task(tmp_path, tensorrt, model):
    file = tmp_path / "m.engine"
    backend.export(model, file, ExportSpec((64, 64)), Metadata({0: "a", 1: "b"}, [8, 16], 32, [64, 64]))
    metadata, engine = backend.read(file)
    metadata.task = "segment"
    backend.write(file, metadata, engine)
    with pytest.raises(ValueError, match=r"m.engine: expected 1 input and 2 output\(s\), found .*'output0'\]"):
        backend.TensorRtBackend(file)


def test_an_engine_of_another_computer(tmp_path, tensorrt):
    backend.write(tmp_path / "m.engine", METADATA, b"foreign")
    with pytest.raises(ValueError, match="cannot load this engine; it was made with another version, or for another"):
        backend.TensorRtBackend(tmp_path / "m.engine")


def test_graphs_that_tensorrt_refuses(tmp_path, tensorrt):
    file, spec = tmp_path / "m.onnx", ExportSpec((64, 64))
    file.write_bytes(b"unknown")
    with pytest.raises(ValueError, match="cannot read the ONNX graph: error 0"):
        backend.build(tensorrt, file, spec, METADATA)
