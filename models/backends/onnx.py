"""ONNX: written through torch, run by onnxruntime or, with `dnn`, by OpenCV (opencv.py). Reading needs no torch."""

import io
import os
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import OUTPUT_DIMS, Metadata
from models.backends.quiet import quiet
from utils.files import write_atomic
from utils.logger import LOGGER

# YOLOv5's default too, and the oldest with LayerNormalization as an operator, which saves EdgeViT a tenth of its time.
# All runtimes since 2023 know it: onnxruntime 1.12 and its web build, TensorRT 8.6, OpenCV 4.8.
OPSET = 17
OPSETS = range(11, 21)  # those that torch writes without a warning, from the oldest that NPU toolchains want
FOLDED_VALUES = 2**20  # constants of at most so many values are computed when the file is written
INPUT, OUTPUT, PROTOTYPES = "images", "output0", "output1"  # YOLOv5's names
IMAGE_AXES = {0: "batch", 2: "height", 3: "width"}
OUTPUT_AXES = {  # task -> what is dynamic in each output
    "detect": {OUTPUT: {0: "batch", 1: "boxes"}},
    "segment": {OUTPUT: {0: "batch", 1: "boxes"}, PROTOTYPES: {0: "batch", 2: "mask_height", 3: "mask_width"}},
    "classify": {OUTPUT: {0: "batch"}},
}
NUMPY_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write `model`, as models.exportable.exportable() returns it, to the ONNX file `file`.

    int8 is not done here: the file is float32 then. ValueError for an opset that cannot be written.
    """
    graph = traced(model, spec, metadata.task)
    if spec.simplify:
        graph = require("onnxslim", "onnx", "--simplify").slim(graph)
    graph = _with_boxes(graph, spec, metadata)
    if spec.verbose:
        counts = node_counts(graph)
        LOGGER.info(f"{file.name}: {sum(counts.values())} nodes: " + ", ".join(f"{n} {op}" for op, n in counts.items()))
    _save(graph, file, metadata)


def complete(file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Put NMS, and an image as input, around a written file of raw predictions, as export() does: int8 comes before.

    The file gets the metadata. With spec.embed it has to be dynamic.
    """
    import onnx

    _save(_with_boxes(onnx.load(str(file)), spec, metadata), file, metadata)


def _with_boxes(graph, spec: ExportSpec, metadata: Metadata):
    """Return the onnx.ModelProto with what spec.nms and spec.embed add to it."""
    from models.backends.onnx_graph import add_image_input, add_nms

    if spec.embed:
        return add_image_input(graph, spec, metadata)
    return add_nms(graph, spec) if spec.nms else graph


def _save(graph, file: Path, metadata: Metadata) -> None:
    import onnx

    onnx.helper.set_model_props(graph, metadata.to_strings())
    write_atomic(file, graph.SerializeToString())


