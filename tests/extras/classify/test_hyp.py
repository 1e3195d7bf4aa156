"""extras/classify/hyp.py: the table, its files in data/hyps/classify, and what a wrong value says."""

import pytest

from extras.classify.hyp import TABLE, load_classify_hyp
from utils.files.yaml import load_yaml
from utils.general import ROOT

FILES = sorted((ROOT / "data" / "hyps" / "classify").glob("*.yaml"))


def test_table_is_sound():
    for key, entry in TABLE.items():
        assert entry.default <= entry.limit and entry.lower <= entry.upper and entry.meaning, key
        assert entry.default == 0 or entry.lower <= entry.default <= entry.upper, key


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_has_every_key(file):
    assert list(load_yaml(file)) == list(TABLE) == list(load_classify_hyp(file))


def test_the_file_of_the_defaults():
    assert load_classify_hyp("hyp.classify.yaml") == load_classify_hyp() == load_classify_hyp({})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"mosaic": 1.0}, "unknown hyperparameter 'mosaic'"),  # a detector's
        ({"mixup": 1.5}, "mixup: expected a number .* at most 1, found 1.5"),
        ({"magnitude": 31}, "magnitude: .* at most 30"),
        ({"crop_scale": "small"}, "crop_scale: expected a number, found 'small'"),
    ],
)
def test_wrong_values_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        load_classify_hyp(values)
