"""Two tiny detectors as ONNX files, and three pictures."""

import shutil

import cv2
import numpy as np
import pytest

from tests.tiny_detector import FEW_OPERATORS, write_tiny_weights


@pytest.fixture(scope="session")
def sizes_wh():
    return [(64, 48), (64, 64), (40, 64)]


@pytest.fixture(scope="session")
def pictures(sizes_wh):
    """Three PNG files, as bytes."""
    rng = np.random.default_rng(0)
    noises = (cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), size) for size in sizes_wh)
    return [cv2.imencode(".png", noise)[1].tobytes() for noise in noises]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return a function (seed) that gives a tiny detector as best.pt, each in a folder of its own."""
    return lambda seed: write_tiny_weights(tmp_path_factory.mktemp("tiny") / "best.pt", FEW_OPERATORS, seed=seed)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, checkpoint, pictures):
    """Two ONNX files, a.onnx and b.onnx, and the pictures, 0.png to 2.png."""
    for package in ("onnx", "onnxruntime", "fastapi"):
        pytest.importorskip(package)
    import export

    folder = tmp_path_factory.mktemp("serve")
    for seed, name in enumerate("ab"):
        (result,) = export.run(weights=str(checkpoint(seed)), include="onnx", dynamic=True)
        assert result.error == ""
        shutil.move(result.file, folder / f"{name}.onnx")
    for i, picture in enumerate(pictures):
        (folder / f"{i}.png").write_bytes(picture)
    return folder
