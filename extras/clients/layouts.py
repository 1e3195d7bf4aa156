"""The layouts of a detector's output that other programs read.

Sizes: B images, N rows before NMS, n boxes after it, nc classes, na anchors of each map.
"""

from dataclasses import dataclass

from utils.console.text import did_you_mean

UNITS = {"px": "pixels of the input", "0..1": "fractions of the input's width and height"}


@dataclass(frozen=True)
class Layout:
    """A row of LAYOUTS."""

    name: str  # for --layout
    tensors: str  # what comes out, in words
    formats: tuple[str, ...]
    has_nms: bool = False  # the file holds NMS
    has_boxes: bool = True  # there are boxes, in one of UNITS
    axes: tuple = ((0, "batch"), (1, "boxes"))  # those of each output that --dynamic makes dynamic


BEFORE_NMS = ("onnx", "openvino", "litert", "torchscript")
WITH_NMS = ("onnx", "openvino")

# fmt: off
LAYOUTS = {layout.name: layout for layout in (
    Layout("v5", "[B, N, 5 + nc]: cx, cy, w, h, objectness, class scores", BEFORE_NMS),
    Layout("scored", "as v5, but the class scores are multiplied with objectness, and the best one is in its place",
           BEFORE_NMS),
    Layout("v8", "[B, 4 + nc, N]: cx, cy, w, h, objectness x class scores", BEFORE_NMS,
           axes=((0, "batch"), (2, "boxes"))),
    Layout("rows6", "[B, N, 6]: x1, y1, x2, y2, score, class; before NMS", BEFORE_NMS),
    Layout("heads", "for each map [B, na * (5 + nc), h, w], sigmoid applied; anchors are given outside", BEFORE_NMS,
           has_boxes=False, axes=((0, "batch"), (2, "map_height"), (3, "map_width"))),
    Layout("e2e", "[B, n, 6]: x1, y1, x2, y2, score, class; after NMS, then rows of zeros", WITH_NMS, has_nms=True),
    Layout("flat7", "[n, 7]: image, x1, y1, x2, y2, score, class; after NMS", ("onnx",), has_nms=True),
    Layout("split", "[1, n, 4]: x1, y1, x2, y2; [1, n]: class; [1, n]: score; after NMS", ("onnx",), has_nms=True),
)}
# fmt: on


def find_layout(name: str) -> Layout:
    """Return the row of LAYOUTS; ValueError with the nearest name if there is none."""
    if name not in LAYOUTS:
        raise ValueError(f"--layout {name}: expected one of {', '.join(LAYOUTS)}{did_you_mean(name, LAYOUTS, ' ({})')}")
    return LAYOUTS[name]
