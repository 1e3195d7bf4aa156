"""The table of hyperparameters, the files in data/hyps, and what a wrong file says."""

import pytest

from engine.hyperparameters import TABLE, clip_to_search_range, default_hyp, load_hyp
from utils.general import ROOT, load_yaml

YOLOV5_KEYS = (
    "lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr "
    "box cls cls_pw obj obj_pw iou_t anchor_t fl_gamma hsv_h hsv_s hsv_v degrees translate scale shear perspective "
    "flipud fliplr mosaic mixup copy_paste"
).split()
FILES = sorted((ROOT / "data" / "hyps").glob("*.yaml"))


def test_table_has_the_28_keys_of_yolov5_and_anchors():
    assert len(YOLOV5_KEYS) == 28
    assert not set(YOLOV5_KEYS + ["anchors"]) - set(TABLE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_loads_and_has_yolov5s_keys(file):
    assert not set(YOLOV5_KEYS) - set(load_yaml(file))
    hyp = load_hyp(file)
    assert list(hyp) == list(TABLE)


def test_the_files_that_users_know_exist():
    names = "scratch-low scratch-med scratch-high no-augmentation VOC Objects365 shapes".split()
    assert {f"hyp.{name}.yaml" for name in names} <= {file.name for file in FILES}


def test_scratch_low_is_the_default():
    assert load_hyp("data/hyps/hyp.scratch-low.yaml") == default_hyp()


def test_a_bare_name_is_found():
    assert load_hyp("hyp.VOC.yaml")["anchors"] == pytest.approx(3.412)


def test_missing_keys_get_defaults():
    assert load_hyp({"lr0": 0.5}) == {**default_hyp(), "lr0": 0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: 0.1", ["hyp.yaml", "'lr'", "did you mean lr"]),  # a typo names the nearest key
        ("lr0: fast", ["hyp.yaml", "lr0", "'fast'"]),  # a value that is no number
        ("lr0: true", ["lr0", "True"]),  # YAML's booleans are ints in Python
        ("lr0: 0", ["lr0", "above 0"]),  # zero where zero makes no sense
        ("degrees: -5", ["degrees", "-5"]),  # negative
        ("mosaic: 1.5", ["mosaic", "at most 1", "1.5"]),  # a probability above one
        ("lr0: .nan", ["lr0", "nan"]),  # not finite
        ("assigner: simotta", ["hyp.yaml", "assigner", "one of ratio, simota, aligned", "'simotta'"]),  # no choice
        ("assigner: 1.0", ["assigner", "one of ratio", "1.0"]),  # a number in the place of a word
        ("assigner: [ratio]", ["assigner", "one of ratio", "['ratio']"]),
        ("box: ciou", ["box", "a number", "'ciou'"]),  # and the other way round
    ],
)
def test_a_wrong_file_names_itself_and_the_key(tmp_path, text, words):
    file = tmp_path / "hyp.yaml"
    file.write_text(text + "\n")
    with pytest.raises(ValueError) as error:
        load_hyp(file)
    assert all(word in str(error.value) for word in words), error.value


def test_search_range_is_kept_and_values_are_short():
    assert clip_to_search_range("lr0", 5.0) == 0.1
    assert clip_to_search_range("lr0", 0.0) == 1e-5
    assert clip_to_search_range("box", 0.123456789) == 0.12346


CHOICES = [key for key, entry in TABLE.items() if entry.choices]


def test_words_are_read_and_never_searched():
    assert CHOICES == ["assigner"]
    assert [default_hyp()[key] for key in CHOICES] == ["ratio"]  # as YOLOv5
    assert load_hyp({"assigner": "aligned"}) == {**default_hyp(), "assigner": "aligned"}
    assert all(TABLE[key].gain == 0 for key in CHOICES)


@pytest.mark.parametrize("key", [key for key in TABLE if key not in CHOICES])
def test_each_default_lies_in_its_search_range(key):
    entry = TABLE[key]
    assert entry.default == 0 or entry.lower <= entry.default <= entry.upper
    assert entry.upper <= entry.limit
