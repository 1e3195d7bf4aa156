"""run.py: what a row says when an export or a runtime works, fails, crashes, hangs, or is not there."""

import csv
import json
import math

import cv2
import numpy as np
import pytest

from engine.options import from_kwargs
from extras.benchmark import run as module
from extras.benchmark import worker as benchmark_task
from extras.benchmark.run import Row, benchmark, chosen_formats, exit_code, plot, table
from models.backends import FORMATS, Format
from tests.tiny_detector import write_tiny_weights

MEASURED = {"map": 0.5, "map50": 0.75, "ms": 12.34, "memory_mb": 200.0, "imgsz": 64, "precision": ""}
PARITY = {"box_px": 1e-4, "score": 2e-6, "unmatched": 0, "images": 4, "boxes": 9}


@pytest.fixture
def options(tmp_path, tiny_model_cfg, tiny_dataset):
    weights = write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    return {"weights": weights, "data": tiny_dataset, "project": tmp_path / "runs", "workers": 0}


class Processes:
    """Stands in for run_process(): the answers by format and task; those of a good file where none is given."""

    def __init__(self, answers):
        self.answers, self.jobs = answers, []

    def __call__(self, command, log, timeout_s):
        job = json.loads(command[-1])
        self.jobs.append(job)
        if answer := self.answers.get((job["format"], job["task"])):
            return answer
        if job["task"] == "measure":
            return dict(MEASURED)
        file = log.parent / f"tiny.{job['format']}"
        file.write_bytes(bytes(2**20))
        return {"file": str(file), "parity": PARITY, "runs_here": True, "error": ""}


@pytest.fixture
def processes(monkeypatch):
    """A function: the answers -> the Processes that give them."""

    def install(answers=()):
        fake = Processes(dict(answers))
        monkeypatch.setattr(module, "run_process", fake)
        monkeypatch.setattr(Format, "missing", lambda self, tools=True: ["tensorrt"] if self.key == "engine" else [])
        return fake

    return install


def by_title(rows) -> dict:
    return {row.format: row for row in rows}


def test_every_format_is_a_row_and_one_failure_is_not_the_end(options, processes):
    fake = processes(
        {
            ("onnx", "export"): {"error": "the process was ended by SIGSEGV"},
            ("openvino", "measure"): {"error": "not done after 9 s"},
            ("coreml", "export"): {"file": str(options["weights"]), "parity": {}, "runs_here": False, "error": ""},
        }
    )
    rows = by_title(benchmark(from_kwargs("benchmarks", options)))
    assert list(rows) == [row.title for row in FORMATS]
    good = rows["LiteRT"]
    assert (good.status, good.map, good.map50, good.ms, good.memory_mb, good.size_mb) == (
        "ok",
        0.5,
        0.75,
        12.34,
        200,
        1,
    )
    assert (good.box_px, good.score, good.unmatched) == (1e-4, 2e-6, 0)
    assert (rows["ONNX"].status, rows["ONNX"].note) == ("failed", "export: the process was ended by SIGSEGV")
    assert (rows["OpenVINO"].status, rows["OpenVINO"].note) == ("failed", "measuring: not done after 9 s")
    assert rows["OpenVINO"].size_mb == 1 and rows["OpenVINO"].map is None
    assert (rows["CoreML"].status, rows["CoreML"].note) == ("exported", "runs on macOS only")
    assert rows["TensorRT"].status == "skipped" and 'pip install ".[tensorrt]"' in rows["TensorRT"].note
    tasks = [(job["format"], job["task"]) for job in fake.jobs]
    assert tasks[:3] == [("pt", "measure"), ("torchscript", "export"), ("torchscript", "measure")]
    assert {job["imgsz"] for job in fake.jobs[1:]} == {64}  # the checkpoint's, for all


def test_what_is_written(options, processes, tmp_path, caplog):
    processes()
    caplog.set_level("INFO")
    rows = benchmark(from_kwargs("benchmarks", options))
    folder = tmp_path / "runs" / "exp"
    with open(folder / "benchmarks.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["format"] for line in lines] == [row.format for row in rows]
    assert lines[1]["map"] == "0.5" and lines[-1]["map"] == "" and lines[-1]["status"] == "skipped"
    assert cv2.imread(str(folder / "benchmarks.png")).std() > 1
    assert (folder / "tiny.pt").read_bytes() == options["weights"].read_bytes()
    assert sorted(file.name for file in tmp_path.glob("tiny.*")) == ["tiny.pt"]  # nothing beside the checkpoint
    for text in ("[2/9] TorchScript: exporting ...", "mAP50-95 0.5000, 12.3 ms/image, 200 MB", "1 skipped, 0 failed"):
        assert text in caplog.text


def test_the_table_is_aligned():
    rows = [Row("PyTorch", "ok", "fp32", 9.47, 0.4418, 0.7696, 58.9, 615), Row("ONNX", "failed", "fp32", note="why")]
    title, first, second = table(rows).splitlines()
    assert first.split() == ["PyTorch", "fp32", "9.5", "0.4418", "0.7696", "58.9", "615", "-", "-", "-", "ok"]
    assert second.split() == ["ONNX", "fp32", *"-" * 8, "failed", "why"]
    for name in ("mAP50-95", "ms/image", "memory MB"):
        end = title.index(name) + len(name)
        assert first[end - 1].isdigit() and second[end - 1] == "-" and first[end] == second[end] == " "
    assert title.index("status") == first.index("ok") == second.index("failed")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pt_only": True}, ["pt"]),
        ({"include": ["tflite", "onnx", "litert"]}, ["pt", "litert", "onnx"]),
        ({"include": ["onnx"], "test": True}, ["onnx"]),
        ({}, [row.key for row in FORMATS]),
    ],
)
def test_chosen_formats(given, expected):
    assert [row.key for row in chosen_formats(from_kwargs("benchmarks", given))] == expected


