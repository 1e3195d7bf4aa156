"""extras/export/budget.py: what int8 loses on other pictures is bounded, and measured as val.py measures AP."""

from functools import partial

import numpy as np
import pytest

from engine import options
from extras.compare.bootstrap import mean_ap, sample_weights
from extras.compare.matching import match_images, weighted_ap
from extras.compare.records import Evidence
from extras.export.budget import Loss, Measured, loss
from extras.export.exporter import Job
from tests.tiny_detector import write_tiny_weights

BOX = (10, 10, 50, 50)


def measured(is_found) -> Measured:
    """Return the figures of images with an object each, of which some are found, and a false box of low confidence."""
    evidence = Evidence({0: "thing"})
    for i, found in enumerate(is_found):
        false_box = (200, 200, 240, 240, 0.1, 0)
        evidence.add(f"{i}.jpg", [(*BOX, 0.9, 0), false_box] if found else [false_box], [(0, *BOX)])
    images = match_images(evidence)
    _, ap = weighted_ap(images, np.ones((len(images), 1), np.int32))
    return Measured(float(mean_ap(ap)[1][0]), 1.0, images)


@pytest.mark.parametrize("images", [(), [None]])
def test_too_few_images_have_no_margin(images):
    assert loss(Measured(0.5, 1.0, images), Measured(0.45, 1.0, images)) == Loss(pytest.approx(5), pytest.approx(5))


def test_equal_files_lose_nothing():
    same = measured([True, False, True, True])
    assert loss(same, same) == Loss(0, 0)


def test_what_hits_one_picture_of_many_has_a_margin():
    one_lost = loss(measured([True] * 40), measured([True] * 39 + [False]))
    assert one_lost.points == pytest.approx(2.5, abs=0.6) and one_lost.points + 1 < one_lost.at_most < 10


def test_the_bound_holds_for_the_population_in_nine_of_ten_draws(monkeypatch):
    monkeypatch.setattr("extras.compare.bootstrap.sample_weights", partial(sample_weights, resamples=200))
    rng = np.random.default_rng(0)
    found_before = rng.random(2000) < 0.95
    found_after = found_before & (rng.random(2000) < 0.95)
    true_loss = loss(measured(found_before), measured(found_after)).points
    held = []
    for _ in range(80):
        chosen = rng.choice(2000, 60, replace=False)
        held.append(loss(measured(found_before[chosen]), measured(found_after[chosen])).at_most >= true_loss)
    assert 0.82 <= np.mean(held) <= 0.98  # 80 draws scatter by 0.03


def test_images_give_the_ap_of_the_validation(tmp_path, tiny_model_cfg, tiny_dataset):
    weights = write_tiny_weights(tmp_path / "best.pt", tiny_model_cfg)
    job = Job(options.from_kwargs("export", {"weights": weights, "data": str(tiny_dataset), "imgsz": [64]}))
    figures = job.measure(weights)
    _, ap = weighted_ap(figures.images, np.ones((len(figures.images), 1), np.int32))
    assert len(figures.images) == 4 and sum(len(image.predictions) for image in figures.images) > 100
    assert mean_ap(ap)[1][0] == pytest.approx(figures.ap, abs=1e-6)
