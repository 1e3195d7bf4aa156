"""OpenVINO: a folder NAME_openvino_model with the graph (.xml), its weights (.bin) and metadata.yaml. Free of torch."""

import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import FILE_NAME, Metadata
from utils.logger import LOGGER

FOLDER_SUFFIX = "_openvino_model"
CHOOSING = ("AUTO", "MULTI", "HETERO")  # devices that choose among others, as in AUTO:GPU,CPU


def load_openvino():
    """Import openvino with its telemetry, and nncf's, off for this process; ImportError with the pip line if missing.

    Both take a missing openvino_telemetry package for a refusal; None in sys.modules makes it count as missing.
    """
    if "openvino" not in sys.modules and "nncf" not in sys.modules:
        sys.modules["openvino_telemetry"] = None
    return require("openvino", "openvino", "OpenVINO")


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write the folder `file` from an exportable() model, by way of ONNX. ImportError if a package is missing."""
    from models.backends import onnx

    openvino = load_openvino()
    with tempfile.TemporaryDirectory() as folder:
        graph_file = Path(folder) / "model.onnx"
        onnx.export(model, graph_file, replace(spec, half=False), metadata)
        graph = openvino.convert_model(graph_file)  # with norms, GELU and SiLU as one operator each, unlike read_model
        save_graph(graph, file, metadata, half=spec.half)


def complete(folder: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Put NMS behind the raw predictions of a written folder, if spec.nms; as export() does, which int8 comes after."""
    if not spec.nms:
        return
    openvino = load_openvino()
    file = graph_path(folder)
    network = openvino.Core().read_model(file)
    nms = _nms_graph(openvino, known_sizes(network.output(0)), spec)
    raw = network.get_results()[0].input_value(0)
    for reader in nms.get_parameters()[0].output(0).get_target_inputs():
        reader.replace_source_output(raw)
    joined = openvino.Model(nms.get_results(), network.get_parameters())
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".nms-") as temporary:
        new_folder = Path(temporary) / folder.name
        save_graph(joined, new_folder, metadata)
        del network, joined  # they have the old weights mapped into memory
        for new_file in new_folder.iterdir():
            new_file.replace(folder / (file.stem + new_file.suffix if new_file.suffix != ".yaml" else FILE_NAME))


def _nms_graph(openvino, dims: list, spec: ExportSpec):
    """Return the openvino.Model of NMS alone, from raw predictions [B, N, 5 + nc] of these sizes, None for any."""
    import onnx

    from models.backends.onnx import OPSET, OUTPUT
    from models.backends.onnx_graph import add_nms

    values = [onnx.helper.make_tensor_value_info(name, 1, dims) for name in ("raw", OUTPUT)]
    identity = onnx.helper.make_node("Identity", ["raw"], [OUTPUT])
    graph = onnx.helper.make_graph([identity], "raw", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", OPSET)
    model = add_nms(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), spec)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/nms.onnx")
        return openvino.convert_model(f"{folder}/nms.onnx")


