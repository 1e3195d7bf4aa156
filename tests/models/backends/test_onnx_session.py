"""onnxruntime's sessions: providers, runs that share the threads, and nothing that is told to anybody."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from models.backends.base import ExportSpec
from tests.conftest import ROOT
from tests.models.backends.conftest import written

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from models.backends.onnx import OnnxBackend  # noqa: E402
from models.backends.onnx_session import providers_for  # noqa: E402

PX = (64, 96)


@pytest.fixture
def files(tiny, tmp_path):
    """{whether its batch is free: path} of two files."""
    return {free: written(tiny, tmp_path / f"{free}.onnx", ExportSpec(PX, dynamic=free)) for free in (False, True)}


@pytest.mark.parametrize(
    "script, flags",
    [("detect.py", ["--source", ROOT / "data/images", "--nosave", "--weights"]), ("bench/on_device.py", [])],
)
def test_onnxruntime_keeps_no_number_of_the_machine(files, tmp_path, script, flags):
    """Its telemetry writes one below the home folder as soon as it runs, before it sends anything."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "PATH": ""}
    command = [sys.executable, ROOT / script, *flags, files[False]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()]


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("", [CPU], [CPU]),
        ("cpu", [CUDA, CPU], [CPU]),
        (torch.device("cpu"), [CUDA, CPU], [CPU]),
        ("", [CUDA, CPU], [(CUDA, {"device_id": 0}), CPU]),
        ("1", [CUDA, CPU], [(CUDA, {"device_id": 1}), CPU]),
        (torch.device("cuda", 2), [CUDA, CPU], [(CUDA, {"device_id": 2}), CPU]),
        ("cuda", [CUDA, CPU], [(CUDA, {"device_id": 0}), CPU]),
        ("0", [CPU], None),
        ("cuda:0", [CPU], None),
        ("mps", [CUDA, CPU], None),
        ("0,1", [CUDA, CPU], None),
    ],
)
def test_execution_providers(device, available, expected):
    if expected is None:
        with pytest.raises(ValueError, match=f"--device {device}: .*offers {', '.join(available)}"):
            providers_for(device, available)
    else:
        assert providers_for(device, available) == expected


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, *PX, 3), dtype=np.uint8)


@pytest.mark.parametrize("is_free", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_images_give_what_each_gives_alone(files, images, is_free, threads):
    model = OnnxBackend(files[is_free], "cpu", threads=threads)
    alone = np.concatenate([OnnxBackend(files[is_free], "cpu", threads=1).predict(images[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(model.predict(images), alone)


def test_runs_of_a_batch_share_the_threads(files, images):
    """One picture has all threads, and opens no second session."""
    model = OnnxBackend(files[True], "cpu", threads=2)
    model.predict(images[:1])
    assert "shared_session" not in vars(model.runner)
    model.predict(images)
    threads = [
        session.get_session_options().intra_op_num_threads
        for session in (model.runner.session, model.runner.shared_session)
    ]
    assert threads == [2, 1]


@pytest.mark.parametrize("change", ["replaced", "damaged", "removed"])
def test_a_file_that_changes_meanwhile_is_not_mixed_in(files, images, change):
    """The second session is opened when it is first needed, perhaps long after the first one."""
    file = files[True]
    model, expected = OnnxBackend(file, "cpu", threads=2), OnnxBackend(file, "cpu", threads=1).predict(images)
    if change == "replaced":
        files[False].replace(file)
    elif change == "damaged":
        file.write_bytes(b"x")
    else:
        file.unlink()
    np.testing.assert_array_equal(model.predict(images), expected)
