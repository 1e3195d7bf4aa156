"""bench busy: the ratio, the loss on an idle machine, and processes that wait as they are told."""

import os

import pytest

from bench.harness import Settings
from bench.rows import busy


def test_the_row_says_ratio_and_loss():
    ours, default = iter([1.0, 1.1, 1.2, 2.0, 2.2, 2.4]), iter([1.0, 1.0, 1.2])
    row = busy.row("x", lambda: next(ours), lambda: next(default), 3)
    assert row.ours == pytest.approx(2.0) and row.reached  # 2.2 / 1.1
    assert row.note == "1,100 ms idle (1.00 of the time with libgomp's own waiting), 2,200 ms"
    slow = iter([1.0, 3.0])
    assert not busy.row("x", lambda: next(slow), lambda: 1.0, 1).reached


def test_a_process_of_each_way_answers_with_seconds():
    with busy.waiter("forward", "yolov5n.yaml", Settings(quick=True), busy.OURS) as ask:
        assert ask() > 0 and ask() > 0


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
def test_the_neighbour_lives_as_long_as_the_block():
    def children() -> set:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return set(file.read().split())

    before = children()
    with busy.busy_neighbour():
        assert len(children() - before) == 1
    assert not children() - before
