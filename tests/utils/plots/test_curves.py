"""AP by YOLOv5's recipe and the moving average, by hand. The curves themselves: test_metrics.py."""

import numpy as np
import pytest

from utils.plots.curves import average_precision, smooth


def test_average_precision_by_hand():
    """Precision 1 up to recall 0.5, then 0: the trapezoid between recalls 0.5 and 0.51 adds half a step at most."""
    assert average_precision(np.array([0.25, 0.5]), np.array([1.0, 1.0])) == pytest.approx(
        0.75, abs=0.01
    )  # slope to (1, 0)
    assert average_precision(np.array([0.5, 0.5]), np.array([1.0, 0.5])) == pytest.approx(0.5 + 0.125, abs=0.01)
    assert average_precision(np.array([1.0]), np.array([1.0])) == pytest.approx(1, abs=0.01)


def test_smooth():
    y = np.zeros(1000)
    y[500] = 101
    assert smooth(y, 0.1)[450:551] == pytest.approx(np.ones(101)) and smooth(y, 0.1).sum() == pytest.approx(101)
    assert smooth(np.full(1000, 3.0), 0.1) == pytest.approx(np.full(1000, 3.0))  # the ends too
