"""compare.py: from two validations to a verdict, as a user runs it."""

import subprocess
import sys

import compare
import val
from tests.conftest import ROOT
from tests.scripts import run_script
from tests.tiny_detector import write_tiny_weights


def command(*args, cwd):
    return run_script("compare.py", *args, cwd=cwd)


def test_two_validations(tmp_path, tiny_model_cfg, tiny_dataset):
    """val.py leaves what compare.py needs; the first difference is that of the two results."""
    results = []
    for seed, name in enumerate("ab"):
        weights = write_tiny_weights(tmp_path / f"{name}.pt", tiny_model_cfg, seed=seed)
        options = {"weights": weights, "data": tiny_dataset, "device": "cpu", "workers": 0}
        results.append(val.run(**options, project=tmp_path / "val", name=name))
    map50, map50_95, *_ = compare.run(tmp_path / "val" / "a", tmp_path / "val" / "b", project=tmp_path / "out")
    for difference, key in ((map50, "map50"), (map50_95, "map")):
        values = [getattr(result, key) for result in results]
        assert abs(difference.baseline - values[0]) < 1e-9 and abs(difference.value - values[1]) < 1e-9
    done = command("val/a", "val/b", "--verbose", "--resamples", 50, "--project", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in (
        "4 images of",
        "val/b against val/a",
        "tiny.yaml, 50 resamples",
        "AP50 gained",
        "disc mAP50-95",
        "another seed",
    ):
        assert text in done.stdout
    assert (tmp_path / "out" / "exp2" / "error_split.png").is_file()


def test_a_users_error_is_one_line(tmp_path):
    done = command("missing", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: missing: no such run folder\n")
    assert command("--resample-count", 5, cwd=tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())


def test_help_needs_no_torch():
    code = "import sys, runpy; sys.argv = ['compare.py', '--help']\n"
    code += "try: runpy.run_path('compare.py', run_name='__main__')\n"
    code += "except SystemExit as done: sys.exit(done.code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--resamples" in done.stdout
