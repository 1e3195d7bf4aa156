"""comparison.py: what is compared is comparable, the differences are right, and the sentence follows them."""

import logging
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from extras.compare.bootstrap import Interval
from extras.compare.comparison import Difference, align, compare, sentence
from extras.compare.records import Evidence
from tests.utils.test_metrics import random_image
from utils.metrics import DetectionMetrics

NAMES = {0: "box", 1: "disc"}


def write_run(folder: Path, skip=0.0, order=1, n_images=30, names=None, shift=0.0, first_image=0) -> Path:
    """A run folder with evidence of drawn images.

    A share `skip` of the boxes is left out; order -1 goes through the images backwards; shift moves the labels.
    """
    evidence = Evidence(names or NAMES, "data/tiny.yaml")
    for i in range(n_images)[::order]:
        rng = np.random.default_rng(i)
        found, true = random_image(rng, 2, 6, 25)
        found[:, 4] += rng.random(len(found)) / 100  # all different: among equals the order of images would count
        true[:, 1:] += shift
        evidence.add(f"images/{i + first_image:03d}.jpg", found[rng.random(len(found)) >= skip], true)
    folder.mkdir(parents=True)
    evidence.save(folder / "evidence.npz")
    return folder


def options(*runs, **change):
    defaults = {"verbose": False, "resamples": 200, "seed": 0, "name": "exp", "exist_ok": False}
    return Namespace(runs=list(runs), **{**defaults, "project": "runs/compare", **change})


def run(tmp_path, *runs, **change):
    return compare(options(*runs, project=tmp_path / "out", **change))


def expected_map(folder):
    evidence = Evidence.load(folder / "evidence.npz")
    metrics = DetectionMetrics(2)
    for boxes in zip(evidence.predictions, evidence.targets):
        metrics.update(*boxes)
    return metrics.compute()


def test_differences(tmp_path, caplog):
    """Against the metric itself, for all classes and for each; the images of the second run are in another order."""
    caplog.set_level(logging.INFO)
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", skip=0.9, order=-1)
    differences = run(tmp_path, a, b, verbose=True)
    assert [(d.metric, d.cls) for d in differences] == [
        (m, c) for c in ("", "box", "disc") for m in ("mAP50", "mAP50-95")
    ]
    ours, theirs = expected_map(b), expected_map(a)
    values = [(ours.map50, theirs.map50), (ours.map, theirs.map)]
    values += [pair for k in (0, 1) for pair in ((ours.ap50[k], theirs.ap50[k]), (ours.ap[k], theirs.ap[k]))]
    for d, (value, baseline) in zip(differences, values):
        assert (d.value, d.baseline) == pytest.approx((value, baseline), abs=1e-9)
        assert d.change.value == pytest.approx(value - baseline) and d.change.low < d.change.value < d.change.high
        assert d.run == str(b)
    assert not differences[0].is_noise and f"{a} is better" in caplog.text  # 90 % of the boxes are missing
    assert "30 images of data/tiny.yaml, 200 resamples" in caplog.text and "AP50 gained" in caplog.text
    assert caplog.text.count("disc mAP50") == 2


def test_a_pair_is_narrower_than_two_alone(tmp_path):
    """The images are hard for both: the paired interval is narrower than the root of the sum of squares."""
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", skip=0.05)
    (paired, *_), (separate, *_) = run(tmp_path, a, b), run(tmp_path, write_run(tmp_path / "c", skip=1.0), a)
    width, alone = (d.change.high - d.change.low for d in (paired, separate))  # against nothing: that of a alone
    assert width < 0.7 * alone * np.sqrt(2)


def test_equal_runs_do_not_differ(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for d in run(tmp_path, write_run(tmp_path / "a"), write_run(tmp_path / "b", order=-1)):
        assert abs(d.change.value) < 1e-9 and d.p == 1 and d.is_noise
    assert caplog.text.count("No difference is shown") == 2


def test_several_runs_and_curves(tmp_path):
    """Each against the first; what a run folder is called does not matter, and the file itself will do."""
    runs = [write_run(tmp_path / name, skip=skip) for name, skip in (("a", 0), ("b", 0.3), ("c", 0.6))]
    for folder in runs[:2]:
        (folder / "results.csv").write_text("epoch,metrics/mAP_0.5\n0,0.1\n1,0.2\n")
    differences = run(tmp_path, *runs[:2], runs[2] / "evidence.npz")
    assert len(differences) == 2 * 6 and {d.run for d in differences} == {str(runs[1]), str(runs[2] / "evidence.npz")}
    assert {file.name for file in (tmp_path / "out" / "exp").iterdir()} == {"error_split.png", "learning_curves.png"}
    assert run(tmp_path, runs[2]) == []  # one run alone
    assert {file.name for file in (tmp_path / "out" / "exp2").iterdir()} == {"error_split.png"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"names": {0: "box"}}, "other classes: .*a has 2 .box, disc., .*b has 1 .box."),
        ({"names": {0: "box", 1: "ring"}}, "other classes: .*disc.*ring"),
        ({"n_images": 29}, "other images: .*a has 30, .*b has 29, and 1 of them .* such as 029.jpg"),
        ({"first_image": 1}, "other images: .* 2 of them are in one alone, such as 000.jpg"),
        ({"shift": 2.0}, r"other labels: \d+.jpg has not the same ones in"),  # pixels: the labels were edited
    ],
)
def test_what_cannot_be_compared(tmp_path, change, message):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", **change)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, a, b)
    assert not (tmp_path / "out").exists()


def test_wrong_input(tmp_path):
    a = write_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("no archive")
    for runs, error, message in [
        ([], ValueError, "at least one run folder"),
        ([a, tmp_path / "missing"], FileNotFoundError, "missing: no such run folder"),
        ([a, tmp_path / "empty"], FileNotFoundError, "empty: expected evidence.npz in it"),
        ([a, tmp_path / "text.npz"], ValueError, "text.npz: expected an evidence file"),
        ([a, a], ValueError, "one of them twice"),
        ([write_run(tmp_path / "one", n_images=1)], ValueError, "at least 2 images"),
    ]:
        with pytest.raises(error, match=message):
            run(tmp_path, *runs)
    with pytest.raises(ValueError, match="1 resample, found 30 and 0"):
        run(tmp_path, a, resamples=0)


def test_align_keeps_an_image_that_is_listed_twice():
    a, b = Evidence(NAMES), Evidence(NAMES)
    for evidence, names in ((a, "xyx"), (b, "xxy")):
        for name in names:
            evidence.add(name, [], [[0, 0, 0, ord(name), 9]])
    assert align(a, b, "a", "b").images == ["x", "y", "x"]


@pytest.mark.parametrize(
    "change, p, expected",
    [
        (0.02, 0.01, "b is better: the choice of images alone hardly gives +0.020."),
        (-0.02, 0.01, "a is better: the choice of images alone hardly gives -0.020."),
        (0.02, 0.2, "No difference is shown: the choice of images alone may well give +0.020."),
        (np.nan, np.nan, "No difference is shown: the choice of images alone may well give +nan."),
    ],
)
def test_sentence(change, p, expected):
    assert sentence(Difference("b", "mAP50", "", 0.5, 0.5 - change, Interval(change, 0, 0), p), "a") == expected