def save_graph(graph, folder: Path, metadata: Metadata, half: bool = False) -> None:
    """Write an openvino.Model and the metadata as the folder `folder`; half: with weights of 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{folder.name.removesuffix(FOLDER_SUFFIX)}.xml"
    load_openvino().save_model(graph, file, compress_to_fp16=half)
    metadata.save(folder)


def write_metadata(file, metadata: Metadata) -> None:
    """Replace the metadata in the folder `file`."""
    metadata.save(graph_path(file).parent)


class OpenVinoBackend(ExportedBackend):
    """A NAME_openvino_model folder, or the .xml in it. run() may be called by several threads, one waits for the other.

    device: "" and "cpu" are the CPU, a number N is GPU.N, anything else the name of an OpenVINO device. fp16: compute
    in half precision (a CPU in bfloat16) where the device can, else in float32.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        openvino = load_openvino()
        file = graph_path(path)
        core = openvino.Core()
        with file.open("rb") as opened:
            if b"<net" not in opened.read(1000):  # else OpenVINO tries its readers of other frameworks' files
                raise ValueError(f"{file}: not an OpenVINO model: no <net> at its beginning")
        try:
            graph = core.read_model(file)
        except RuntimeError as error:
            raise ValueError(f"{file}: not an OpenVINO model: {gist(error)}") from None
        super().__init__(path, read_metadata(file, graph))
        self.check_outputs([known_sizes(output) for output in graph.outputs])
        self.warn_of_unused(dnn=dnn)
        self.device = find_device(core, device)
        config = self._config(core, fp16, threads)
        self.bf16 = config.get("INFERENCE_PRECISION_HINT") == "bf16"
        try:
            self.compiled = core.compile_model(graph, self.device, config)
        except RuntimeError as error:
            raise ValueError(f"{file}: cannot be run on {self.device}: {gist(error)}") from None
        self._request = self.compiled.create_infer_request()
        self._lock = threading.Lock()

    def _config(self, core, fp16: bool, threads: int) -> dict:
        config = {"PERFORMANCE_HINT": "LATENCY"}
        on_cpu = self.device == "CPU"
        if threads and on_cpu:
            config["INFERENCE_NUM_THREADS"] = threads
        if on_cpu or fp16:
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if fp16 and self.device.split(":")[0] not in CHOOSING:
            capability, precision = ("BF16", "bf16") if on_cpu else ("FP16", "f16")
            if capability in core.get_property(self.device, "OPTIMIZATION_CAPABILITIES"):
                config["INFERENCE_PRECISION_HINT"] = precision
            else:
                LOGGER.warning(f"--half: {self.device} does not compute in {precision}, float32 is used")
        return config

    def run(self, images: np.ndarray):
        """Run as ExportedBackend does. ValueError for a wrong shape."""
        with self._lock:
            try:
                outputs = self._request.infer({0: images}, share_inputs=True)
            except RuntimeError as error:
                shape = "x".join(map(str, images.shape))
                raise ValueError(f"{self.path}: cannot take images of shape {shape}: {gist(error)}") from None
            # copies: the outputs are not shared with the request
            return one_or_tuple([np.asarray(outputs[i], np.float32) for i in range(len(outputs))])


def graph_path(path) -> Path:
    """Return the .xml file of a folder or of itself; FileNotFoundError if it or its .bin is missing."""
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.xml"))
        if len(files) != 1:
            raise FileNotFoundError(f"{path}: expected one .xml file in this folder, found {len(files)}")
        path = files[0]
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; an OpenVINO model is a .xml and a .bin file")
    return path


def read_metadata(file: Path, graph) -> Metadata:
    """Return metadata.yaml beside the .xml `file`; what it lacks is read from the openvino.Model.

    ValueError unless the graph takes one batch of RGB images.
    """
    if len(graph.inputs) != 1:
        raise ValueError(f"{file}: expected a model with one input, found {len(graph.inputs)}")
    shape = graph.input(0).get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4 or (shape[1].is_static and shape[1].get_length() != 3):
        raise ValueError(f"{file}: expected an input of shape [B, 3, H, W], found {shape}")
    has_metadata = (file.parent / FILE_NAME).is_file()
    metadata = Metadata.load(file.parent) if has_metadata else Metadata({}, [], 32, [])
    if not metadata.imgsz:
        if shape.is_dynamic:
            metadata.dynamic = True
        else:
            metadata.batch, _, *metadata.imgsz = graph.input(0).shape
    return metadata


def known_sizes(output) -> list:
    """Return the shape of a graph's output, None for what is dynamic, [] if even the number of dimensions is."""
    shape = output.get_partial_shape()
    return [] if shape.rank.is_dynamic else [None if dim.is_dynamic else dim.get_length() for dim in shape]


def find_device(core, device) -> str:
    """Return the name of an OpenVINO device for a --device value; ValueError with what there is if it is not here."""
    name = str(device).strip().upper() or "CPU"
    name = f"GPU.{name}" if name.isdigit() else name
    if name == "CPU":
        return name  # is always there; looking for the others takes a while
    kind, available = name.split(":")[0].split(".")[0], core.available_devices
    if kind not in CHOOSING and kind not in {known.split(".")[0] for known in available}:
        raise ValueError(f"--device {device}: OpenVINO has no such device here, only {', '.join(available)}")
    return name


def gist(error: Exception) -> str:
    """Return the gist of OpenVINO's errors, which are long: their last line with words."""
    lines = [line.strip() for line in str(error).splitlines() if " " in line.strip()]
    return lines[-1] if lines else type(error).__name__
