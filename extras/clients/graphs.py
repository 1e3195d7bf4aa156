"""Changes to a written ONNX file that the network itself has no part in: what follows NMS, the image's form, names."""

import numpy as np

from extras.clients.layouts import Layout
from models.backends.onnx_graph import graph_of_text, joined

# Behind "boxes" [B, n, 6] of NMS: xyxy px, confidence, class, then rows of zeros
FRACTIONS = """
    boxes_px, others = Split <axis = 2> (boxes, four_and_two)
    boxes_as_fractions = Div (boxes_px, size_xyxy)
    OUT = Concat <axis = 2> (boxes_as_fractions, others)
"""
FLAT7 = """
    score_columns = Gather <axis = 2> (IN, four)
    is_box = Greater (score_columns, zero)
    place_columns = NonZero (is_box)
    places = Transpose <perm = [1, 0]> (place_columns)
    found = GatherND (IN, places)
    image_int = Slice (places, column_0, column_1, last_axis)
    image = Cast <to = 1> (image_int)
    OUT = Concat <axis = 1> (image, found)
"""
SPLIT = """
    location = Gather <axis = 2> (IN, first_four)
    score = Gather <axis = 2> (IN, four)
    category = Gather <axis = 2> (IN, five)
"""
# Before "images", float32 [B, 3, H, W] from 0 to 1
IMAGE_TEXT = {
    "nhwc": "images = Transpose <perm = [0, 3, 1, 2]> (image)",
    "nhwc-uint8": """
        levels = Cast <to = 1> (image)
        fractions = Div (levels, white)
        images = Transpose <perm = [0, 3, 1, 2]> (fractions)
    """,
}


def rearranged(model, layout: Layout, output: str, imgsz_hw: tuple | None):
    """Return the onnx.ModelProto `model`, which ends in NMS, with its boxes in the layout.

    output: the name of its only output. imgsz_hw: for boxes as fractions, None for pixels.
    """
    batch, n = (dim.dim_value or "batch" for dim in model.graph.output[0].type.tensor_type.shape.dim[:2])
    renamed(model, {"output0": "predictions"})  # so that the name is free
    text, source = "", "boxes"
    if imgsz_hw:
        source = "scaled" if layout.name != "e2e" else output
        text += FRACTIONS.replace("OUT", source)
    if layout.name == "flat7":
        text += FLAT7.replace("IN", source).replace("OUT", output)
        results = f"float[found, 7] {output}"
    elif layout.name == "split":
        text += SPLIT.replace("IN", source)
        results = f"float[{batch}, {n}, 4] location, float[{batch}, {n}] category, float[{batch}, {n}] score"
    else:
        results = f"float[{batch}, {n}, 6] {output}"
    if not text:
        return renamed(model, {"boxes": output})
    signature = f"layout (float[{batch}, {n}, 6] boxes) => ({results})"
    return joined(model, [model.graph, graph_of_text(signature, text, _constants(imgsz_hw))])


def _constants(imgsz_hw: tuple | None) -> dict:
    height, width = imgsz_hw or (1, 1)
    int64 = {"four": 4, "five": 5, "column_0": [0], "column_1": [1], "last_axis": [-1]}
    int64 |= {"first_four": [0, 1, 2, 3], "four_and_two": [4, 2]}
    float32 = {"zero": 0, "white": 255, "size_xyxy": [width, height, width, height]}
    typed = (float32, np.float32), (int64, np.int64)
    return {name: np.asarray(value, dtype) for values, dtype in typed for name, value in values.items()}


def with_image(model, kind: str):
    """Return the model with "image", [B, H, W, 3], as its input: float32 from 0 to 1 (nhwc), or uint8 (nhwc-uint8)."""
    batch, _, height, width = (
        dim.dim_value or dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim
    )
    dtype = "uint8" if kind == "nhwc-uint8" else "float"
    signature = f"image ({dtype}[{batch}, {height}, {width}, 3] image) => (float[{batch}, 3, {height}, {width}] images)"
    return joined(model, [graph_of_text(signature, IMAGE_TEXT[kind], _constants(None)), model.graph])


def renamed(model, names: dict[str, str]):
    """Return the model, changed in place: every value that is called as a key is called as that key's value."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    return model
