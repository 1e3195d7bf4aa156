"""ONNX: written through torch, run by onnxruntime or, with `dnn`, by OpenCV (opencv.py). Reading needs no torch."""

import io
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import OUTPUT_DIMS, Metadata
from models.backends.onnx_session import OnnxRuntime, load_onnxruntime
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
        return one_or_tuple(self._kept(self.runner.run(images)))

    def _kept(self, outputs: list) -> list:
        """Return what Metadata describes of a run's outputs, in float32."""
        return [output.astype(np.float32, copy=False) for output in outputs[: len(OUTPUT_DIMS[self.task])]]

    def _run_batches(self, images: np.ndarray) -> list:
        """Return all outputs, as a list. On a CPU each of many images goes through by itself: its maps stay cached."""
        can_split = self.batch in (None, 1) and not self.end2end and self.runner.can_run_each
        if len(images) < 2 or not can_split:
            return super()._run_batches(images)
        outputs = map(self._kept, self.runner.run_each(np.split(images, len(images))))
        return [np.concatenate(parts) for parts in zip(*outputs)]

    def _run_images(self, images: np.ndarray) -> np.ndarray:
        """Return boxes [B, n, 6] of uint8 RGB images [B, H, W, 3], which the file takes one by one."""
        found = [np.column_stack(self.runner.run(np.ascontiguousarray(image))) for image in images]
        boxes = np.zeros((len(found), max(map(len, found), default=0), 6), np.float32)
        for rows, image_boxes in zip(boxes, found):
            rows[: len(image_boxes)] = image_boxes
        return boxes
