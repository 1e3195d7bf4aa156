"""examples/cpp, compiled here: the same boxes as detect.py, and exit codes with a line that says what was expected."""

import shutil
import subprocess
from functools import cache

import pytest

from tests.conftest import ROOT
from tests.examples.reference import (
    PICTURES,
    WEIGHTS,
    assert_same_boxes,
    detected,
    export_onnx,
    write_yolov5_metadata,
)

FLAGS = {"raw": {}, "dynamic": {"dynamic": True}, "boxes": {"nms": True}, "image": {"embed": True}}
SQUARE = PICTURES["square"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The built program. ONNXRUNTIME_ROOT in the environment says where ONNX Runtime is, if not in the system."""
    if not (shutil.which("cmake") and (shutil.which("c++") or shutil.which("g++"))):
        pytest.skip("needs cmake and a C++ compiler (Debian: apt-get install cmake g++)")
    folder = tmp_path_factory.mktemp("build")
    configured = run("cmake", "-S", ROOT / "examples" / "cpp", "-B", folder)
    missing = [line.strip() for line in configured.stderr.splitlines() if " is missing: " in line]
    if missing:
        pytest.skip(missing[0])
    assert configured.returncode == 0, configured.stdout + configured.stderr
    built = run("cmake", "--build", folder)
    assert built.returncode == 0 and "warning:" not in built.stderr, built.stdout + built.stderr
    return folder / "detect"


@pytest.fixture(scope="module")
def files(tmp_path_factory, program):
    """A function from a name of FLAGS to the ONNX file that they make."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    return cache(lambda name: export_onnx(folder / f"{name}.onnx", **FLAGS[name]))


def run(*line) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, line)], capture_output=True, text=True, encoding="utf-8", timeout=300)


def boxes(program, model, picture, *limits) -> list:
    """What the program prints, as reference.detected()."""
    done = run(program, model, picture, *limits)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(name, float(conf), tuple(map(float, box))) for _, name, conf, *box in rows]


@pytest.mark.parametrize(
    "model, picture, weights",
    [
        ("raw", "square", WEIGHTS),
        ("raw", "wide", "raw"),  # a fixed size pads more than detect.py does for the .pt file
        ("dynamic", "wide", WEIGHTS),
        ("dynamic", "tall", WEIGHTS),
        ("boxes", "square", WEIGHTS),
        ("image", "square", WEIGHTS),
        ("image", "tall", WEIGHTS),
    ],
)
def test_boxes_are_those_of_detect(program, files, model, picture, weights):
    expected = detected(files(weights) if weights in FLAGS else weights, PICTURES[picture])
    assert_same_boxes(boxes(program, files(model), PICTURES[picture]), expected)


def test_limits(program, files):
    every = boxes(program, files("raw"), SQUARE)
    assert boxes(program, files("raw"), SQUARE, 0.9) == [box for box in every if box[1] > 0.9]
    assert len(boxes(program, files("raw"), SQUARE, 0.25, 1)) > len(every)  # nothing is suppressed


def test_metadata_of_yolov5_is_read(program, files, tmp_path):
    model = write_yolov5_metadata(files("raw"), tmp_path / "yolov5.onnx")
    assert_same_boxes(boxes(program, model, SQUARE), detected(WEIGHTS, SQUARE))


def test_names_may_have_any_letters(program, files, tmp_path):
    import json

    import onnx

    model = onnx.load(str(files("raw")))
    names = {str(i): f'{i}: "Straße\\", 猫 \U0001f600' for i in range(8)}
    onnx.helper.set_model_props(model, {"names": json.dumps(names)})
    onnx.save(model, str(tmp_path / "names.onnx"))
    found = {name for name, _, _ in boxes(program, tmp_path / "names.onnx", SQUARE)}
    assert found and found <= set(names.values())


def test_the_models_own_thresholds_count_where_no_confidence_is_given(program, files, tmp_path):
    import json

    import onnx

    every = boxes(program, files("raw"), SQUARE, 0.25)
    confident = sorted({confidence for _, confidence, _ in every})
    middle = confident[len(confident) // 2]
    thresholds = {"conf": [middle] * 8, "wanted": 'precision "conf": [0.1]', "scores": [0.0, 1.0], "chances": [0, 0.5]}
    model = onnx.load(str(files("raw")))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {"thresholds": json.dumps(thresholds)})
    onnx.save(model, str(tmp_path / "own.onnx"))
    found = boxes(program, tmp_path / "own.onnx", SQUARE)
    assert 0 < len(found) < len(every)
    assert_same_boxes(found, detected(tmp_path / "own.onnx", SQUARE), confidence=1e-3)
    assert boxes(program, tmp_path / "own.onnx", SQUARE, 0.25) == every


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        ((), 2, "usage: detect model.onnx image"),
        (("{model}", SQUARE, "7"), 2, "confidence: expected a number from 0 to 1, found 7"),
        (("{model}", SQUARE, "0.5", "x"), 2, "iou: expected a number from 0 to 1, found x"),
        (("{model}", "none.jpg"), 1, "none.jpg: expected an image"),
        (("{model}", ROOT / "README.md"), 1, "README.md: expected an image"),
        (("none.onnx", SQUARE), 1, "error: none.onnx: "),
        ((ROOT / "README.md", SQUARE), 1, "README.md: "),
    ],
)
def test_errors_are_one_line_and_an_exit_code(program, files, arguments, code, words):
    done = run(program, *(str(argument).format(model=files("raw")) for argument in arguments))
    assert done.returncode == code and words in done.stderr and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
