"""What several tests share: the project root, the optional real data, and a data set of a few drawn images."""

import signal
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets in ../shared")


def write_tiny_dataset(folder: Path, train: int = 8, val: int = 4, size: int = 64, seed: int = 0) -> Path:
    """Draw light rectangles (class 0) and dark discs (class 1) on grey noise; returns the dataset YAML's path."""
    import cv2

    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(100, 140, (size, size, 3), dtype=np.uint8)
            rows = []
            for cls in (0, 1):
                w = int(rng.integers(size // 4, size // 2))
                x, y = (int(v) for v in rng.integers(0, size - w, 2))
                if cls == 0:
                    cv2.rectangle(image, (x, y), (x + w - 1, y + w - 1), (230, 240, 250), -1)
                else:
                    cv2.circle(image, (x + w // 2, y + w // 2), w // 2, (20, 10, 30), -1)
                rows.append(f"{cls} {(x + w / 2) / size:.6f} {(y + w / 2) / size:.6f} {w / size:.6f} {w / size:.6f}")
            cv2.imwrite(str(folder / "images" / split / f"{i:03d}.jpg"), image)
            (folder / "labels" / split / f"{i:03d}.txt").write_text("\n".join(rows) + "\n")
    yaml_file = folder / "tiny.yaml"
    yaml_file.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n  0: box\n  1: disc\n")
    return yaml_file


@pytest.fixture
def tiny_dataset(tmp_path) -> Path:
    """Path of a dataset YAML with 8 training and 4 validation images of 64 x 64 px and two classes."""
    return write_tiny_dataset(tmp_path / "tiny")


@pytest.fixture
def tiny_model_cfg() -> dict:
    """The smallest sensible detector in YOLOv5's YAML format: strides 8 and 16, about 20,000 parameters."""
    return {
        "nc": 2,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "anchors": [[8, 8, 16, 16], [24, 24, 40, 40]],
        "backbone": [
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "Conv", [24, 3, 2]],
            [-1, 1, "C3", [24]],
        ],
        "head": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "SPPF", [32, 5]], [[3, 5], 1, "Detect", ["nc", "anchors"]]],
    }


@pytest.fixture(autouse=True)
def _child_signal():
    """Put back the SIGCHLD handler that torch's data loader leaves behind.

    With torch 2.14 the process crashes when a child ends after it and after an ONNX export with OpenVINO loaded.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
