"""OpenCV's DNN module as a runtime for ONNX files. It reads their metadata without the package onnx."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np


class OpenCvDnn:
    """A network as OnnxRuntime has it, run by OpenCV on the CPU.

    It takes plain static files; one of its versions may know fewer operators.
    """

    device = "cpu"
    can_run_each = False

    def __init__(self, path, threads: int = 0):
        import cv2

        data = Path(path).read_bytes()
        if threads:
            cv2.setNumThreads(threads)
        try:
            self.net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
            self.strings, inputs, self.output_shapes = read_graph(data)
        except (cv2.error, LookupError) as error:
            raise ValueError(f"{path}: --dnn: OpenCV {cv2.__version__} cannot read it: {_gist(error)}") from None
        self.input_shape = inputs[0] if inputs else []
        self.path, self.error = path, cv2.error

    def run(self, array: np.ndarray) -> list:
        """Return all outputs."""
        try:
            self.net.setInput(array)
            outputs = self.net.forward(self.net.getUnconnectedOutLayersNames())
            return sorted(outputs, key=np.ndim)  # which is the graph's order, if not always OpenCV's
        except self.error as error:
            raise ValueError(f"{self.path}: --dnn: OpenCV cannot run it: {_gist(error)}") from None


def _gist(error: Exception) -> str:
    """Return the gist of OpenCV's errors, without its own source files."""
    return str(getattr(error, "err", error)).strip() or type(error).__name__


def read_graph(data: bytes) -> tuple:
    """Return metadata, and the shapes of all inputs and outputs, of an ONNX file's bytes, without the package onnx.

    The numbers are those of the fields in ONNX's published onnx.proto. LookupError if it is no such file.
    """
    strings: dict[str, str] = {}
    graph: Iterable[tuple] = []
    for number, value in _fields(data):
        if number == 14:  # ModelProto.metadata_props: StringStringEntryProto
            entry = dict(_fields(value))
            strings[bytes(entry.get(1, b"")).decode()] = bytes(entry.get(2, b"")).decode()
        elif number == 7:  # ModelProto.graph: GraphProto
            graph = _fields(value)
    shapes: dict[int, list] = {11: [], 12: []}  # GraphProto.input, output: ValueInfoProto
    for number, value in graph:
        if number in shapes:
            tensor = dict(_fields(dict(_fields(dict(_fields(value))[2]))[1]))  # .type, TypeProto.tensor_type
            dims = [dict(_fields(dim)).get(1) for _, dim in _fields(tensor.get(2, b""))]  # .shape, .dim_value
            shapes[number].append([dim or None for dim in dims])
    return strings, shapes[11], shapes[12]


def _fields(data) -> Iterator[tuple]:
    """Yield (number, value) of each field of a protobuf message; value: an int, or the bytes of a string or message."""
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data, at: int) -> tuple[int, int]:
    """Return the number at this offset, seven bits a byte, and the offset behind it."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
