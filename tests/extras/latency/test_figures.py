"""extras/latency: written files, times in turns, figures and what cannot be had."""

import json

import numpy as np
import pytest
import yaml

from extras.latency import figures as module
from extras.latency.figures import Figure, Subject, measure_group, prepare, read_figures, write_figures
from extras.latency.files import model_files, source_key, write_file, written_file
from extras.latency.operators import shares
from extras.latency.runtimes import RUNTIMES, find_runtime, reason_to_skip
from extras.latency.timing import is_stable, summarize, time_in_turns
from tests.tiny_detector import FEW_OPERATORS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model file, and a folder for what is written of it."""
    folder = tmp_path_factory.mktemp("latency")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(FEW_OPERATORS))
    return folder / "tiny.yaml", folder


def test_functions_are_called_in_turns():
    order = []
    seconds = time_in_turns([lambda: order.append("a"), lambda: order.append("b")], most_s=0, least_turns=2)
    assert "".join(order) == "aaabbb" + "abab" and [len(own) for own in seconds] == [2, 2]


def test_the_figures_of_times():
    assert summarize([0.001 * n for n in range(1, 12)]) == pytest.approx((6.0, 2.0, 10.0, 11))


@pytest.mark.parametrize(("seconds", "stable"), [([1, 1, 1.01, 1.02], True), ([1, 1, 1.2, 1.2], False)])
def test_when_times_stand_still(seconds, stable):
    assert is_stable(seconds) is stable


def test_a_file_is_written_once_and_timed(tiny):
    cfg, folder = tiny
    files = [written_file(cfg, 64, RUNTIMES["onnx"], folder, 2) for _ in range(2)]
    assert files[0] == files[1] == folder / f"tiny-{source_key(cfg, 2)}" / "tiny-64.onnx"
    ours, broken = folder / "broken.onnx", Subject(folder / "broken.onnx", is_given=True)
    ours.write_bytes(b"no graph")
    entries = [(Subject(cfg), files[0]), (broken, broken.path)]
    (good, bad), (seconds, none) = measure_group(entries, 64, RUNTIMES["onnx"], 1, 0.1, 5)
    assert good.model == "tiny" and good.runs == len(seconds) >= 5 and good.size_mb > 0
    assert 0 < good.low_ms <= good.median_ms <= good.high_ms
    assert bad.median_ms is None and not none and "expected an ONNX file" in bad.note


SLOW = ("openvino-int8", "litert", "litert-int8")


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[pytest.mark.slow] if key in SLOW else []) for key in RUNTIMES if "bf16" not in key]
)
def test_every_runtime_runs_its_file(key, tiny, tmp_path):
    runtime = RUNTIMES[key]
    if reason := reason_to_skip(runtime):
        pytest.skip(reason)
    file = tmp_path / f"tiny-64{runtime.format.suffixes[0]}"
    write_file(tiny[0], 2, 64, runtime, file)
    (figure,), _ = measure_group([(Subject(tiny[0]), file)], 64, runtime, 1, 0.1, 5)
    assert figure.median_ms and not figure.note and figure.precision == runtime.precision


def test_another_model_file_is_another_file(tiny, tmp_path):
    changed = tmp_path / "tiny.yaml"
    changed.write_text(yaml.safe_dump(FEW_OPERATORS | {"width_multiple": 0.5}))
    keys = {source_key(file, nc) for file in (tiny[0], changed) for nc in (2, 80)}
    assert len(keys) == 4


def test_why_there_is_no_file(tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("nc: 1\nbackbone: [[-1, 1, Conw, [8]]]\nhead: []\n")
    file, note = prepare(Subject(wrong), 64, RUNTIMES["torch"], tmp_path, 80)
    assert file is None and note.startswith("cannot be written: ") and "Conw" in note
    given = Subject(tmp_path / "theirs.onnx", is_given=True)
    assert prepare(given, 64, RUNTIMES["ncnn"], tmp_path, 80)[1].endswith("timed in ONNX Runtime alone")
    monkeypatch.setattr(module, "reason_to_skip", lambda runtime: f"needs {runtime.key}")
    assert prepare(given, 64, RUNTIMES["onnx"], tmp_path, 80) == (None, "needs onnx")


def test_bfloat16_needs_a_cpu_that_multiplies_it(monkeypatch):
    answers = {}
    for has in (True, False):
        monkeypatch.setattr("utils.torch_utils.multiplies_bfloat16", lambda has=has: has)
        answers[has] = reason_to_skip(RUNTIMES["openvino-bf16"])
    assert answers[True] == "" and "does not multiply bfloat16" in answers[False]


def test_an_unknown_runtime():
    with pytest.raises(ValueError, match=r"expected one of onnx, .*, found 'onx', did you mean onnx\?"):
        find_runtime("onx")


def test_default_models_are_found_by_looking():
    names = [file.stem for file in model_files()]
    assert {"yolov5_edgevit", "yolov5_edgevit_xs", "yolov5_edgevit_s", "yolov5n", "yolov5s"} <= set(names)
    assert all(file.is_file() for file in model_files())


def test_figures_come_back(tmp_path):
    figures = [Figure("yolov5n", 320, "onnx", 2, "yolov5n-320.onnx", 3.5, 3.0, 4.0, 20), Figure("x", 64, "ncnn", 1)]
    write_figures(tmp_path / "f.json", {"cpu": "any"}, figures)
    assert read_figures(tmp_path / "f.json") == figures
    assert json.loads((tmp_path / "f.json").read_text())["cpu"] == "any"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON file with 'figures'"),
        ('{"figures": 3}', "expected a list of figures, found 3"),
        ('{"figures": [4]}', "figure 0: expected a mapping, found 4"),
        ('{"figures": [{"model": "a", "size_px": "b"}]}', "figure 0: size_px: expected int, found 'b'"),
        (
            '{"figures": [{"model": "a", "size_px": 64, "runtime": "onnx", "threads": 1, "median_ms": -1}]}',
            "median_ms: expected a number above 0, found -1",
        ),
    ],
)
def test_wrong_figures(text, message, tmp_path):
    file = tmp_path / "f.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="f.json: ") as error:
        read_figures(file)
    assert message in str(error.value)


def test_shares_leave_the_first_runs_out():
    def node(ts, name, dur):
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": name}}

    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 9} for ts in (0, 10, 20)]
    events = [*runs, node(1, "Conv", 100), node(11, "Conv", 100), node(21, "Conv", 3), node(25, "Mul", 1)]
    assert shares(events) == {"Conv": 0.75, "Mul": 0.25} and np.isclose(sum(shares(events).values()), 1)
