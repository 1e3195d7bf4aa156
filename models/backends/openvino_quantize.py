"""INT8 for OpenVINO models: static quantisation with nncf, any nodes of the graph kept in float."""

import io
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

from models.backends.base import require
from models.backends.metadata import Metadata
from models.backends.node_groups import CONSTANT, IMAGE, Node
from models.backends.openvino import graph_path, load_openvino, save_graph, silence_telemetry

LAYERS = ("Convolution", "GroupConvolution", "MatMul")
MOVEMENTS = (  # operators that let values through
    "Concat",
    "DepthToSpace",
    "Interpolate",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Transpose",
    "VariadicSplit",
)
# OpenVINO's names of operators -> ONNX's
ONNX_NAMES = {"Convolution": "Conv", "GroupConvolution": "Conv", "Multiply": "Mul", "Subtract": "Sub", "Divide": "Div"}
DRAFT_IMAGES = 16


def load_nncf():
    """The nncf package, without its telemetry and its messages; ImportError with the pip line if missing."""
    silence_telemetry()
    nncf = require("nncf", "openvino", "int8 OpenVINO")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level() would change everyone's handlers
    return nncf


class OpenVinoQuantizer:
    """Quantised versions of one float32 OpenVINO folder.

    calibration() iterates over float32 RGB images [1, 3, H, W], 0 to 1. Weights are symmetric and per channel,
    activations asymmetric.
    """

    def __init__(self, folder: Path, calibration: Callable):
        self.nncf, self.openvino = load_nncf(), load_openvino()
        self.folder, self.file, self.calibration = Path(folder), graph_path(folder), calibration
        self.nodes = read_nodes(self._graph())

    def _graph(self):
        return self.openvino.Core().read_model(self.file)

    def write(self, folder: Path, float_nodes, draft: bool = False) -> None:
        """Write the folder with everything in int8 that nncf can, but for the nodes of these names.

        draft: only for a comparison, quickly.
        """
        nncf = self.nncf
        images = Images(self.calibration, DRAFT_IMAGES if draft else None)
        with redirect_stdout(io.StringIO()):  # no progress bars
            quantized = nncf.quantize(
                self._graph(),
                nncf.Dataset(images),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=sorted(float_nodes), validate=False) if float_nodes else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=draft),
            )
        metadata = Metadata.load(self.folder)
        metadata.precision = "int8"
        save_graph(quantized, folder, metadata)

    def quantizable_nodes(self, folder: Path) -> set:
        """Names of the nodes that are in int8, or read int8 values, in a folder of write() without float_nodes."""
        graph = self.openvino.Core().read_model(graph_path(folder))
        names, rounded = set(), set()  # rounded: nodes whose values have passed through 8 bits
        for op in graph.get_ordered_ops():
            kind, name = op.get_type_name(), op.get_friendly_name()
            sources = [value.get_source_output().get_node() for value in op.inputs()]
            has_integer_weight = kind in LAYERS and sources[1].get_type_name() != "Constant"
            if has_integer_weight or any(source.get_friendly_name() in rounded for source in sources):
                names.add(name)
            if kind == "FakeQuantize" or (kind in MOVEMENTS and name in names):
                rounded.add(name)
        return names & {node.name for node in self.nodes}


class Images:
    """The images of calibration(), as often as they are asked for; `most` limits their number."""

    def __init__(self, calibration: Callable, most=None):
        self.calibration, self.most = calibration, most

    def __iter__(self):
        return islice(self.calibration(), self.most)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def read_nodes(graph) -> list:
    """The operators of an openvino.Model as node_groups.Node."""
    source, nodes = {}, []
    for op in graph.get_ordered_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        inputs = tuple(source[value.get_source_output().get_node().get_friendly_name()] for value in op.inputs())
        if kind == "Parameter":
            source[name] = IMAGE
        elif kind == "Constant" or bool(inputs) and set(inputs) == {CONSTANT}:
            source[name] = CONSTANT
        else:
            source[name] = name
            kernel = tuple(op.input(1).get_shape())[-2:] if kind == "GroupConvolution" else ()
            nodes.append(Node(name, ONNX_NAMES.get(kind, kind), inputs, kernel))
    return nodes
