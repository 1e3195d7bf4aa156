"""Each folder of extras/ can be deleted: the core works without it, and what needs it says so in one line."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, write_tiny_dataset

from tests.scripts import run_script
from utils.extras import EXTRAS, has_extra, load_extra

FOLDERS = sorted(file.parent.name for file in (ROOT / "extras").glob("*/__init__.py"))


def test_every_folder_is_in_the_table_and_is_there():
    assert sorted(EXTRAS) == FOLDERS and all(map(has_extra, FOLDERS))


@pytest.mark.parametrize("names", [["extras"], pytest.param(FOLDERS, marks=pytest.mark.slow)], ids=["all", "each"])
def test_the_core_trains_validates_and_detects_without_them(tmp_path, names):
    """Without all of them at once, and without each."""
    data = write_tiny_dataset(tmp_path / "tiny", train=4, val=4)
    command = [sys.executable, str(ROOT / "tests" / "hidden_extras.py"), str(data), str(tmp_path), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    problems = json.loads(done.stdout.splitlines()[-1])
    assert problems == dict.fromkeys(names, "")


# A command for each extra that the user meets by a flag or a script.
COMMANDS = {
    "budget": "train.py --cfg yolov5n.yaml --data {data} --budget 1m",
    "latency": "train.py --data {data} --latency 15ms",
    "teach": "train.py --cfg yolov5n.yaml --data {data} --teacher {weights}",
    "evolve": "train.py --cfg yolov5n.yaml --data {data} --evolve 1",
    "export": "export.py --weights {weights} --include onnx",
    "clients": "export.py --weights {weights} --for frigate",
    "segment": "segment/train.py --cfg yolov5n-seg.yaml --data {data}",
    "classify": "classify/train.py --model edgevit_xxs --data {data}",
    "compare": "compare.py a b",
    "benchmark": "benchmarks.py --weights {weights}",
    "tile": "detect.py --weights {weights} --tile 640",
    "track": "detect.py --weights {weights} --track",
    "thresholds": "val.py --weights {weights} --data {data} --thresholds --single-cls",
    "serve": "serve.py --weights {weights}",
    "shapes": "train.py --cfg yolov5n.yaml --data shapes.yaml",
}


@pytest.mark.parametrize("folder", COMMANDS)
def test_what_needs_a_missing_extra_says_so_in_one_line(folder, tmp_path):
    data = write_tiny_dataset(tmp_path / "tiny", train=4, val=4)
    weights = ROOT / "weights" / "edgevit_xxs_shapes.pt"
    script, *arguments = COMMANDS[folder].format(data=data, weights=weights).split()
    command = ["tests/hidden_script.py", f"extras.{folder}", ROOT / script, *arguments]
    if script == "train.py" and folder != "shapes":
        command += ["--project", tmp_path / "runs"]
    done = run_script(*command, cwd=tmp_path)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert f"the folder extras/{folder} is not here: it is needed for" in last and "Traceback" not in done.stderr
    with pytest.raises(ImportError, match="no_such"):
        load_extra("budget.no_such")
