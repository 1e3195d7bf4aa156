"""Two tiny detectors as ONNX files, and three pictures."""

import cv2
import numpy as np
import pytest

from tests.tiny_detector import write_tiny_weights

TINY = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16], [24, 24, 40, 40]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [24, 3, 2]]],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture(scope="session")
def sizes_wh():
    return [(64, 48), (64, 64), (40, 64)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, sizes_wh):
    """Two ONNX files, a.onnx and b.onnx, and three pictures, 0.png to 2.png."""
    for package in ("onnx", "onnxruntime", "fastapi"):
        pytest.importorskip(package)
    import export

    folder = tmp_path_factory.mktemp("serve")
    for seed, name in enumerate("ab"):
        weights = write_tiny_weights(folder / f"{name}.pt", TINY, seed=seed)
        (result,) = export.run(weights=str(weights), include="onnx", dynamic=True)
        assert result.error == ""
    rng = np.random.default_rng(0)
    for i, size in enumerate(sizes_wh):
        noise = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), size)
        cv2.imwrite(str(folder / f"{i}.png"), noise)
    return folder


@pytest.fixture(scope="session")
def pictures(folder, sizes_wh):
    return [(folder / f"{i}.png").read_bytes() for i in range(len(sizes_wh))]
