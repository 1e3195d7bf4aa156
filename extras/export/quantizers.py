"""INT8 versions of ONNX and OpenVINO files with any nodes of the graph kept in float: onnxruntime and nncf quantise."""

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from extras.export.node_groups import CONSTANT, IMAGE, Node
from models.backends.base import require
from models.backends.metadata import Metadata
from models.backends.onnx import calibration_reader
from models.backends.onnx_session import load_onnxruntime
from models.backends.openvino import graph_path, load_openvino, save_graph
from models.backends.quiet import quiet

MIN_OPSET = 13  # older ones of ONNX cannot quantise per channel
OPENVINO_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
# operators that let values through
OPENVINO_MOVEMENTS = "Concat DepthToSpace Interpolate MaxPool Reshape Slice Split Transpose VariadicSplit".split()
# OpenVINO's names of operators to ONNX's
ONNX_NAMES = {"Convolution": "Conv", "GroupConvolution": "Conv", "Multiply": "Mul", "Subtract": "Sub", "Divide": "Div"}
DRAFT_IMAGES = 16


class OnnxQuantizer:
    """Quantised versions of one float32 ONNX file.

    calibration() iterates over float32 RGB images [1, 3, H, W], 0 to 1; the ranges of all values are taken from them
    once. Weights are symmetric and per channel, activations asymmetric.
    """

    def __init__(self, file: Path, calibration: Callable):
        load_onnxruntime("int8 ONNX", "onnxruntime.quantization")
        self.model = _named(file)
        self.nodes = onnx_nodes(self.model)
        self.ranges = self._find_ranges(calibration)

    def write(self, file: Path, float_nodes, draft: bool = False) -> None:
        """Write the ONNX file `file` with everything in int8 that onnxruntime can, but for the nodes of these names.

        draft: only for a comparison, which makes no difference here.
        """
        import copy

        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        types = {"weight_qType": QuantType.QInt8, "activation_qType": QuantType.QUInt8}
        quantizer = QDQQuantizer(
            copy.deepcopy(self.model),
            per_channel=True,
            reduce_range=False,
            tensors_range=self.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(float_nodes),
            op_types_to_quantize=_quantizable_ops(),
            extra_options={"QDQOpTypePerChannelSupportToAxis": {"LayerNormalization": 0}},  # its weight is a vector
            **types,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # it leaves new nodes at the end, but ONNX wants them before their readers
        quantized = quantizer.model.model
        strings = {entry.key: entry.value for entry in quantized.metadata_props}
        metadata = Metadata.from_strings(strings, file)
        metadata.precision = "int8"
        onnx.helper.set_model_props(quantized, metadata.to_strings())
        onnx.save(quantized, str(file))

    def quantizable_nodes(self, file: Path) -> set:
        """Return the names of the nodes that are in int8 in a file of write() without float_nodes."""
        import onnx

        graph = onnx.load(str(file)).graph
        restored = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        known = {node.name for node in self.nodes if node.op in _quantizable_ops()}
        return {node.name for node in graph.node if node.name in known and restored & set(node.input)}

    def _find_ranges(self, calibration):
        import onnx
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "named.onnx"
            onnx.save(self.model, str(file))
            calibrator = create_calibrator(
                file,
                _quantizable_ops(),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"moving_average": True},
            )
            calibrator.collect_data(calibration_reader(self.model, calibration()))
            return calibrator.compute_data()


def _quantizable_ops() -> list:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _named(file: Path):
    """Return the onnx.ModelProto with all shapes, and a name for each node; ValueError for too old an opset."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(file)))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        raise ValueError(f"--int8 needs --opset {MIN_OPSET} or later, found {opset}")
    taken = {node.name for node in model.graph.node}
    for i, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(name for name in (f"{node.op_type}_{i}", f"{node.op_type}_{i}_") if name not in taken)
    return model


def onnx_nodes(model) -> list[Node]:
    """Return the nodes of an onnx.ModelProto."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    source = dict.fromkeys(shapes, CONSTANT) | {value.name: IMAGE for value in model.graph.input}
    nodes = []
    for node in model.graph.node:
        inputs = tuple(source[name] for name in node.input if name)
        is_constant = node.op_type == "Constant" or bool(inputs) and set(inputs) == {CONSTANT}
        source.update(dict.fromkeys(node.output, CONSTANT if is_constant else node.name))
        if not is_constant:
            nodes.append(Node(node.name, node.op_type, inputs, _depthwise_kernel(node, shapes)))
    return nodes


def _depthwise_kernel(node, shapes: dict) -> tuple:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return shapes.get(node.input[1], ())[2:] if node.op_type == "Conv" and groups > 1 else ()


def load_nncf():
    """Import nncf without its telemetry and its messages; ImportError with the pip line if it is missing."""
    load_openvino()  # which turns the telemetry off
    with quiet():
        return require("nncf", "openvino", "int8 OpenVINO")


class OpenVinoQuantizer:
    """Quantised versions of one float32 OpenVINO folder.

    calibration() iterates over float32 RGB images [1, 3, H, W], 0 to 1. Weights are symmetric and per channel,
    activations asymmetric.
    """

    def __init__(self, folder: Path, calibration: Callable):
        self.nncf, self.openvino = load_nncf(), load_openvino()
        self.folder, self.file, self.calibration = Path(folder), graph_path(folder), calibration
        self.nodes = openvino_nodes(self._graph())

    def _graph(self):
        return self.openvino.Core().read_model(self.file)

    def write(self, folder: Path, float_nodes, draft: bool = False) -> None:
        """Write the folder with everything in int8 that nncf can, but for the nodes of these names.

        draft: only for a comparison, quickly.
        """
        nncf = self.nncf
        images = Images(self.calibration, DRAFT_IMAGES if draft else None)
        with quiet():
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
        """Return the names of the nodes that are in int8, or read it, in a folder of write() without float_nodes."""
        graph = self.openvino.Core().read_model(graph_path(folder))
        names, rounded = set(), set()  # rounded: nodes whose values have passed through 8 bits
        for op in graph.get_ordered_ops():
            kind, name = op.get_type_name(), op.get_friendly_name()
            sources = [value.get_source_output().get_node() for value in op.inputs()]
            has_integer_weight = kind in OPENVINO_LAYERS and sources[1].get_type_name() != "Constant"
            if has_integer_weight or any(source.get_friendly_name() in rounded for source in sources):
                names.add(name)
            if kind == "FakeQuantize" or (kind in OPENVINO_MOVEMENTS and name in names):
                rounded.add(name)
        return names & {node.name for node in self.nodes}


class Images:
    """The images of calibration(), which can be read again and again; `most` limits their number."""

    def __init__(self, calibration: Callable, most=None):
        self.calibration, self.most = calibration, most

    def __iter__(self):
        return islice(self.calibration(), self.most)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def openvino_nodes(graph) -> list[Node]:
    """Return the operators of an openvino.Model."""
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
