"""What the tests of the examples share: an exported detector, pictures, and the boxes that detect.py finds in them."""

import json
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

WEIGHTS = ROOT / "weights" / "edgevit_xxs_shapes.pt"
SIZE = (128, 128)
SHAPES = ROOT / "data" / "images" / "shapes"
PICTURES = {name: SHAPES / f"shapes{i}.jpg" for i, name in ((1, "square"), (3, "wide"), (4, "tall"))}


def export_onnx(file: Path, **flags) -> Path:
    """Write the embedded weights as an ONNX file; the flags are ExportSpec's."""
    from models.backends import DetectMultiBackend
    from models.backends.base import ExportSpec
    from models.backends.metadata import Metadata
    from models.backends.onnx import export
    from models.exportable import exportable

    model = exportable(DetectMultiBackend(WEIGHTS, device="cpu").backend.model)
    names = model.names if isinstance(model.names, dict) else dict(enumerate(model.names))
    spec = ExportSpec(SIZE, **flags)
    stride = int(max(model.head.stride))
    metadata = Metadata(names, [], stride, list(SIZE), dynamic=spec.dynamic, output=spec.output)
    export(model, file, spec, metadata)
    return file


def write_yolov5_metadata(source: Path, file: Path) -> Path:
    """A copy of an ONNX file with metadata as YOLOv5's own export writes it: stride and names, as Python literals."""
    import onnx

    model = onnx.load(str(source))
    names = {int(number): name for number, name in json.loads(model.metadata_props[0].value).items()}
    onnx.helper.set_model_props(model, {"stride": "32", "names": str(names)})
    onnx.save(model, str(file))
    return file


@cache
def detected(weights: Path, picture: Path) -> list:
    """detect.py's boxes, by falling confidence: [(name, confidence, (x1, y1, x2, y2) in pixels)]."""
    import detect

    [result] = detect.run(weights=str(weights), source=str(picture), device="cpu", nosave=True)
    return [(result.names[int(row[5])], float(row[4]), tuple(map(float, row[:4]))) for row in result.boxes]


def assert_same_boxes(found: list, expected: list, pixels: float = 1, confidence: float = 1e-2) -> None:
    """Each of `expected` is in `found` once, within `pixels` and `confidence`, and nothing else is.

    Both as detected() gives them.
    """
    assert len(expected) > 1, "a picture without boxes proves nothing"
    left = list(found)
    for name, conf, box in expected:
        near = [
            other
            for other in left
            if other[0] == name
            and abs(other[1] - conf) <= confidence
            and max(abs(a - b) for a, b in zip(other[2], box)) <= pixels
        ]
        assert near, f"{name} {conf:.4f} {box} is not among {left}"
        left.remove(near[0])
    assert not left, f"{left} should not have been found"
