"""The runtimes that latency is measured in: which there are, what each needs, and a file opened for its calls."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.backends import FORMATS, DetectMultiBackend, Format
from models.backends.onnx import OnnxRuntime
from models.backends.openvino import OpenVinoBackend
from utils.console.text import did_you_mean
from utils.extras import has_extra, missing_extra


class Runtime(NamedTuple):
    """A runtime with the precision that it computes in."""

    key: str  # as --runtimes and --runtime take it
    title: str
    format_key: str  # of models.backends.FORMATS
    precision: str = "fp32"  # or bf16, int8

    @property
    def format(self) -> Format:
        return next(row for row in FORMATS if row.key == self.format_key)

    @property
    def file_precision(self) -> str:
        """The precision that the file is written in: bfloat16 is a matter of the runtime alone."""
        return "fp32" if self.precision == "bf16" else self.precision


RUNTIMES = {
    runtime.key: runtime
    for runtime in (
        Runtime("onnx", "ONNX Runtime", "onnx"),
        Runtime("openvino", "OpenVINO", "openvino"),
        Runtime("openvino-bf16", "OpenVINO", "openvino", "bf16"),
        Runtime("openvino-int8", "OpenVINO", "openvino", "int8"),
        Runtime("litert", "LiteRT", "litert"),
        Runtime("litert-int8", "LiteRT", "litert", "int8"),
        Runtime("ncnn", "ncnn", "ncnn"),
        Runtime("ncnn-int8", "ncnn", "ncnn", "int8"),
        Runtime("torch", "PyTorch", "pt"),
    )
}

QUANTIZED_APART = ("openvino-int8", "ncnn-int8")  # written from a float32 file by the extra `export`


def find_runtime(key: str) -> Runtime:
    """Return the row of RUNTIMES; ValueError that names the others if there is none."""
    if key not in RUNTIMES:
        raise ValueError(f"runtime: expected one of {', '.join(RUNTIMES)}, found {key!r}{did_you_mean(key, RUNTIMES)}")
    return RUNTIMES[key]


def reason_to_skip(runtime: Runtime) -> str:
    """Return what this machine lacks for a runtime, '' for nothing."""
    if missing := runtime.format.missing():
        return f"needs {', '.join(missing)}: {runtime.format.pip_line}"
    if runtime.key in QUANTIZED_APART and not has_extra("export"):
        return missing_extra("export")
    if runtime.key == "litert-int8" and find_spec("ai_edge_quantizer") is None:
        return f"needs ai_edge_quantizer: {runtime.format.pip_line}"
    if runtime.precision == "bf16":
        from utils.torch_utils import multiplies_bfloat16

        return "" if multiplies_bfloat16() else "this CPU does not multiply bfloat16, and an emulation is not measured"
    return ""


def open_call(runtime: Runtime, file: Path, threads: int, images: np.ndarray) -> Callable[[], object]:
    """Return a function that runs the file once, on float32 RGB images [1, 3, H, W] of 0 to 1.

    The time of a call is the runtime's own: nothing is letterboxed before, and no NMS is done behind.
    """
    if runtime.format_key == "onnx":
        session = OnnxRuntime(file, "cpu", threads)
        return lambda: session.run(images)
    if runtime.format_key == "openvino":
        network = TimedOpenVino(file, fp16=runtime.precision == "bf16", threads=threads)
        return lambda: network.run(images)
    backend = DetectMultiBackend(file, "cpu", threads=threads).backend
    if runtime.format_key != "pt":
        return lambda: backend.run(images)
    import torch

    tensor = torch.from_numpy(images)
    return torch.inference_mode()(lambda: backend.forward(tensor))


class TimedOpenVino(OpenVinoBackend):
    """A file of ours or of others in OpenVINO: its outputs are not read."""

    def check_outputs(self, shapes: list) -> None:
        """Take any outputs."""
