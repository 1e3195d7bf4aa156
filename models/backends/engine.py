"""TensorRT engines, from our ONNX files: for NVIDIA GPUs, with TensorRT 10 or newer.

Written after NVIDIA's documentation; not run on the project's test machine, which has no such GPU. An engine runs on
the kind of GPU and with the version of TensorRT that built it.

The file is the length of a JSON text as four bytes, little-endian, that text (the metadata), and the engine.
"""

import tempfile
import threading
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import OUTPUT_DIMS, Metadata

MAX_HEADER_BYTES = 2**24


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Build an engine from an exportable() model, which takes minutes.

    With spec.dynamic it takes batches up to spec.batch and sides up to the longer one of spec.imgsz, in px. ValueError
    without a GPU, or if TensorRT cannot build the graph.
    """
    from models.backends import onnx

    trt = require("tensorrt", "tensorrt", "writing TensorRT engines")
    import torch

    with torch.cuda.device(gpu(spec.device, file)), tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        onnx.export(model, graph, spec, metadata)
        if spec.int8:
            graph = quantized(graph, spec.calibration)
        write(file, metadata, build(trt, graph, spec, metadata))


def gpu(device, file):
    """Return the torch.device of an NVIDIA GPU; ValueError where there is none."""
    import torch

    from utils.torch_utils import select_device

    chosen = device if isinstance(device, torch.device) else select_device(device)
    if chosen.type != "cuda":
        raise ValueError(f"{file}: TensorRT needs an NVIDIA GPU (--device 0), found device '{chosen.type}'")
    return chosen


def quantized(graph: Path, calibration) -> Path:
    """Return a copy of an ONNX file whose convolutions are in int8, in TensorRT's way: symmetric, with QDQ pairs.

    The ranges are taken from the images of calibration(), float32 [1, 3, H, W]. Linear layers are convolutions here.
    """
    from models.backends.onnx import calibration_reader
    from models.backends.onnx_session import load_onnxruntime

    quantization = load_onnxruntime("int8 for TensorRT", "onnxruntime.quantization")
    import onnx

    result = graph.with_name("quantized.onnx")
    quantization.quantize_static(
        graph,
        result,
        calibration_reader(onnx.load(str(graph)), calibration()),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return result


def build(trt, graph: Path, spec: ExportSpec, metadata: Metadata):
    """Return the serialised engine, a buffer, of an ONNX file. Every layer computes in the type that the file says."""
    logger = trt.Logger(trt.Logger.VERBOSE if spec.verbose else trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = " | ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ValueError(f"TensorRT {trt.__version__} cannot read the ONNX graph: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(spec.workspace_gb * 2**30))
    if not spec.half:
        config.clear_flag(trt.BuilderFlag.TF32)  # it would round float32 to 10 bits
    if spec.dynamic:
        least, most = metadata.stride, max(spec.imgsz)
        profile = builder.create_optimization_profile()
        shapes = (1, 3, least, least), (spec.batch, 3, *spec.imgsz), (spec.batch, 3, most, most)
        profile.set_shape(network.get_input(0).name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f"TensorRT {trt.__version__} cannot build the engine; its messages above say why")
    return engine


def write(file: Path, metadata: Metadata, engine) -> None:
    """Write the file from the metadata and the serialised engine, a buffer."""
    header = metadata.to_json().encode()
    with Path(file).open("wb") as opened:
        opened.write(len(header).to_bytes(4, "little"))
        opened.write(header)
        opened.write(engine)


def read(file: Path) -> tuple:
    """Return (Metadata, serialised engine); ValueError for a file of another layout."""
    data = Path(file).read_bytes()
    length = int.from_bytes(data[:4], "little")
    expected = "expected metadata as JSON at the beginning of the engine, as export.py writes it"
    if not 0 < length <= min(MAX_HEADER_BYTES, len(data) - 4):
        raise ValueError(f"{file}: {expected}, found a header of {length} bytes in a file of {len(data)}")
    return Metadata.from_json(data[4 : 4 + length], f"{file}: {expected}"), data[4 + length :]


def write_metadata(file: Path, metadata: Metadata) -> None:
    """Replace the metadata in an engine file."""
    write(file, metadata, read(file)[1])


class TensorRtBackend(ExportedBackend):
    """An .engine file of export.py. Open only files that you trust: an engine is a program for the GPU.

    run() may be called by several threads, one waits for the other.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        metadata, engine = read(path)
        super().__init__(path, metadata)
        trt = require("tensorrt", "tensorrt", "running TensorRT engines")
        import torch

        self.device = gpu(device, path)
        self.warn_of_unused(fp16=fp16, dnn=dnn)
        with torch.cuda.device(self.device):
            self._logger = trt.Logger(trt.Logger.WARNING)
            self._runtime = trt.Runtime(self._logger)  # has to live as long as the engine
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                made = "it was made with another version, or for another GPU: export it again on this computer"
                raise ValueError(f"{path}: TensorRT {trt.__version__} cannot load this engine; {made}")
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream(self.device)
        self._input, self._outputs = self._tensor_names(trt)
        self._max_batch = self._engine.get_tensor_profile_shape(self._input, 0)[2][0]
        self._lock = threading.Lock()

    def _tensor_names(self, trt) -> tuple:
        """Return the name of the only input, and those of the outputs in the graph's order."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = sorted(name for name in names if name not in inputs)  # output0, output1
        count = len(OUTPUT_DIMS[self.task])
        if len(inputs) != 1 or len(outputs) != count:
            raise ValueError(f"{self.path}: expected 1 input and {count} output(s), found {inputs} and {outputs}")
        return inputs[0], outputs

    def run(self, images: np.ndarray):
        parts = [images[i : i + self._max_batch] for i in range(0, len(images), self._max_batch)]
        return one_or_tuple([np.concatenate(outputs) for outputs in zip(*map(self._run_part, parts))])

    def _run_part(self, images: np.ndarray) -> list:
        import torch

        with self._lock, torch.cuda.stream(self._stream):
            x = torch.from_numpy(images).to(self.device)
            if not self._context.set_input_shape(self._input, tuple(x.shape)):
                least, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(self._input, 0))
                raise ValueError(f"{self.path}: takes images of {least} to {most}, found {tuple(x.shape)}")
            shapes = [tuple(self._context.get_tensor_shape(name)) for name in self._outputs]
            outputs = [torch.empty(shape, dtype=torch.float32, device=self.device) for shape in shapes]
            for name, tensor in zip((self._input, *self._outputs), (x, *outputs)):
                self._context.set_tensor_address(name, tensor.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise ValueError(f"{self.path}: TensorRT could not run the engine; its messages above say why")
            return [output.cpu().numpy() for output in outputs]  # waits for the stream
