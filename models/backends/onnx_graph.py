"""Graphs around an ONNX detector's: NMS behind it, and a letterbox before it, so that one file takes any picture.

They are written in ONNX's text form, with operators that are the same from opset 13 to today's, and are joined to the
network's graph. Quantisation and half precision are for the network alone: they come before.
"""

import numpy as np

from models.backends import onnx_letterbox
from models.backends.base import ExportSpec, require
from models.backends.metadata import Metadata

MIN_OPSET = 13  # older ones have axes as attributes, not inputs

CANDIDATES = """
    centre = Slice (output0, column_0, column_2, last_axis)
    size = Slice (output0, column_2, column_4, last_axis)
    objectness = Slice (output0, column_4, column_5, last_axis)
    class_scores = Slice (output0, column_5, end, last_axis)
    half_size = Div (size, two)
    low = Sub (centre, half_size)
    high = Add (centre, half_size)
    corners = Concat <axis = 2> (low, high)
    scores_by_class = Mul (objectness, class_scores)
    conf, cls = TopK <axis = 2> (scores_by_class, one)
    conf_row = Transpose <perm = [0, 2, 1]> (conf)
"""
# The scores that NonMaxSuppression takes, [B, groups, N]: boxes suppress the others of their group
ONE_GROUP = """
    group_scores = Identity (conf_row)
"""
GROUP_PER_CLASS = """
    score_shape = Shape (class_scores)
    classes_count = Gather (score_shape, class_axis)
    class_range = Range (zero_int, classes_count, one_int)
    class_numbers = Unsqueeze (class_range, last_axis)
    cls_row = Transpose <perm = [0, 2, 1]> (cls)
    in_group = Equal (cls_row, class_numbers)
    group_scores = Where (in_group, conf_row, zero)
"""
# It names the kept boxes by (image, group, row). They are written to their rows of a table of zeros, [B, N + max_det,
# 6]. There TopK, which prefers the first of equals, finds those of every image in non_max_suppression()'s order.
SELECTION = """
    kept = NonMaxSuppression (corners, group_scores, max_det, iou_thres, conf_thres)
    kept_place = Gather <axis = 1> (kept, image_and_row)
    float_cls = Cast <to = 1> (cls)
    rows = Concat <axis = 2> (corners, conf, float_cls)
    kept_rows = GatherND (rows, kept_place)
    rows_shape = Shape (rows)
    table_shape = Add (rows_shape, room_for_max_det)
    empty_table = ConstantOfShape (table_shape)
    table = ScatterND (empty_table, kept_place, kept_rows)
    table_conf = Gather <axis = 2> (table, conf_column)
    top_conf, top_row = TopK <axis = 1> (table_conf, max_det)
    top_place = Unsqueeze (top_row, last_axis)
"""
PADDED_BOXES = """
    boxes = GatherND <batch_dims = 1> (table, top_place)
"""
# The one image's boxes without the rows of zeros, as utils.boxes.scale_boxes() maps them back
IMAGE_BOXES = """
    top_rows = GatherND <batch_dims = 1> (table, top_place)
    is_found = Greater (top_conf, zero)
    found_place = NonZero (is_found)
    found_index = Transpose <perm = [1, 0]> (found_place)
    found = GatherND (top_rows, found_index)
    letterboxed, found_conf, found_cls = Split <axis = 1> (found, found_columns)
    shifted = Sub (letterboxed, shift_xyxy)
    scaled = Div (shifted, ratio)
    positive = Max (scaled, zero)
    boxes = Min (positive, limit_xyxy)
    scores = Squeeze (found_conf, last_axis)
    flat_cls = Squeeze (found_cls, last_axis)
    classes = Cast <to = 7> (flat_cls)
"""


def add_nms(model, spec: ExportSpec):
    """Return the onnx.ModelProto `model` with utils.nms.non_max_suppression(multi_label=False) behind it.

    model: gives "output0", float32 [B, N, 5 + nc]: xywh in pixels, objectness, class scores from 0 to 1. B and N may be
        unknown. spec: conf_thres, iou_thres, max_det, agnostic_nms.

    The result gives "boxes", float32 [B, max_det, 6]: xyxy, confidence, class; by falling confidence, then rows of
    zeros. Everything else is kept, the metadata too. ValueError for limits or a model that do not fit.
    """
    batch = _output_dims(model)[0]
    signature = f"nms (float[batch, N, columns] output0) => (float[{batch or 'batch'}, {spec.max_det}, 6] boxes)"
    return joined(model, [model.graph, graph_of_text(signature, _nms_text(spec) + PADDED_BOXES, _nms_constants(spec))])


