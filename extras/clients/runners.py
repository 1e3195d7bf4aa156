"""The plain run of a written file by its runtime, as other programs do it: arrays in, all outputs out in order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def open_onnx(file: Path) -> Callable:
    from models.backends.onnx import OnnxRuntime

    return OnnxRuntime(file, "cpu").run


def open_openvino(file: Path) -> Callable:
    from models.backends.openvino import graph_path, load_openvino

    openvino = load_openvino()
    compiled = openvino.Core().compile_model(graph_path(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: np.ndarray) -> list:
        outputs = compiled({0: images})
        return [np.array(outputs[i]) for i in range(len(outputs))]

    return run


def open_litert(file: Path) -> Callable:
    from models.backends.base import require

    interpreter = require("ai_edge_litert.interpreter", "litert", f"{file}:").Interpreter(str(file))
    interpreter.allocate_tensors()
    (image,), outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: np.ndarray) -> list:
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in outputs]

    return run


def open_torchscript(file: Path) -> Callable:
    import torch

    from models.backends.base import listed

    model = torch.jit.load(str(file))  # It was written a moment ago, so that its program is ours.

    def run(images: np.ndarray) -> list:
        with torch.inference_mode():
            return [output.numpy() for output in listed(model(torch.from_numpy(images)))]

    return run


RUNNERS = {"onnx": open_onnx, "openvino": open_openvino, "litert": open_litert, "torchscript": open_torchscript}


def prepared(images: np.ndarray, kind: str) -> np.ndarray:
    """Return uint8 RGB images [B, H, W, 3] as a file takes them.

    kind: nchw or nhwc, float32 from 0 to 1, or nhwc-uint8.
    """
    if kind == "nhwc-uint8":
        return np.ascontiguousarray(images)
    values = images.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if kind == "nchw" else values
