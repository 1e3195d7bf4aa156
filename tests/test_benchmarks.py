"""benchmarks.py: from a checkpoint to the table, as a user runs it."""

import csv
import subprocess
import sys

import pytest

from models.backends import FORMATS
from tests.conftest import ROOT, SHARED, needs_shared
from tests.scripts import run_script
from tests.tiny_detector import write_tiny_weights


def command(*args, cwd):
    return run_script("benchmarks.py", *args, cwd=cwd)


def rows_of(folder) -> dict:
    with open(folder / "benchmarks.csv", newline="") as stream:
        return {row["format"]: row for row in csv.DictReader(stream)}


def test_command_line(tmp_path, tiny_model_cfg, tiny_dataset):
    """From another folder, with paths that are relative to it."""
    write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    flags = ["--weights", "tiny.pt", "--data", tiny_dataset.relative_to(tmp_path), "--project", "out", "--workers", 0]
    done = command(*flags, "--include", "torchscript", "--hard-fail", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("[1/2] PyTorch: measuring tiny.pt", "[2/2] TorchScript: exporting ...", "2 ok, 0 exported"):
        assert text in done.stdout
    rows = rows_of(tmp_path / "out" / "exp")
    assert list(rows) == ["PyTorch", "TorchScript"]
    for row in rows.values():
        assert row["status"] == "ok" and float(row["ms"]) > 0 and float(row["memory_mb"]) > 50
        assert 0 <= float(row["map"]) <= float(row["map50"]) <= 1
    assert float(rows["TorchScript"]["map"]) == pytest.approx(float(rows["PyTorch"]["map"]), abs=1e-3)
    assert float(rows["TorchScript"]["box_px"]) < 0.1 and rows["TorchScript"]["unmatched"] == "0"


def test_help_needs_no_torch():
    code = "import sys, runpy; sys.argv = ['benchmarks.py', '--help']\n"
    code += "try: runpy.run_path('benchmarks.py', run_name='__main__')\n"
    code += "except SystemExit as done: sys.exit(done.code or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--hard-fail" in done.stdout


def test_a_users_error_is_one_line(tmp_path):
    done = command("--weights", "missing.pt", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: missing.pt: no such file\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_shared
def test_all_formats_of_an_official_checkpoint(tmp_path):
    """Every format whose packages are here is written, and those that run here give PyTorch's accuracy."""
    photos = sorted((SHARED / "datasets" / "coco256" / "images" / "val2017").glob("*.jpg"))[:8]
    (tmp_path / "photos.txt").write_text("\n".join(map(str, photos)))
    names = (SHARED / "datasets" / "coco256.yaml").read_text().split("names:")[1]
    (tmp_path / "photos.yaml").write_text(f"path: {tmp_path}\ntrain: photos.txt\nval: photos.txt\nnames:{names}")
    flags = ["--weights", SHARED / "weights" / "yolov5n.pt", "--data", "photos.yaml", "--imgsz", 320]
    done = command(*flags, "--project", "out", "--hard-fail", 0.3, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(tmp_path / "out" / "exp")
    assert len(rows) == len(FORMATS)
    for format in FORMATS:
        row = rows[format.title]
        if format.missing():
            assert row["status"] == "skipped" and format.pip_line in row["note"]
        elif row["status"] == "ok":
            assert float(row["map"]) == pytest.approx(float(rows["PyTorch"]["map"]), abs=2e-3)
        else:
            assert row["status"] in ("exported", "skipped") and format.runs_on
