"""models/yolo.py --latency: the table of a model file, refused rows, operators that fall back."""

import pytest
import yaml

from extras.latency import describe
from extras.latency.files import write_file
from extras.latency.refusals import executed, litert_fallbacks, refused_rows, row_of
from extras.latency.runtimes import RUNTIMES, reason_to_skip
from models import describe as command
from tests.tiny_detector import FEW_OPERATORS
from utils.general import usable_cores


@pytest.fixture
def cfg(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(FEW_OPERATORS))
    return file


def test_the_command_times_what_is_installed(cfg, monkeypatch, capsys):
    few = {key: RUNTIMES[key] for key in ("onnx", "openvino-bf16", "torch")}
    monkeypatch.setattr(describe, "RUNTIMES", few)
    monkeypatch.setattr(describe, "GROUP_S", 0.1)
    monkeypatch.setattr("utils.torch_utils.multiplies_bfloat16", lambda: False)
    assert command.main(command.parse_opt(["--cfg", str(cfg), "--img", "64", "--latency", "--device", "cpu"])) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines() if line.startswith(("ONNX Runtime fp32  ", "PyTorch fp32  "))]
    counts = [str(count) for count in sorted({1, usable_cores()})]
    assert [row[row.index("fp32") + 1] for row in rows] == counts * 2
    assert all(float(row[row.index("fp32") + 2]) > 0 for row in rows)
    assert "does not multiply bfloat16" in output and "every runtime that is installed takes every layer" in output


@pytest.mark.skipif(bool(reason_to_skip(RUNTIMES["ncnn"])), reason="needs ncnn and pnnx")
def test_a_refused_row_is_named(tmp_path):
    """ncnn has no arrays of six dimensions, which Contract goes through."""
    rows = FEW_OPERATORS["backbone"]
    cfg = tmp_path / "refused.yaml"
    cfg.write_text(yaml.safe_dump(FEW_OPERATORS | {"backbone": [*rows[:2], [-1, 1, "Contract", [2]]]}))
    (line,) = refused_rows(cfg, 2, 64, RUNTIMES["ncnn"])
    assert line.startswith("row 2 Contract: ")


@pytest.mark.skipif(bool(reason_to_skip(RUNTIMES["ncnn"])), reason="needs ncnn and pnnx")
def test_the_command_names_a_refused_row(tmp_path, monkeypatch, capsys):
    """One runtime that refuses the model costs its row of the table, and the exit code where it is the only one."""
    monkeypatch.setattr(describe, "RUNTIMES", {"ncnn": RUNTIMES["ncnn"]})
    rows = FEW_OPERATORS["backbone"]
    cfg = tmp_path / "refused.yaml"
    cfg.write_text(yaml.safe_dump(FEW_OPERATORS | {"backbone": [*rows[:2], [-1, 1, "Contract", [2]]]}))
    assert command.main(command.parse_opt(["--cfg", str(cfg), "--img", "64", "--latency", "--device", "cpu"])) == 1
    output = capsys.readouterr().out
    assert "cannot be written: " in output and "ncnn fp32 refuses row 2 Contract: " in output


@pytest.mark.skipif(bool(reason_to_skip(RUNTIMES["litert"])), reason="needs litert_torch")
def test_operators_that_fall_back(tmp_path):
    """XNNPACK does not take nearest-neighbour resizing."""
    head = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[1, 3], 1, "Detect", ["nc", "anchors"]]]
    cfg = tmp_path / "up.yaml"
    cfg.write_text(yaml.safe_dump(FEW_OPERATORS | {"head": head}))
    write_file(cfg, 2, 64, RUNTIMES["litert"], tmp_path / "up.tflite")
    lines = litert_fallbacks(tmp_path / "up.tflite")
    assert "row 3 Upsample: 1 RESIZE_NEAREST_NEIGHBOR" in lines


def test_only_what_is_run_counts():
    ops = [
        {"index": 0, "op_name": "CONV_2D", "inputs": [0], "outputs": [1]},
        {"index": 1, "op_name": "CAST", "inputs": [1, -1], "outputs": [2]},
        {"index": 2, "op_name": "DELEGATE", "inputs": [0], "outputs": [1]},
    ]
    assert [op["index"] for op in executed(ops, [2])] == [1, 2]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("w.Wrapper/models.yolo.DetectionModel_wrapped/models.heads.Detect_24;69", (24, "Detect")),
        (
            "w/models.yolo.DetectionModel_wrapped/models.backbone.Edgevit.EdgeViT_0/torch.nn.Sequential_b/x",
            (0, "EdgeViT"),
        ),
        ("serving_default_args_0:0", (-1, "")),
    ],
)
def test_the_row_of_a_tensor(name, row):
    assert row_of(name) == row
