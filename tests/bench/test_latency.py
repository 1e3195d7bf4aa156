"""python -m bench latency: a real run of seconds, its tables and files, and AP against latency."""

import json
import subprocess
import sys

import pytest
import yaml

from bench import accuracy, latency
from bench.accuracy import Run
from extras.latency.figures import Figure, write_figures
from extras.latency.files import source_key
from tests.conftest import ROOT
from tests.tiny_detector import FEW_OPERATORS

QUICK = ["--sizes", "64", "--threads", "1", "--quick", "--nc", "2"]


@pytest.fixture
def cfg(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(FEW_OPERATORS))
    return file


def run(*args):
    return latency.main(latency.parse_opt([*map(str, args), *QUICK]))


def test_a_run_and_one_that_goes_on(tmp_path, cfg, capsys, monkeypatch):
    monkeypatch.setattr("utils.torch_utils.multiplies_bfloat16", lambda: False)
    out = tmp_path / "out"
    assert run("--models", cfg, "--runtimes", "onnx", "--files-only", "--folder", out) == 0
    (file,) = (out / "files" / f"tiny-{source_key(cfg, 2)}").iterdir()
    assert not (out / "latency.json").exists() and file.name == "tiny-64.onnx"
    before = file.stat().st_mtime_ns
    theirs = ["--onnx", str(file), str(tmp_path / "broken.onnx")]
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    assert run("--models", cfg, "--runtimes", "onnx", "openvino-bf16", *theirs, "--folder", out) == 0
    assert file.stat().st_mtime_ns == before
    content = json.loads((out / "latency.json").read_text())
    rows = {(row["model"], row["runtime"]): row for row in content["figures"]}
    assert rows["tiny", "onnx"]["median_ms"] > 0 and rows["tiny-64.onnx", "onnx"]["memory_mb"] > 10
    assert "expected an ONNX file" in rows["broken.onnx", "onnx"]["note"]
    assert "does not multiply bfloat16" in rows["tiny", "openvino-bf16"]["note"]
    assert content["operators"]["tiny, 64 px"]["Conv"] > 0
    page = (out / "latency.md").read_text()
    assert "| tiny | 64 | ONNX Runtime fp32 | 1 | " in page and "Conv " in page
    assert (out / "latency.png").stat().st_size > 1000 and "ONNX Runtime fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sizes", "100"], "expected multiples of 32, found 100"),
        (["--threads", "0"], "expected whole numbers from 1, found 0"),
        (["--onnx", "none.onnx"], "none.onnx: no such file"),
        (["--models", "yolov5q.yaml"], "did you mean yolov5"),
        (["--models", "yolov5n.yaml", "models/yolov5n.yaml"], "two files are called yolov5n"),
    ],
)
def test_wrong_options(args, message, capsys):
    with pytest.raises(SystemExit):
        latency.parse_opt(args)
    assert message in capsys.readouterr().err


def write_run(folder, model, seed, ap, size=64):
    folder.mkdir(parents=True)
    opt = {
        "cfg": f"models/{model}.yaml",
        "imgsz": size,
        "data": f"d/bccd-all-{seed}.yaml",
        "budget": "4m",
        "seed": seed,
    }
    (folder / "opt.yaml").write_text(yaml.safe_dump(opt))
    (folder / "results.csv").write_text(f"epoch,metrics/mAP_0.5,metrics/mAP_0.5:0.95,time\n0,{ap + 0.2},{ap},1\n")
    return folder


def test_ap_against_latency(tmp_path, capsys):
    """Trainings of one model are one row; latencies of another size do not count; nothing is measured anew."""
    runs = [write_run(tmp_path / f"r{seed}", "yolov5n", seed, ap) for seed, ap in enumerate((0.5, 0.6))]
    runs.append(write_run(tmp_path / "other", "yolov5s", 0, 0.7) / "results.csv")
    figures = [Figure("yolov5n", size, "onnx", 1, "", ms, ms, ms, 20) for size, ms in ((64, 4.0), (96, 9.0))]
    found = accuracy.read_runs(runs)
    assert found[0] == Run("yolov5n", 64, "bccd", "4m", 0, 0.7, 0.5)
    first, second = accuracy.joined(found, figures)
    assert first["AP"] == [0.5, 0.6] and first["ms"] == {"ONNX Runtime fp32, 1 thread": 4.0} and second["ms"] == {}
    out = tmp_path / "out"
    out.mkdir()
    write_figures(out / "latency.json", {}, figures)
    assert run("--accuracy", *runs, "--folder", out) == 0
    row = "| yolov5n | 64 | bccd | 4m | 2 | 0.750 | 0.550 (0.500 to 0.600) | 4.0 |"
    assert row in (out / "accuracy.md").read_text() and (out / "accuracy.png").stat().st_size > 1000
    assert not (out / "files").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [("imgsz: wide", "", "opt.yaml: imgsz: expected a whole number of pixels, found 'wide'"),
     ("imgsz: 64", "epoch,metrics/mAP_0.5", "expected a detector's columns, found none called 'metrics/mAP_0.5:0.95'")],
)  # fmt: skip
def test_what_is_no_training(options, columns, message, tmp_path):
    (tmp_path / "opt.yaml").write_text(options)
    (tmp_path / "results.csv").write_text(f"{columns}\n0,0.5\n")
    with pytest.raises(ValueError, match=message):
        accuracy.read_runs([tmp_path])


@pytest.mark.slow
def test_trainings_of_equal_length(tmp_path, cfg, tiny_dataset):
    command = [sys.executable, "-m", "bench", "latency", "--models", str(cfg), "--runtimes", "onnx", *QUICK]
    command += ["--train", str(tiny_dataset), "--budget", "8s", "--seeds", "0", "1", "--folder", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| tiny | 64 | tiny | 8s | 2 |" in (tmp_path / "out" / "accuracy.md").read_text()