def test_only_the_exports(options, processes):
    fake = processes()
    (row,) = benchmark(from_kwargs("benchmarks", {**options, "include": ["onnx"], "test": True}))
    assert row.status == "exported" and row.size_mb == 1 and [job["task"] for job in fake.jobs] == ["export"]


@pytest.mark.parametrize(
    ("flag", "precision", "skipped"),
    [("half", "fp16", {"ExecuTorch"}), ("int8", "int8", {"TorchScript", "ExecuTorch"})],
)
def test_a_precision_that_a_format_does_not_have(options, processes, flag, precision, skipped):
    processes()
    rows = benchmark(from_kwargs("benchmarks", {**options, flag: True}))
    assert skipped <= {row.format for row in rows if row.note == f"has no --{flag}"}
    assert {row.precision for row in rows if row.status == "ok"} == {"fp32", precision}  # PyTorch stays


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"include": ["onxx"]}, ValueError, "did you mean onnx"),
        ({"weights": "a.onnx"}, ValueError, "expected a checkpoint"),
        ({"weights": "missing.pt"}, FileNotFoundError, "missing.pt"),
        ({"weights": ["a.pt", "b.pt"]}, ValueError, "found 2"),
        ({"data": "missing.yaml"}, FileNotFoundError, "missing.yaml"),
        ({"half": True, "int8": True}, ValueError, "exclude each other"),
        ({"pt_only": True, "test": True}, ValueError, "exclude each other"),
        ({"batch_size": 0}, ValueError, "--batch-size"),
    ],
)
def test_bad_options(options, processes, tmp_path, change, error, words):
    processes()
    with pytest.raises(error, match=words):
        benchmark(from_kwargs("benchmarks", {**options, **change}))
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_that_cannot_be_measured_ends_the_run(options, processes):
    processes({("pt", "measure"): {"error": "tiny.pt has 2 classes, data has 3"}})
    with pytest.raises(ValueError, match="tiny.pt has 2 classes"):
        benchmark(from_kwargs("benchmarks", options))


@pytest.mark.parametrize(
    ("hard_fail", "include", "rows", "expected"),
    [
        (None, None, [Row("A", "failed")], 0),
        (0.0, None, [Row("A", map=0.1), Row("B", "skipped"), Row("C", "exported")], 0),
        (0.0, None, [Row("A", "failed")], 1),
        (True, None, [Row("A", "failed")], 1),
        (True, None, [Row("A", map=0.1)], 0),
        (0.0, ["b"], [Row("B", "skipped")], 1),
        (0.3, None, [Row("A", map=0.31), Row("B", map=0.3)], 0),
        (0.3, None, [Row("A", map=0.31), Row("B", map=0.29)], 1),
        (0.3, None, [Row("A", map=math.nan)], 1),
    ],
)
def test_hard_fail(hard_fail, include, rows, expected):
    opt = from_kwargs("benchmarks", {"hard_fail": hard_fail, "include": include})
    assert exit_code(rows, opt) == expected


@pytest.mark.parametrize(("images", "batch", "expected"), [(4, 1, 4), (4, 2, 2), (4, 6, 1)])
def test_pictures_fill_whole_batches(tiny_dataset, images, batch, expected):
    batches = benchmark_task.pictures(tiny_dataset, 96, batch)
    assert len(batches) == expected
    assert all(pictures.shape == (batch, 96, 96, 3) and pictures.dtype == np.uint8 for pictures in batches)


def test_milliseconds_are_for_one_image_and_without_the_first_passes():
    import time

    class Slow:
        device, passes = "cpu", 0

        def predict(self, images):
            self.passes += 1
            time.sleep(0.2 if self.passes <= benchmark_task.WARMUP_PASSES else 0.02)

    assert 10 <= benchmark_task.milliseconds(Slow(), [np.zeros((2, 8, 8, 3))] * 5) < 40


def test_names_in_the_chart_do_not_hide_each_other(tmp_path, monkeypatch):
    """Nine formats of nearly the same accuracy and time."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    rows = [Row(f"Format{i}", precision="fp32", map=0.5 - i / 2000, ms=20 + i / 10) for i in range(9)]
    plot(rows, tmp_path / "x.png", "a $ b")
    (figure,) = drawn
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.legends[0].get_texts()]
    assert len(boxes) == 9
    for i, box in enumerate(boxes):
        assert not box.overlaps(figure.axes[0].get_window_extent()) and figure.bbox.contains(*box.max)
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