def traced(model, spec: ExportSpec, task: str = "detect"):
    """Return `model` as onnx.ModelProto, constants folded: "images" [B, 3, H, W] -> "output0" (and "output1").

    A model with other outputs has .output_axes, as a row of OUTPUT_AXES.
    """
    import onnx
    from onnxscript import optimizer

    opset = spec.opset or OPSET
    if opset not in OPSETS:
        raise ValueError(f"--opset: expected a number from {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    with quiet(spec.verbose):
        graph = onnx.load_from_string(_torch_export(model, spec, opset, task))
        graph = optimizer.optimize(graph, input_size_limit=FOLDED_VALUES)
    dims = [value.type.tensor_type.shape.dim for value in graph.graph.output]
    if task != "classify" and not hasattr(model, "output_axes"):  # torch does not know it where sizes are dynamic
        masks = dims[1][1].dim_value if task == "segment" else 0
        dims[0][2].dim_value = 5 + len(model.names) + masks
    del graph.graph.value_info[:]  # half known shapes of maps, which onnxslim takes for equal ones
    return graph


def _torch_export(model, spec: ExportSpec, opset: int, task: str) -> bytes:
    """Return the ONNX file that torch writes.

    Of torch's two exporters this is the older one. It takes a second, not up to a minute as the other one for dynamic
    sizes, and writes any of OPSETS, the other one only 18 and later. Once their constants are folded, both have the
    same nodes. It is deprecated, but every torch from 2.4 to 2.14 has it.
    """
    import torch

    from models.exportable import HalfPrecision, example_images

    dynamic = spec.dynamic or spec.embed
    images = example_images(spec.batch, spec.imgsz)
    outputs = getattr(model, "output_axes", OUTPUT_AXES[task])
    model = HalfPrecision(model) if spec.half else model
    axes = {INPUT: IMAGE_AXES, **outputs} if dynamic else None
    names = {"input_names": [INPUT], "output_names": list(outputs), "dynamic_axes": axes}
    buffer = io.BytesIO()
    torch.onnx.export(model, (images,), buffer, dynamo=False, opset_version=opset, **names)
    return buffer.getvalue()


def node_counts(graph) -> dict:
    """Return {operator: number of nodes} of an onnx.ModelProto, the most frequent first."""
    from collections import Counter

    return dict(Counter(node.op_type for node in graph.graph.node).most_common())


def load_onnxruntime(purpose: str, module: str = "onnxruntime"):
    """Import onnxruntime, or a module of it, with its telemetry off; ImportError with the pip line if it is missing.

    Its builds for all systems send what they run, and number the machine by a file below the home folder. The variable
    counts when onnxruntime is first imported, and stays as it is where the user has set it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return require(module, "onnx", purpose)


def calibration_reader(graph, images):
    """Return onnxruntime's reader of images for the only input of an onnx.ModelProto."""
    quantization = load_onnxruntime("int8", "onnxruntime.quantization")
    name, images = graph.graph.input[0].name, iter(images)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            image = next(images, None)
            return None if image is None else {name: image}

    return Reader()


def write_metadata(file: Path, metadata: Metadata) -> None:
    """Replace the metadata in an ONNX file."""
    import onnx

    _save(onnx.load(str(file)), file, metadata)


class OnnxBackend(ExportedBackend):
    """An ONNX file of ours or of YOLOv5's, run by onnxruntime; with `dnn` by OpenCV's DNN module on the CPU.

    device: "" (a GPU if onnxruntime has one), "cpu", or a GPU's index.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        if dnn:
            from models.backends.opencv import OpenCvDnn

            self.runner = OpenCvDnn(path, threads)
        else:
            self.runner = OnnxRuntime(path, device, threads)
        super().__init__(path, Metadata.from_strings(self.runner.strings, path))
        self.device = self.runner.device
        if dnn and self.end2end:
            raise ValueError(f"{path}: --dnn: OpenCV does not run files that were exported with --nms or --embed")
        if self.metadata.output == "image":
            self.fixed_hw = self.batch = None
        else:
            self._fit_to_graph(self.runner.input_shape, self.runner.output_shapes)
        self.warn_of_unused(fp16=fp16)

    def _fit_to_graph(self, inputs: list, outputs: list) -> None:
        """Batch, image size and number of classes from the graph: others' metadata do not have them all."""
        if len(inputs) != 4 or inputs[1] not in (3, None):
            raise ValueError(f"{self.path}: expected an input [B, 3, H, W], found {inputs}")
        self.batch, hw = inputs[0], inputs[2:]
        self.fixed_hw = tuple(hw) if all(hw) else None
        self.imgsz = self.imgsz or (hw if all(hw) else None)
        if "task" not in self.runner.strings and tuple(map(len, outputs)) == OUTPUT_DIMS["segment"]:
            self.task = "segment"  # a file of YOLOv5's own
        self.check_outputs(outputs[: len(OUTPUT_DIMS[self.task])])  # raw maps may come behind

    def predict(self, images: np.ndarray, augment: bool = False, visualize=False):
        if self.metadata.output == "image" and not (augment or visualize):
            return self._run_images(images)
        return super().predict(images, augment, visualize)

    def run(self, images: np.ndarray):
        if self.metadata.output == "image":
            return self._run_images((images.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8))
        if any(side % self.stride for side in images.shape[2:]):
            found = "x".join(map(str, images.shape[2:]))
            raise ValueError(f"{self.path}: expected sides that are multiples of {self.stride} px, found {found}")
        outputs = self.runner.run(images)[: len(OUTPUT_DIMS[self.task])]
        return one_or_tuple([output.astype(np.float32, copy=False) for output in outputs])

    def _run_images(self, images: np.ndarray) -> np.ndarray:
        """Return boxes [B, n, 6] of uint8 RGB images [B, H, W, 3], which the file takes one by one."""
        found = [np.column_stack(self.runner.run(np.ascontiguousarray(image))) for image in images]
        boxes = np.zeros((len(found), max(map(len, found), default=0), 6), np.float32)
        for rows, image_boxes in zip(boxes, found):
            rows[: len(image_boxes)] = image_boxes
        return boxes


class OnnxRuntime:
    """A session of onnxruntime.

    strings: the metadata. input_shape: of the first input. output_shapes: of all. None is for what is dynamic.
    """

    def __init__(self, path, device="", threads: int = 0):
        onnxruntime = load_onnxruntime(f"{path}")
        onnxruntime.disable_telemetry_events()  # for the case that another program has imported it before
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # takes a fifth less memory, and as long
        # Threads that wait at work, as they do by default, take the processor from whatever else the program does
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        providers = providers_for(device, onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except load_errors() as error:
            reason = str(error).strip().splitlines()[0].split(" : ", 3)[-1]  # without the name and number of the error
            raise ValueError(f"{path}: expected an ONNX file that onnxruntime can run: {reason}") from None
        self.device = "cuda" if "CUDAExecutionProvider" in self.session.get_providers() else "cpu"
        if str(device) and self.device == "cpu" and len(providers) > 1:
            raise ValueError(f"--device {device}: onnxruntime could not start CUDA; use --device cpu")
        self.strings = self.session.get_modelmeta().custom_metadata_map
        self.input = self.session.get_inputs()[0]
        self.dtype = np.dtype(NUMPY_TYPES.get(self.input.type, np.float32))
        self.input_shape = known_sizes(self.input.shape)
        self.output_shapes = [known_sizes(output.shape) for output in self.session.get_outputs()]

    def run(self, array: np.ndarray) -> list:
        """Return all outputs."""
        return self.session.run(None, {self.input.name: array.astype(self.dtype, copy=False)})


def known_sizes(shape) -> list[int | None]:
    return [n if isinstance(n, int) and n > 0 else None for n in shape]


def load_errors() -> tuple:
    """Return the classes of onnxruntime's errors, which have no common one of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return tuple(e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception))


def providers_for(device, available: list) -> list:
    """Return onnxruntime's execution providers for a --device value; ValueError if they are not `available`."""
    name = str(device).strip().lower().removeprefix("cuda").removeprefix(":")
    has_cuda = "CUDAExecutionProvider" in available
    if name == "cpu" or (not str(device) and not has_cuda):
        return ["CPUExecutionProvider"]
    if not has_cuda or not (name.isdigit() or name == ""):
        raise ValueError(f"--device {device}: this onnxruntime offers {', '.join(available)}; use --device cpu")
    return [("CUDAExecutionProvider", {"device_id": int(name or 0)}), "CPUExecutionProvider"]