def add_image_input(model, spec: ExportSpec, metadata: Metadata):
    """Return the onnx.ModelProto `model` as a whole detector: what detect.py does with a .pt file, in one graph.

    model: as for add_nms(), and takes "images", float32 RGB [B, 3, H, W] from 0 to 1, with B, H and W unknown. spec: as
        for add_nms(), and imgsz. metadata: the stride.

    The result takes "image", uint8 RGB [H, W, 3] of any size, and gives, by falling confidence and with n <= max_det,
    "boxes" float32 [n, 4]: xyxy in that image's pixels, not rounded; "scores" float32 [n]; "classes" int64 [n].
    ValueError for limits, an image size or a model that do not fit.
    """
    if any(side % metadata.stride for side in spec.imgsz):
        raise ValueError(f"imgsz: expected multiples of {metadata.stride}, found {list(spec.imgsz)}")
    batch, _, height, width = _dims(model.graph.input[0])
    if batch > 1 or height or width:
        raise ValueError("a file that takes one image of any size needs a graph that does so: export it as dynamic")
    _output_dims(model)
    nms = graph_of_text(
        "nms (float[1, N, columns] output0, float[1] ratio, float[4] shift_xyxy, float[4] limit_xyxy) => "
        "(float[n, 4] boxes, float[n] scores, int64[n] classes)",
        _nms_text(spec) + IMAGE_BOXES,
        _nms_constants(spec),
    )
    letterbox = graph_of_text(onnx_letterbox.SIGNATURE, onnx_letterbox.text(), onnx_letterbox.constants(spec, metadata))
    return joined(model, [letterbox, model.graph, nms])


def _dims(value) -> list:
    """Return the dimensions of a graph's input or output, 0 where they are unknown."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _output_dims(model) -> list:
    """Return those of the model's output; ValueError if they are not [B, N, 5 + nc]."""
    dims = _dims(model.graph.output[0])
    if len(dims) != 3 or 0 < dims[2] < 6:
        raise ValueError(f"NMS needs a model with an output [B, N, 5 + classes], found dimensions {dims}")
    return dims


def _nms_text(spec: ExportSpec) -> str:
    return CANDIDATES + (ONE_GROUP if spec.agnostic_nms else GROUP_PER_CLASS) + SELECTION


def _nms_constants(spec: ExportSpec) -> dict:
    for name in ("conf_thres", "iou_thres"):
        if not 0 <= getattr(spec, name) <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {getattr(spec, name)}")
    if spec.max_det < 1:
        raise ValueError(f"max_det must be at least 1, got {spec.max_det}")
    float32 = {"conf_thres": [spec.conf_thres], "iou_thres": [spec.iou_thres], "two": 2, "zero": 0}
    int64 = {
        "column_0": [0],
        "column_2": [2],
        "column_4": [4],
        "column_5": [5],
        "end": [np.iinfo(np.int64).max],
        "found_columns": [4, 1, 1],
        "class_axis": 2,
        "zero_int": 0,
        "one_int": 1,
        "max_det": [spec.max_det],
        "room_for_max_det": [0, spec.max_det, 0],
        "image_and_row": [0, 2],
        "conf_column": 4,
        "last_axis": [-1],
        "one": [1],
    }
    typed = (float32, np.float32), (int64, np.int64)
    return {name: np.asarray(value, dtype) for values, dtype in typed for name, value in values.items()}


def graph_of_text(signature: str, text: str, constants: dict):
    """Return an onnx.GraphProto of the text; inner values get the graph's name first, so that it can be joined.

    constants: {name: array} of those in the text, and others.
    """
    onnx = require("onnx", "onnx", "ONNX export")
    graph = onnx.parser.parse_graph(f"{signature} {{{text}}}")
    outer = {value.name for value in (*graph.input, *graph.output)} | {""}
    for node in graph.node:
        node.name = f"{graph.name}/{node.output[0]}"
        for names in (node.input, node.output):
            names[:] = [name if name in outer else f"{graph.name}/{name}" for name in names]
    used = {name for node in graph.node for name in node.input}
    for name, value in constants.items():
        if f"{graph.name}/{name}" in used:
            graph.initializer.append(onnx.numpy_helper.from_array(value, f"{graph.name}/{name}"))
    return graph


def joined(model, graphs: list):
    """Return a checked copy of the model whose graph is these graphs in order; equal names are one value."""
    onnx = require("onnx", "onnx", "ONNX export")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        raise ValueError(f"NMS in the graph needs opset {MIN_OPSET} or later, found {opset}")
    joined = graphs[0]
    for graph in graphs[1:]:
        shared = {value.name for value in joined.output} & {value.name for value in graph.input}
        pairs = [(name, name) for name in sorted(shared)]
        joined = onnx.compose.merge_graphs(joined, graph, pairs, name=model.graph.name)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.CopyFrom(joined)
    onnx.checker.check_model(result, full_check=True)
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)
