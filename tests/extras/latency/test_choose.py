"""train.py --latency: bounds, the rule, the search, figures from elsewhere, and a training of what was chosen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine import options
from extras.latency.choose import chosen_options, parse_latency, search
from extras.latency.figures import Figure, write_figures
from extras.latency.prior import Candidate, ranked
from tests.conftest import ROOT
from tests.tiny_detector import FEW_OPERATORS


@pytest.mark.parametrize(("text", "ms"), [("15ms", 15), ("0.1s", 100), ("15", 15), (7.5, 7.5)])
def test_bounds(text, ms):
    assert parse_latency(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["", "0ms", "fast", "-3ms", "15 m"])
def test_what_is_no_bound(text):
    with pytest.raises(ValueError, match="--latency: expected a time such as 15ms"):
        parse_latency(text)


def test_the_rule():
    """Bigger is better, by model or by image, and an EdgeViT's GFLOPs count a quarter."""
    cfgs = [ROOT / "models" / f"{name}.yaml" for name in ("yolov5_edgevit", "yolov5n", "yolov5s")]
    order = [(c.cfg.stem, c.size_px) for c in ranked(cfgs, [320, 640], 80)]
    assert order[:3] == [("yolov5s", 640), ("yolov5n", 640), ("yolov5s", 320)]
    assert order.index(("yolov5_edgevit", 640)) > order.index(("yolov5n", 640))


SMALL, LARGE = Path("small.yaml"), Path("large.yaml")
CANDIDATES = [Candidate(cfg, size, 1.0, worth) for cfg, size, worth in
              ((LARGE, 640, 4), (LARGE, 320, 3), (SMALL, 640, 2), (SMALL, 320, 1))]  # fmt: skip
TIMES = {(LARGE, 640): 40.0, (LARGE, 320): 10.0, (SMALL, 640): 20.0, (SMALL, 320): 5.0}


@pytest.mark.parametrize(
    ("bound", "best", "asked"),
    [
        (50, 0, {0, 1}),  # the best one, after a look at its smallest size
        (25, 1, {0, 1}),
        (9, 3, {1, 3}),  # a model that is too slow at its smallest size is looked at no further
        (2, None, {1, 3}),
    ],
)
def test_the_first_that_meets_the_bound(bound, best, asked):
    calls = []

    def measure(candidate):
        calls.append(CANDIDATES.index(candidate))
        return TIMES[candidate.cfg, candidate.size_px]

    found, times = search(CANDIDATES, measure, bound)
    assert found == (None if best is None else CANDIDATES[best])
    assert set(calls) - {2} == asked and len(calls) == len(set(calls))
    assert [times[candidate] is not None for candidate in CANDIDATES] == [i in calls for i in range(4)]


def figures_file(folder, *rows):
    write_figures(folder / "device.json", {"cpu": "any"}, [
        Figure(model, size, runtime, threads, "", ms, ms, ms, 20) for model, size, runtime, threads, ms in rows
    ])  # fmt: skip
    return str(folder / "device.json")


def opt_with(**kwargs):
    return options.from_kwargs("train", {"data": "data/shapes.yaml", **kwargs})


ROWS = [
    ("yolov5s", 640, "onnx", 4, 50.0), ("yolov5s", 320, "onnx", 4, 14.0), ("yolov5n", 640, "onnx", 4, 15.0),
    ("yolov5n", 320, "onnx", 4, 6.0), ("yolov5n", 320, "onnx", 1, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "cfg", "size"),
    [
        ({"latency": "60ms"}, "yolov5s", 640),
        ({"latency": "15ms"}, "yolov5n", 640),
        ({"latency": "14ms"}, "yolov5s", 320),
        ({"latency": "15ms", "imgsz": 320}, "yolov5s", 320),
        ({"latency": "10ms", "cfg": "yolov5n.yaml"}, "yolov5n", 320),
    ],
)
def test_a_choice_by_figures_of_another_machine(given, cfg, size, tmp_path, caplog):
    caplog.set_level("INFO")
    opt = opt_with(latency_figures=figures_file(tmp_path, *ROWS), **given)
    chosen = chosen_options(opt)
    assert (Path(chosen.cfg).stem, chosen.imgsz) == (cfg, size)
    assert {**vars(chosen), "cfg": opt.cfg, "imgsz": opt.imgsz} == vars(opt), "nothing else changes"
    assert "chosen" in caplog.text and f"{cfg}.yaml" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latency": "5ms"}, r"nothing meets 5 ms in onnx; the fastest found is yolov5n.yaml at 320 px with 6.00 ms"),
        ({"latency": "5ms", "runtime": "ncnn"}, "expected figures of ncnn, found onnx with 1 threads, onnx with 4"),
        ({"latency": "5ms", "runtime": "onx"}, "did you mean onnx"),
        ({"latency": "5ms", "weights": "best.pt"}, "leave --weights away"),
        ({"latency": "99ms", "cfg": "yolov5m.yaml"}, "no candidate could be measured in onnx"),
    ],
)
def test_what_cannot_be_chosen(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        chosen_options(opt_with(latency_figures=figures_file(tmp_path, *ROWS), **given))


@pytest.mark.parametrize(("bound", "code"), [("10s", 0), ("0.001ms", 1)])
def test_the_choice_is_trained(bound, code, tmp_path, tiny_dataset):
    """A model of the user's, timed here at the size that is given; a bound that nothing meets is one line."""
    cfg = tmp_path / "tiny.yaml"
    cfg.write_text(yaml.safe_dump(FEW_OPERATORS))
    command = [sys.executable, "train.py", "--cfg", str(cfg), "--img", "64", "--latency", bound, "--runtime", "torch"]
    command += ["--data", str(tiny_dataset), "--epochs", "1", "--batch-size", "4", "--noplots", "--workers", "0"]
    command += ["--project", str(tmp_path / "runs"), "--latency-threads", "1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-2000:]
    assert (tmp_path / "runs" / "exp" / "results.csv").is_file() is (code == 0)
    if code:
        last = done.stderr.strip().splitlines()[-1]
        assert "nothing meets 0.001 ms in torch; the fastest found is tiny.yaml at 64 px" in last
    else:
        saved = yaml.safe_load((tmp_path / "runs" / "exp" / "opt.yaml").read_text())
        assert (saved["imgsz"], Path(saved["cfg"]).name, saved["latency"]) == (64, "tiny.yaml", bound)
