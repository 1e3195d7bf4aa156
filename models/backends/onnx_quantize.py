"""INT8 for ONNX files: static quantisation with onnxruntime, any nodes of the graph kept in float. Free of torch."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from models.backends.base import require
from models.backends.metadata import Metadata
from models.backends.node_groups import CONSTANT, IMAGE, Node

MIN_OPSET = 13  # older ones cannot quantise per channel


class OnnxQuantizer:
    """Quantised versions of one float32 ONNX file.

    calibration() iterates over float32 RGB images [1, 3, H, W], 0 to 1; the ranges of all values are taken from them
    once. Weights are symmetric and per channel, activations asymmetric.
    """

    def __init__(self, file: Path, calibration: Callable):
        require("onnxruntime.quantization", "onnx", "int8 ONNX")
        self.model = _named(file)
        self.nodes = read_nodes(self.model)
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
        """Names of the nodes that are in int8 in a file of write() without float_nodes."""
        import onnx

        graph = onnx.load(str(file)).graph
        restored = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        known = {node.name for node in self.nodes if node.op in _quantizable_ops()}
        return {node.name for node in graph.node if node.name in known and restored & set(node.input)}

    def _find_ranges(self, calibration):
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

        name = self.model.graph.input[0].name

        class Reader(CalibrationDataReader):
            images = iter(calibration())

            def get_next(self):
                image = next(self.images, None)
                return None if image is None else {name: image}

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
            calibrator.collect_data(Reader())
            return calibrator.compute_data()


def _quantizable_ops() -> list:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _named(file: Path):
    """The onnx.ModelProto with the shapes of all values, and a name for each node; ValueError for too old an opset."""
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


def read_nodes(model) -> list:
    """The nodes of an onnx.ModelProto as node_groups.Node."""
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
