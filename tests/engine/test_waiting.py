"""How threads wait for each other is said before torch is loaded, by scripts alone, and never against the user."""

import json
import os
import subprocess
import sys

import pytest

from bench.rows.busy import busy_neighbour
from engine import options
from tests.conftest import ROOT

AT_TORCH = """
import json, os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(json.dumps({key: os.environ.get(key) for key in WAITING}), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.path.insert(0, ROOT)
sys.argv = [SCRIPT]
runpy.run_path(f"{ROOT}/{SCRIPT}", run_name="__main__")
"""
CHOSEN = {"GOMP_SPINCOUNT": options.SPINS}


def at_torch(script: str, given: dict) -> dict:
    """Return the variables that are set when a script imports torch."""
    environment = {key: value for key, value in os.environ.items() if key not in options.WAITING}
    names = {"WAITING": options.WAITING, "ROOT": str(ROOT), "SCRIPT": script}
    code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + AT_TORCH
    done = subprocess.run([sys.executable, "-c", code], env={**environment, **given}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {key: value for key, value in json.loads(done.stdout.splitlines()[-1]).items() if value is not None}


@pytest.mark.parametrize("script", ["val.py", "detect.py", "benchmarks.py", "export.py", "serve.py"])
def test_a_script_chooses_before_torch_is_loaded(script):
    assert at_torch(script, {}) == CHOSEN


@pytest.mark.parametrize("script", ["train.py", "segment/train.py"])
def test_a_training_chooses_beside_a_busy_process(script):
    """Sleeping would cost it half of its speed on an idle machine, which a test cannot ask for."""
    with busy_neighbour(), busy_neighbour():
        assert at_torch(script, {}) == CHOSEN


@pytest.mark.parametrize("name", options.PARSERS)
def test_what_trains_is_known(name):
    assert (name in options.TRAININGS) == (name.endswith("train"))


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}])
def test_what_the_user_has_set_stays(given):
    assert at_torch("train.py", given) == given


@pytest.mark.parametrize("call", ["import train, val, detect, hubconf", "import train; train.parse_opt([])"])
def test_importing_chooses_nothing(call):
    environment = {key: value for key, value in os.environ.items() if key not in options.WAITING}
    code = f"import os; before = dict(os.environ); {call}; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
