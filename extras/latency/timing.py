"""The time of single inferences: several functions in turns, until their medians stand still."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

WARM_UPS = 3
LEAST_TURNS = 20
STABLE = 0.03  # most that the medians of the first and the second half of the turns may differ by
RANGE = (0.1, 0.9)  # quantiles: other programs disturb single inferences


class Timing(NamedTuple):
    """Milliseconds of one inference: the median, the 10 % and the 90 % quantile; and how many were timed."""

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


def time_in_turns(calls: Sequence[Callable], most_s: float = 20.0, least_turns: int = LEAST_TURNS) -> list[list[float]]:
    """Call the functions A B C A B C ... and return the seconds of every call of each.

    It ends when all are stable, or after `most_s` seconds for all together, but not before `least_turns` turns.
    """
    for call in calls:
        for _ in range(WARM_UPS):
            call()
    seconds: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + most_s
    while len(seconds[0]) < least_turns or (time.perf_counter() < end and not all(map(is_stable, seconds))):
        for call, own in zip(calls, seconds):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return seconds


def is_stable(seconds: list[float]) -> bool:
    """Tell whether both halves of the times have the same median, within STABLE."""
    middle = len(seconds) // 2
    first, second = np.median(seconds[:middle]), np.median(seconds[middle:])
    return bool(abs(first - second) <= STABLE * min(first, second))


def summarize(seconds: Sequence[float]) -> Timing:
    """Return the figures of the times of one function, in seconds."""
    low, median, high = np.quantile(seconds, (RANGE[0], 0.5, RANGE[1])) * 1e3
    return Timing(float(median), float(low), float(high), len(seconds))
