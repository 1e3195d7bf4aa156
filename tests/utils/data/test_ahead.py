"""Working ahead in threads: order, limits, errors, and an end when the reader stops."""

import threading

import pytest

from utils.data.ahead import map_ahead, prefetch


def test_prefetch_works_ahead_keeps_the_order_and_passes_errors_on():
    made = []

    def items():
        for i in range(6):
            made.append(i)
            yield i
        raise OSError("the disk is gone")

    ahead = prefetch(items(), 2)
    assert next(ahead) == 0
    for _ in range(3):
        next(ahead)
    assert made[:6] == [0, 1, 2, 3, 4, 5][: len(made)] and len(made) >= 4
    assert [next(ahead), next(ahead)] == [4, 5]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert list(prefetch([], 3)) == []


def test_prefetch_stops_when_the_reader_stops():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = prefetch(items(), 2)
    next(ahead)
    ahead.close()
    assert closed.is_set()


def test_map_ahead_keeps_the_order_and_uses_its_threads():
    names, started = set(), []

    def square(i):
        names.add(threading.current_thread().name)
        barrier.wait(timeout=10)  # two items are at work at the same time
        return i * i

    barrier = threading.Barrier(2)
    squares = list(map_ahead(square, range(8), 2, start=lambda: started.append(1)))
    assert squares == [i * i for i in range(8)] and len(names) == 2 and len(started) == 2


def test_map_ahead_takes_no_more_items_than_it_works_on():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_ahead(str, items(), 2)
    assert next(results) == "0" and len(taken) == 3
    results.close()
    assert len(taken) == 3


def test_map_ahead_passes_errors_on_in_their_place():
    results = map_ahead(lambda i: 1 // i, [1, 1, 0, 1], 2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
