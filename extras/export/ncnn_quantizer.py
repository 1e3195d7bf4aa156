"""INT8 versions of an ncnn folder with any layers kept in float. ncnn's package has no quantiser: it is written here.

Weights are symmetric and per channel, and so are the inputs of a layer, with one scale for all channels. Depthwise
convolutions stay in float always: ncnn takes longer for them in int8.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extras.export.node_groups import CONSTANT, IMAGE, Node
from models.backends.metadata import Metadata
from models.backends.ncnn import INPUT, LAYERS, WEIGHTS, find_parts, open_net

FLOAT_TAG, INT8_TAG = struct.pack("<I", 0), struct.pack("<I", 0x000D4B38)  # in front of a layer's weights
INT8_MAX = 127
QUANTIZED = "Convolution"
DEPTHWISE = "ConvolutionDepthWise"
HEADING_LINES = 2  # of a .param file: its version, and the numbers of layers and values
# kind of layer -> keys of its number of outputs, whether it has a bias, and the number of its weights
WEIGHTED = {
    **dict.fromkeys((QUANTIZED, DEPTHWISE, "Deconvolution", "DeconvolutionDepthWise"), ("0", "5", "6")),
    "InnerProduct": ("0", "1", "2"),
}
SIDES = ("0", "1", "11", "2")  # keys of a constant's width, height, depth and channels


class Layer(NamedTuple):
    """A line of a .param file: kind, name, names of the values that go in and come out, and its options."""

    line: str
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[str, str]

    def number(self, key: str) -> int:
        return int(self.options.get(key, 0))


class Weights(NamedTuple):
    """What a .bin file has for a layer: weights [outputs, N], and the bytes that follow them."""

    values: np.ndarray
    bias: bytes


class NcnnQuantizer:
    """Quantised versions of one float32 ncnn folder.

    calibration() iterates over float32 RGB images [1, 3, H, W], 0 to 1; the ranges of all values are taken from them
    once. ValueError for a folder with layers whose weights are not known here.
    """

    def __init__(self, folder: Path, calibration: Callable):
        layers, weights = find_parts(folder)
        self.metadata = Metadata.load(layers.parent)
        self.metadata.precision = "int8"
        lines = layers.read_text(encoding="utf-8").splitlines()
        self.heading, self.layers = lines[:HEADING_LINES], list(map(parse_layer, lines[HEADING_LINES:]))
        self.contents = dict(read_weights(self.layers, weights))
        self.nodes = ncnn_nodes(self.layers)
        self.ranges = find_ranges(layers.parent, self.layers, calibration())

    def write(self, folder: Path, float_nodes, draft: bool = False) -> None:
        """Write the folder with every convolution in int8 but for those of these names; draft changes nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        int8 = self.quantizable_nodes(folder) - set(float_nodes)
        lines = [f"{layer.line} 8=2" if layer.name in int8 else layer.line for layer in self.layers]
        (folder / LAYERS).write_text("\n".join([*self.heading, *lines, ""]), encoding="utf-8")
        with (folder / WEIGHTS).open("wb") as file:
            for layer in self.layers:
                content = self.contents.get(layer.name, b"")
                if layer.name in int8:
                    file.write(quantized(content, self.ranges[layer.inputs[0]]))
                elif isinstance(content, Weights):
                    file.write(FLOAT_TAG + content.values.tobytes() + content.bias)
                else:
                    file.write(content)
        self.metadata.save(folder)

    def quantizable_nodes(self, folder: Path) -> set[str]:
        """Return the names of the layers that are in int8 in a folder of write() without float_nodes."""
        return {layer.name for layer in self.layers if layer.kind == QUANTIZED}


def parse_layer(line: str) -> Layer:
    """Return what a line says: kind, name, numbers of inputs and outputs, their names, options as KEY=VALUE."""
    kind, name, n_inputs, n_outputs, *rest = line.split()
    end = int(n_inputs) + int(n_outputs)
    options = dict(part.split("=", 1) for part in rest[end:])
    return Layer(line, kind, name, tuple(rest[: int(n_inputs)]), tuple(rest[int(n_inputs) : end]), options)


def read_weights(layers: list[Layer], file: Path) -> Iterator[tuple[str, Weights | bytes]]:
    """Yield the name and the content of each layer that has one, in the order of the .bin file `file`."""
    content, start = file.read_bytes(), 0
    for layer in layers:
        if layer.kind in WEIGHTED:
            outputs, bias, size = map(layer.number, WEIGHTED[layer.kind])
            tag, values_start = content[start : start + 4], start + 4
            if tag != FLOAT_TAG:
                raise ValueError(f"{file}: {layer.name}: expected weights in float32, found the mark {tag.hex()}")
            values_end = values_start + 4 * size
            values = np.frombuffer(content[values_start:values_end], np.float32).reshape(outputs, -1)
            start = values_end + (4 * outputs if bias else 0)
            yield layer.name, Weights(values, content[values_end:start])
        elif layer.kind == "MemoryData":
            end = start + 4 * int(np.prod([layer.number(key) or 1 for key in SIDES]))
            yield layer.name, content[start:end]
            start = end
    if start != len(content):
        kinds = ", ".join(sorted({layer.kind for layer in layers}))
        raise ValueError(f"{file}: expected {start} bytes for layers of {kinds}, found {len(content)}")


def ncnn_nodes(layers: list[Layer]) -> list[Node]:
    """Return the layers that compute something; convolutions by ONNX's name."""
    source, nodes = {}, []
    for layer in layers:
        if layer.kind in ("Input", "MemoryData"):
            source |= dict.fromkeys(layer.outputs, IMAGE if layer.kind == "Input" else CONSTANT)
            continue
        inputs, kernel = tuple(source[name] for name in layer.inputs), ()
        source |= dict.fromkeys(layer.outputs, layer.name)
        op = layer.kind
        if layer.kind in WEIGHTED:
            op, inputs = "Conv", (*inputs, CONSTANT)
        if layer.kind == DEPTHWISE:
            kernel = (layer.number("11"), layer.number("1"))
        nodes.append(Node(layer.name, op, inputs, kernel))
    return nodes


def find_ranges(folder: Path, layers: list[Layer], images: Iterator[np.ndarray]) -> dict[str, float]:
    """Return the largest magnitude of every value that a convolution reads: the mean of the images' own."""
    ncnn, net = open_net(folder, keeps_values=True)
    names = sorted({layer.inputs[0] for layer in layers if layer.kind == QUANTIZED})
    largest = []
    for image in images:
        extractor = net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(image[0]))
        largest.append([np.abs(np.array(extractor.extract(name)[1])).max() for name in names])
    return dict(zip(names, np.mean(largest, 0).tolist()))


def quantized(weights: Weights, largest_input: float) -> bytes:
    """Return a convolution's part of a .bin file: int8 weights, bias, scales of the weights and of the input."""
    scales = (INT8_MAX / np.abs(weights.values).max(1).clip(1e-9)).astype(np.float32)
    values = np.rint(weights.values * scales[:, None]).astype(np.int8).tobytes()
    padding = bytes(-len(values) % 4)
    input_scale = np.float32(INT8_MAX / max(largest_input, 1e-9))
    return b"".join([INT8_TAG, values, padding, weights.bias, scales.tobytes(), input_scale.tobytes()])
