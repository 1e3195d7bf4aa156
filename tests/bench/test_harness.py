"""The harness: its arithmetic on known input, refusal of unequal results, what a row and a table say."""

import json
import subprocess
import sys

import pytest

from bench import harness, memory, report
from bench.harness import Call, Comparison, Row, Settings, Unavailable, compare


class Clock:
    """A clock that only moves when a side works."""

    def __init__(self):
        self.now = 0.0

    def read(self):
        return self.now

    def side(self, seconds, output="same", log=None, name=""):
        """A Call that takes these seconds, one after the other and the last one for ever."""
        queue = list(seconds)

        def work():
            self.now += queue.pop(0) if len(queue) > 1 else queue[0]
            if log is not None:
                log.append(name)
            return output

        return Call(lambda: work)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setitem(harness.CLOCKS, "wall", clock.read)
    return clock


def same(ours, theirs):
    return "" if ours == theirs else f"{ours} is not {theirs}"


def test_the_ratio_is_the_median_over_the_pairs(clock):
    # the first call of each side is for its result; then 1/2, 6/3, 3/4
    comparison = Comparison("x", "y", clock.side([9, 1, 6, 3]), clock.side([9, 2, 3, 4]), same, mark=0.8)
    row = compare(comparison, Settings(pairs=3))
    assert row.ratios == [0.5, 2.0, 0.75]
    assert (row.ratio, row.ours, row.theirs) == (0.75, 3000, 3000)
    assert row.reached is True and row.status == "ok"


def test_the_sides_take_turns(clock):
    log = []
    sides = clock.side([1], log=log, name="A"), clock.side([1], log=log, name="B")
    compare(Comparison("x", "y", *sides, same), Settings(pairs=3))
    assert "".join(log) == "AB" + "ABABAB"


def test_a_quick_side_is_called_more_often_and_its_mean_counts(clock):
    log = []
    sides = clock.side([0.05], log=log, name="A"), clock.side([0.5], log=log, name="B")
    row = compare(Comparison("x", "y", *sides, same, per=10), Settings(pairs=1))
    assert "".join(log) == "AB" + "AAAAB"
    assert row.ratio == pytest.approx(0.1)
    assert (row.ours, row.theirs) == (pytest.approx(5), pytest.approx(50))  # ms for one of ten items


def test_unequal_results_are_not_timed(clock):
    log = []
    sides = clock.side([1], "a", log, "A"), clock.side([1], "b", log, "B")
    row = compare(Comparison("x", "y", *sides, same, mark=9.0), Settings(pairs=7), memory=lambda side: 1.0)
    assert row.status == "unequal" and row.note == "not timed: a is not b"
    assert log == ["A", "B"]
    assert (row.ratio, row.ours, row.memory_ratio, row.reached) == (None, None, None, None)


@pytest.mark.parametrize(
    "row, reached",
    [
        (Row("", "y", ratios=[0.5], mark=0.6), True),
        (Row("", "y", ratios=[0.7], mark=0.6), False),
        (Row("", "y", ratios=[0.5], mark=0.6, ours_mb=9, theirs_mb=10, memory_mark=0.8), False),  # memory counts too
        (Row("", "y", ratios=[0.5], ours_mb=7, theirs_mb=10, memory_mark=0.8), True),
        (Row("", "y", ratios=[0.5]), None),  # no mark
        (Row("", "y", mark=0.6), None),  # nothing measured
        (Row("", ours=300, mark=400), True),  # without an opponent the mark is absolute
        (Row("", ours=500, mark=400), False),
    ],
)
def test_marks(row, reached):
    assert row.reached is reached


def test_memory_is_asked_of_both_sides(clock):
    sides = clock.side([1]), clock.side([1])
    megabytes = {"ours": 30.0, "theirs": 40.0}
    row = compare(Comparison("x", "y", *sides, same), Settings(pairs=1), megabytes.get)
    assert row.memory_ratio == 0.75
    row = compare(Comparison("x", "y", *sides, same, with_memory=False), Settings(pairs=1), megabytes.get)
    assert row.memory_ratio is None


@pytest.mark.skipif(not memory.available(), reason="needs Linux's /proc")
def test_peak_memory_of_a_call():
    def hold_64_mb():
        block = bytearray(64 * 2**20)
        block[::4096] = bytes(len(block[::4096]))  # touch every page
        return len(block)

    assert 60 < memory.peak_of_call(hold_64_mb) < 80
    assert memory.peak_of_call(lambda: None) < 8


@pytest.mark.skipif(not memory.available(), reason="needs Linux's /proc")
def test_memory_of_a_command_includes_its_children():
    hold = "import sys; block = b'x' * (64 * 2**20); print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; child.wait()"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", parent], start_new_session=True, **streams) as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        found = memory.processes_of_session(process.pid)
        assert len(found) == 2 and process.pid in found
        assert sum(map(memory.proportional_memory, found)) > 128 * 2**20
        process.stdin.close()


@pytest.mark.skipif(not memory.available(), reason="needs Linux's /proc")
def test_peak_memory_of_a_command_is_some_megabytes():
    assert 1 < memory.peak_of_command([sys.executable, "-c", "import time; time.sleep(0.3)"]) < 100


def test_a_failing_command_tells_its_last_words():
    command = harness.project_command("-c", "import sys; sys.exit('no such thing')")
    with pytest.raises(RuntimeError, match="exit code 1: no such thing"):
        command.start()()


def test_table_and_files(tmp_path):
    rows = [
        Row(
            "fast | thing", "slow thing", ratios=[0.4, 0.5, 0.7], ours=5, theirs=10.0, mark=0.6, ours_mb=1, theirs_mb=2
        ),
        Row("--help", ours=1234.5, mark=2000, note="1 to 2"),
        Row("other", "missing", status="skipped", note="needs x"),
    ]
    report.write(rows, tmp_path, Settings(threads=2, quick=True))
    lines = (tmp_path / "bench.md").read_text().splitlines()
    assert "2 threads" in lines[2] and "QUICK" in lines[2]
    assert lines[-3:] == [
        "| fast \\| thing | slow thing | 0.50 (0.40 to 0.70) | 5 ms | 10 ms | 0.50 (1 / 2 MB) | <= 0.6 | yes |  |",
        "| --help | - | - | 1,234 ms | - | - | <= 2,000 ms | yes | 1 to 2 |",
        "| other | missing | - | - | - | - | - | - | skipped: needs x |",
    ]
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["ratio"] == 0.5
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_the_cpu_clock_moves_with_work():
    before = harness.cpu_seconds()
    sum(i * i for i in range(300_000))
    assert harness.cpu_seconds() > before


def test_unavailable_is_an_error_of_its_own():
    assert not issubclass(Unavailable, (OSError, ValueError))  # no other error may pass as a skipped row
