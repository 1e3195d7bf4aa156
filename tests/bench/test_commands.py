"""python -m bench: names, processes, what a bench that cannot run leaves behind, environments for opponents."""

import importlib
import subprocess
import sys

import pytest

from bench import BENCHES, worker
from bench import __main__ as bench_main
from bench.environment import can_import, python_with
from bench.harness import Comparison, Row, Settings, Unavailable, project_command


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_has_rows(name):
    module = importlib.import_module(f"bench.rows.{name}")
    assert hasattr(module, "comparisons") or hasattr(module, "measurements")


def test_list_and_unknown_names(capsys):
    assert bench_main.main(bench_main.parse_opt(["--list"])) == 0
    assert capsys.readouterr().out.split()[0] == next(iter(BENCHES))
    with pytest.raises(SystemExit):
        bench_main.parse_opt(["nsm"])
    assert "unknown bench nsm: expected some of backbone, " in capsys.readouterr().err


class Module:
    """A bench with what it is given."""

    def __init__(self, comparisons=(), error=None):
        self.error, self.list = error, list(comparisons)

    def comparisons(self, settings):
        if self.error:
            raise self.error
        return self.list


def prints(text):
    return project_command("-c", f"print({text!r})")


def test_a_row_that_cannot_run_does_not_stop_the_others(capsys, monkeypatch):
    monkeypatch.setattr(worker, "side_memory", lambda *_: None)

    def missing(*_):
        raise Unavailable("needs ../shared/x")

    def broken(*_):
        raise KeyError("y")

    def verdict(ours, theirs):
        return "" if ours == theirs else "they differ"

    comparisons = [
        Comparison("first", "r", prints("a"), prints("a"), missing),
        Comparison("second", "r", prints("a"), prints("a"), broken),
        Comparison("third", "r", prints("a"), prints("b"), verdict),
        Comparison("fourth", "r", prints("a"), prints("a"), verdict),
    ]
    rows = list(worker.all_rows(Module(comparisons), {"bench": "x"}, Settings(pairs=1)))
    assert [row.status for row in rows] == ["skipped", "failed", "unequal", "ok"]
    assert [row.note for row in rows] == ["needs ../shared/x", "KeyError: 'y'", "not timed: they differ", ""]
    assert [bool(row.ratios) for row in rows] == [False, False, False, True]
    assert all(row.bench == "x" for row in rows)
    capsys.readouterr()


@pytest.mark.parametrize(
    "error, status", [(Unavailable("needs ../shared/x"), "skipped"), (ValueError("bad"), "failed")]
)
def test_a_bench_that_cannot_begin_is_a_row(error, status, capsys):
    (row,) = worker.all_rows(Module(error=error), {"bench": "x"}, Settings())
    assert (row.status, str(error) in row.note) == (status, True)
    capsys.readouterr()


@pytest.mark.parametrize("status, code", [("ok", 0), ("skipped", 0), ("unequal", 1), ("failed", 1)])
def test_exit_code(status, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_main, "run", lambda *_: [Row("x", "y", status=status)])
    assert bench_main.main(bench_main.parse_opt(["nms", "--folder", str(tmp_path)])) == code
    capsys.readouterr()


def test_notes_do_not_tell_where_the_project_is():
    from utils.general import ROOT

    assert worker.first_line(OSError(f"{ROOT}/x: no such file\nmore")) == "OSError: ./x: no such file"


def test_this_python_is_taken_where_it_has_the_packages(tmp_path):
    assert python_with(("numpy", "cv2"), tmp_path / "env") == sys.executable
    assert python_with((), tmp_path / "env") == sys.executable
    assert not (tmp_path / "env").exists()


def test_an_environment_of_its_own_sees_the_projects_packages(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing can be downloaded
    with pytest.raises(Unavailable, match="needs no_such_opponent: "):
        python_with(("no_such_opponent",), tmp_path / "env")
    python = str(tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    assert can_import(python, ("numpy",))
    where = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True).stdout
    assert where.strip() == str(tmp_path / "env")
    assert "not into the project's environment" in capsys.readouterr().out
