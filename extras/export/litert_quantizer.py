"""INT8 versions of a LiteRT file with any operators of the graph kept in float: ai_edge_quantizer quantises."""

import re
from collections.abc import Callable
from pathlib import Path

from extras.export.node_groups import CONSTANT, IMAGE, Node
from models.backends.base import require
from models.backends.litert import CONVOLUTIONS, FLOAT_RESULTS, INT8_OPERATORS, find_ranges, with_int8
from models.backends.metadata import read_appended, write_appended

# LiteRT's names of operators to ONNX's
ONNX_NAMES = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE"), "Conv"),
    **dict.fromkeys(("FULLY_CONNECTED", "BATCH_MATMUL"), "MatMul"),
    **{"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "POW": "Pow", "SQRT": "Sqrt", "RSQRT": "Sqrt"},
    **{"MEAN": "ReduceMean", "GELU": "Gelu", "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax"},
}


class LiteRtQuantizer:
    """Quantised versions of one float32 .tflite file.

    calibration() iterates over float32 RGB images [B, 3, H, W], 0 to 1; the ranges of all values are taken from them
    once. Weights are symmetric and per channel, activations asymmetric. Norms, attention, GELU and the decoding of
    boxes stay in float always.
    """

    def __init__(self, file: Path, calibration: Callable):
        require("ai_edge_quantizer", "litert", "int8 LiteRT")
        self.content, self.metadata = Path(file).read_bytes(), read_appended(file)
        self.metadata.precision = "int8"
        self.nodes, self.quantizable = litert_nodes(self.content)
        self.ranges = find_ranges(self.content, calibration())

    def write(self, file: Path, float_nodes, draft: bool = False) -> None:
        """Write `file` with everything in int8 that pays, but for the nodes of these names; draft changes nothing."""
        file.write_bytes(with_int8(self.content, self.ranges, float_nodes))
        write_appended(file, self.metadata)

    def quantizable_nodes(self, file: Path) -> set:
        """Return the names of the nodes that are in int8 in a file of write() without float_nodes."""
        return self.quantizable


def litert_nodes(content: bytes) -> tuple[list[Node], set[str]]:
    """Return the operators of a float32 file, named by their first result, and the names of those that can be int8."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer

    model = flatbuffer.read_model(content)
    (graph,) = model.subgraphs
    names = [flatbuffer.get_tensor_name(tensor) for tensor in graph.tensors]
    source = {i: CONSTANT for i, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None}
    source |= dict.fromkeys(graph.inputs, IMAGE)
    nodes, quantizable = [], set()
    for operator in graph.operators:
        code, name = model.operatorCodes[operator.opcodeIndex].builtinCode, names[operator.outputs[0]]
        kind = getattr(flatbuffer.TFL_OP_CODE_TO_NAME.get(code), "name", str(code))
        inputs = tuple(source[i] for i in operator.inputs if i >= 0)
        kernel = tuple(graph.tensors[operator.inputs[1]].shape[1:3]) if kind == "DEPTHWISE_CONV_2D" else ()
        nodes.append(Node(name, ONNX_NAMES.get(kind, kind), inputs, kernel))
        source |= dict.fromkeys(operator.outputs, name)
        if kind in (*CONVOLUTIONS, *INT8_OPERATORS) and not re.search(FLOAT_RESULTS, f"{name};"):
            quantizable.add(name)
    return nodes, quantizable
