"""ONNX: written through torch, run by onnxruntime or, with `dnn`, by OpenCV. Reading a file needs no torch."""

import warnings
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, require
from models.backends.metadata import Metadata
from utils.logger import LOGGER

# YOLOv5's default too. It is the oldest set with LayerNormalization as an operator (EdgeViT takes a tenth less time with
# it), and known to all runtimes since 2023: onnxruntime 1.12 and its web build, TensorRT 8.6, OpenCV 4.8.
OPSET = 17
FOLDED_VALUES = 2**20  # constants of at most so many values are computed when the file is written
INPUT, OUTPUT = "images", "output0"  # YOLOv5's names
IMAGE_AXES = {0: "batch", 2: "height", 3: "width"}


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write `model`, as models.exportable.exportable() returns it, to the ONNX file `file`.

    int8 is not done here: the file is float32 then. ValueError for an opset that cannot be written.
    """
    import onnx

    graph = traced(model, spec)
    if spec.simplify:
        graph = require("onnxslim", "onnx", "--simplify").slim(graph)
    if spec.embed:
        from models.backends.onnx_graph import add_image_input

        graph = add_image_input(graph, spec, metadata)
    elif spec.nms:
        from models.backends.onnx_graph import add_nms

        graph = add_nms(graph, spec)
    onnx.helper.set_model_props(graph, metadata.to_strings())
    if spec.verbose:
        counts = node_counts(graph)
        LOGGER.info(f"{file.name}: {sum(counts.values())} nodes: " + ", ".join(f"{n} {op}" for op, n in counts.items()))
    onnx.save(graph, str(file))


def traced(model, spec: ExportSpec):
    """The onnx.ModelProto of `model`, with its constants folded.

    torch has two exporters. This is the older one: it takes a second and not up to a minute where sizes are dynamic,
    can write OPSET (the other one nothing below 18, so no file that older runtimes read), and after the folding its
    graph has the same nodes. torch 2.4 knows no other one that works, and 2.14 still has it.
    """
    import io

    import onnx
    import torch
    from onnxscript import optimizer

    from models.exportable import HalfPrecision, example_images

    dynamic = spec.dynamic or spec.embed
    axes = {INPUT: IMAGE_AXES, OUTPUT: {0: "batch", 1: "boxes"}} if dynamic else None
    images = example_images(2 if dynamic else spec.batch, spec.imgsz)
    model = HalfPrecision(model) if spec.half else model
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        if not spec.verbose:
            warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model,
                (images,),
                buffer,
                dynamo=False,
                opset_version=spec.opset or OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=axes,
            )
        except (ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise ValueError(f"--opset {spec.opset or OPSET}: torch cannot write it: {error}") from error
        graph = optimizer.optimize(onnx.load_from_string(buffer.getvalue()), input_size_limit=FOLDED_VALUES)
    del graph.graph.value_info[:]  # half known shapes of maps, which onnxslim takes for equal ones
    return graph


def node_counts(graph) -> dict:
    """{operator: number of nodes} of an onnx.ModelProto, the most frequent first."""
    from collections import Counter

    return dict(Counter(node.op_type for node in graph.graph.node).most_common())


def write_metadata(file: Path, metadata: Metadata) -> None:
    """Replace the metadata in an ONNX file."""
    import onnx

    graph = onnx.load(str(file))
    onnx.helper.set_model_props(graph, metadata.to_strings())
    onnx.save(graph, str(file))


class OnnxBackend(ExportedBackend):
    """An ONNX file of ours or of YOLOv5's, run by onnxruntime; with `dnn` by OpenCV's DNN module on the CPU."""

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        self.runner = OnnxRuntime(path, device, threads)
        super().__init__(path, Metadata.from_strings(self.runner.strings, path))
        if fp16:
            LOGGER.warning(f"WARNING: {path}: --half: the precision of an ONNX file is chosen when it is exported")
        self.device = self.runner.device

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.runner.run(images)


class OnnxRuntime:
    """A session of onnxruntime: metadata as `strings`, `input_shape` with None for what is dynamic, and run()."""

    def __init__(self, path, device="", threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.device = "cpu"
        self.strings = self.session.get_modelmeta().custom_metadata_map
        self.input = self.session.get_inputs()[0]
        self.input_shape = [n if isinstance(n, int) else None for n in self.input.shape]

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.input.name: images})[0]
