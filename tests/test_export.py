"""export.py as its users start it: a command line and an exit code."""

import os

import pytest

import export
from tests.conftest import ROOT
from tests.scripts import run_script
from tests.tiny_detector import write_tiny_weights


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "best.pt", tiny_model_cfg)


def command(folder, *flags, code: int = 0) -> str:
    """Run export.py in `folder`; assert its exit code, return what it printed."""
    done = run_script("export.py", *flags, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_a_file_and_its_figures(tmp_path, weights):
    output = command(tmp_path, "--weights", weights, "--include", "torchscript")
    assert "boxes within" in output and "0 of" in output and "python detect.py --weights" in output
    assert (tmp_path / "best.torchscript").is_file()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--include", "onx"], 1, "error: --include onx: expected one of torchscript, onnx"),
        (["--include", "saved_model"], 1, "this format is not written here; use litert"),
        (["--weights", "none.pt"], 1, "none.pt"),
        (["--keras"], 2, "--keras does not exist here"),
        (["--nmss"], 2, "did you mean --nms?"),
        (["--include", "torchscript", "--int8", "--data", "tiny.yaml"], 1, "tiny.yaml"),
        (["--half", "--tol", "0", "0"], 1, "the file differs from the PyTorch model"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, weights, flags, code, words):
    assert words in command(tmp_path, "--weights", weights, *flags, code=code)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path, weights):
    weights.parent.chmod(0o500)
    try:
        assert "Permission denied" in command(ROOT, "--weights", weights, code=1)
    finally:
        weights.parent.chmod(0o700)


def test_a_full_or_unwritable_place(tmp_path, weights):
    """A path through a file cannot be written to, whoever asks."""
    (tmp_path / "best.torchscript").mkdir()
    (tmp_path / "best.torchscript" / "holiday.jpg").touch()
    assert "expected an earlier export, found another folder" in command(tmp_path, "--weights", weights, code=1)


def test_run_from_python(tmp_path, weights):
    (result,) = export.run(weights=str(weights), include="torchscript", img=[64, 96])
    assert result.file == tmp_path / "best.torchscript" and result.parity["box_px"] < 0.5
    with pytest.raises(TypeError, match="did you mean include"):
        export.run(includes=["onnx"])
