"""What a validation leaves behind and says, and the pictures."""

import logging
import re

import cv2
import numpy as np
import pytest

from extras.compare.charts import plot_error_split, plot_learning_curves
from extras.compare.errors import KINDS
from extras.compare.records import Evidence
from extras.compare.summary import conclude, interval_line
from tests.extras.compare.test_matching import collect, random_images
from utils.plots.charts import read_results

GOOD = ([[0, 0, 9, 9, 0.5, 0]], [[0, 0, 0, 9, 9]])
LINE = r"mAP50 (.{5}) \(95 % interval (.{5}) to (.{5})\), mAP50-95 (.{5}) \((.{5}) to (.{5})\), 300 resamples of 20 im"


@pytest.mark.parametrize(
    "images, found",
    [([GOOD], "1 and 1"), ([], "0 and 0"), ([([], [])] * 3, "3 and 0")],  # one image, none, no targets
)
def test_no_interval(images, found):
    line = interval_line(collect(images, 1))
    assert line == f"no interval of mAP: at least 2 images and 1 target are needed, found {found}"


def test_interval_line():
    matches = collect(random_images(0, 3, 20, 8, 60), 3)
    line = interval_line(matches, resamples=300)
    value50, low50, high50, value, low, high = map(float, re.match(LINE, line).groups())
    assert 0 < low50 < value50 < high50 and 0 < low < value < high < value50
    assert line == interval_line(matches, resamples=300)
    assert interval_line(collect([GOOD] * 2, 1)).startswith("mAP50 1.000 (95 % interval 1.000 to 1.000)")


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("plots", [False, True])
def test_conclude(tmp_path, caplog, verbose, plots):
    caplog.set_level(logging.INFO)
    evidence = Evidence({0: "box"})
    for i in range(3):
        evidence.add(f"{i}.jpg", *GOOD)
    conclude(evidence, tmp_path, verbose, plots)
    assert {file.name for file in tmp_path.iterdir()} == {"evidence.npz", *["error_split.png"] * plots}
    assert "1000 resamples of 3 images" in caplog.text and ("duplicate" in caplog.text) == verbose


def share_of_color(file, rgb):
    return (np.abs(cv2.imread(str(file))[..., ::-1].astype(int) - rgb).max(2) < 12).mean()


def test_error_chart_has_a_colour_for_each_run(tmp_path):
    """Of equal heights, so of equal areas; a name with dollar signs is no formula."""
    gains = {name: dict.fromkeys(KINDS, 0.1) for name in ("a", "b$^$")}
    plot_error_split(gains, tmp_path / "two.png")
    first, second = (share_of_color(tmp_path / "two.png", rgb) for rgb in ((42, 127, 255), (46, 184, 92)))
    assert first > 0.1 and first == pytest.approx(second, rel=0.05)
    plot_error_split({}, tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 1000


def test_learning_curves_over_time_where_it_is_known(tmp_path):
    heading, rows = "epoch,metrics/mAP_0.5,metrics/mAP_0.5:0.95", ["0,0.1,0.05", "1,0.2,nan", "2,0.5,0.3"]
    (tmp_path / "a.csv").write_text("\n".join([heading, *rows]))
    (tmp_path / "b.csv").write_text("\n".join([heading + ",time", *(f"{row},{60 * i}" for i, row in enumerate(rows))]))
    a, b = read_results(tmp_path / "a.csv"), read_results(tmp_path / "b.csv")
    plot_learning_curves({"a": a, "other": a}, tmp_path / "epochs.png")
    plot_learning_curves({"a": a, "b": b}, tmp_path / "both.png")
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("epochs.png", "both.png"))
    assert one.shape[1] == two.shape[1] and two.shape[0] > 1.7 * one.shape[0]  # a second row
    assert share_of_color(tmp_path / "epochs.png", (46, 184, 92)) > 0.001  # the second run is drawn
