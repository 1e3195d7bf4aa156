"""The exported EdgeViT-XXS detector in ONNX Runtime, against the fused model in PyTorch."""

from pathlib import Path

import torch

from bench.harness import Call, Comparison
from bench.rows.backbone import maps_differ
from bench.rows.detector import CFG, fast, random_detector
from engine import options
from extras.export.exporter import export_formats
from models.backends import DetectMultiBackend
from utils.checkpoint import Checkpoint, save_checkpoint

TOLERANCE = 1e-4  # of the largest pixel or score
MARK = 0.70
SAME_WORK = "in PyTorch the same layers take the fast paths of oneDNN, too"


def comparisons(settings) -> list:
    size = 320 if settings.quick else 640
    weights = Path(settings.folder, "edgevit.pt")
    return [
        Comparison(
            what=f"EdgeViT-XXS detector in ONNX Runtime, {size} px",
            reference="PyTorch, fused",
            ours=Call(lambda: predict(exported(weights, size, settings), size)),
            theirs=Call(lambda: predict(eager(), size)),
            differ=lambda ours, theirs: maps_differ(columns(ours), columns(theirs), TOLERANCE),
            mark=MARK,
            why=SAME_WORK,
            with_memory=False,
        )
    ]


def exported(weights: Path, size_px: int, settings) -> DetectMultiBackend:
    file = weights.with_suffix(".onnx")
    if not file.exists():
        model = random_detector()
        stride = [float(s) for s in model.stride]
        save_checkpoint(weights, Checkpoint(model.yaml, model.names, model.nc, stride, model.state_dict()))
        kwargs = {"weights": str(weights), "include": ["onnx"], "imgsz": size_px, "threads": settings.threads}
        (result,) = export_formats(options.from_kwargs("export", kwargs))
        if result.error:
            raise RuntimeError(f"export of {CFG}: {result.error}")
    return DetectMultiBackend(file, "cpu", threads=settings.threads)


def eager():
    model = fast(random_detector())
    return lambda image: model(image)[0]


def predict(model, size_px: int):
    image = torch.rand(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    return torch.inference_mode()(lambda: torch.as_tensor(model(image)))


def columns(boxes) -> list:
    """Compare pixels and scores, each by itself."""
    return [boxes[..., :4], boxes[..., 4:]]
