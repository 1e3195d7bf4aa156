"""The hyperparameter search: as many trainings as it says, values within bounds, and going on after an interruption."""

import csv

import numpy as np
import pytest
from kill_driver import MODEL

from engine.hyperparameters import TABLE, default_hyp, load_hyp
from engine.options import from_kwargs
from engine.task import DETECT
from extras.evolve.search import child, columns, evolve, read_trials, starting_points
from utils.general import load_yaml


@pytest.fixture
def search(tiny_dataset, tmp_path):
    """Function (**options) -> the run folder of a search whose trainings have one epoch of two batches."""

    def run(**options):
        base = {"cfg": MODEL, "data": str(tiny_dataset), "epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0}
        base.update(noplots=True, project=str(tmp_path / "runs"))
        return evolve(from_kwargs("train", {**base, **options})).save_dir

    return run


def rows(folder) -> list:
    with open(f"{folder}/evolve.csv") as file:
        return list(csv.DictReader(file))


def test_a_search_counts_records_and_goes_on(search, tmp_path, caplog):
    caplog.set_level("INFO", "yolov5_edgevit")
    folder = search(evolve=2, noplots=False)
    assert len(rows(folder)) == 2
    assert list(rows(folder)[0]) == [*columns(DETECT), *TABLE]
    assert "evolve: 2 trainings of 1 epochs" in caplog.text and "took" in caplog.text
    assert {file.name for file in (tmp_path / "runs/exp").iterdir()} == {"evolve.csv", "hyp_evolve.yaml", "evolve.png"}
    assert float(rows(folder)[0]["lr0"]) == default_hyp()["lr0"]  # the first has the given values
    assert rows(folder)[1] != rows(folder)[0]

    before = rows(folder)
    assert search(evolve=4, resume_evolve=f"{folder}/evolve.csv") == folder
    assert rows(folder)[:2] == before and len(rows(folder)) == 4

    best = max(
        rows(folder), key=lambda row: 0.1 * float(row["metrics/mAP_0.5"]) + 0.9 * float(row["metrics/mAP_0.5:0.95"])
    )
    found = load_hyp(f"{folder}/hyp_evolve.yaml")
    assert found == load_yaml(f"{folder}/hyp_evolve.yaml")
    assert found["lr0"] == pytest.approx(float(best["lr0"]))


def test_a_training_that_diverges_counts_as_zero(search):
    folder = search(evolve=1, hyp={"box": 1e39})
    assert float(rows(folder)[0]["metrics/mAP_0.5"]) == 0


def test_starting_points_are_the_given_values_then_the_population(tmp_path):
    (tmp_path / "a.yaml").write_text("lr0: 0.01\n")  # the same as the defaults: not tried twice
    (tmp_path / "b.yaml").write_text("lr0: 0.05\n")
    (tmp_path / "c.yaml").write_text("lr0: 0.06\n")
    options = {"hyp": default_hyp(), "evolve_population": str(tmp_path)}
    found = [point["lr0"] for point in starting_points(from_kwargs("train", {"evolve": 9, **options}))]
    assert found == [0.01, 0.05, 0.06]
    assert len(starting_points(from_kwargs("train", {"evolve": 3, **options}))) == 1  # a third at most
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        starting_points(from_kwargs("train", {"evolve": 3, "hyp": default_hyp(), "evolve_population": "nowhere"}))


def test_children_stay_in_bounds_and_differ_from_their_parents():
    trials = [([0, 0, 0.1 * i, 0.1 * i, 0, 0, 0], {**default_hyp(), "lr0": 0.001 * i}) for i in range(1, 8)]
    for seed in range(200):
        hyp = child(trials, DETECT, np.random.default_rng(seed))
        assert hyp not in [parent for _, parent in trials]
        assert load_hyp(hyp) == hyp
        for key, entry in TABLE.items():
            if entry.gain == 0 or default_hyp()[key] == 0:
                assert hyp[key] == default_hyp()[key]  # fixed, or switched off
            else:
                assert entry.lower <= hyp[key] <= entry.upper
    assert child(trials, DETECT, np.random.default_rng(3)) == child(trials, DETECT, np.random.default_rng(3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", r"evolve.csv:1: expected the columns metrics/precision.*found a, b"),  # another file
        (",".join([*columns(DETECT), *TABLE]) + "\n1,2,3\n", "evolve.csv:2: expected .* values, found 3"),  # cut off
        (",".join([*columns(DETECT), *TABLE]) + "\nx\n", "evolve.csv:2: .*'x'"),  # no number
    ],
)
def test_a_wrong_evolve_csv_names_its_line(tmp_path, text, words):
    (tmp_path / "evolve.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_trials(str(tmp_path / "evolve.csv"))


@pytest.mark.parametrize(
    ("options", "words"), [({"evolve": 0}, "at least 1"), ({"evolve": 2, "resume": True}, "--resume_evolve")]
)
def test_wrong_options(search, options, words):
    with pytest.raises(ValueError, match=words):
        search(**options)
