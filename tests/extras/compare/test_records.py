"""evidence.npz: what is written is read again, it stays small, and another file is an error that says so."""

import numpy as np
import pytest

from extras.compare.records import Evidence, below_common_folder

NAMES = {0: "box", 1: "disc"}
FOUND = np.array([[1, 2, 11, 12, 0.3, 1], [0, 0, 5, 5, 0.9, 0]])
TRUE = np.array([[1, 1, 2, 10, 12.5]])


def make_evidence():
    evidence = Evidence(NAMES, "data/tiny.yaml")
    evidence.add("set/a/1.jpg", FOUND, TRUE)
    evidence.add("set/b/1.jpg", [], [])
    return evidence


def test_round_trip(tmp_path):
    make_evidence().save(tmp_path / "evidence.npz")
    read = Evidence.load(tmp_path / "evidence.npz")
    assert (read.names, read.data, read.images) == (NAMES, "data/tiny.yaml", ["a/1.jpg", "b/1.jpg"])
    assert [len(boxes) for boxes in read.predictions + read.targets] == [2, 0, 1, 0]
    np.testing.assert_array_equal(read.predictions[0], FOUND[::-1].astype(np.float32))  # by falling confidence
    np.testing.assert_array_equal(read.targets[0], TRUE.astype(np.float32))
    assert read.predictions[0].dtype == read.targets[0].dtype == np.float32


def test_no_images(tmp_path):
    Evidence(NAMES).save(tmp_path / "evidence.npz")
    read = Evidence.load(tmp_path / "evidence.npz")
    assert (read.images, read.predictions, read.targets) == ([], [], [])


def test_size(tmp_path):
    """300 boxes of noise an image, which no compression shortens: 7.2 kB and a little."""
    evidence, rng = Evidence(NAMES), np.random.default_rng(0)
    for i in range(50):
        evidence.add(f"{i}.jpg", rng.random((300, 6)), rng.random((5, 5)))
    evidence.save(tmp_path / "evidence.npz")
    assert (tmp_path / "evidence.npz").stat().st_size < 50 * 7400 + 3000


@pytest.mark.parametrize(
    "paths, expected",
    [
        ([], []),
        (["/x/set/1.jpg"], ["1.jpg"]),  # one image: its own folder
        (["/x/set/1.jpg", "/x/set/2.jpg"], ["1.jpg", "2.jpg"]),
        (["/y/a/1.jpg", "/y/b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),  # the same name in two folders
        (["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"]),  # no folder
    ],
)
def test_names_do_not_depend_on_where_the_data_are(paths, expected):
    assert below_common_folder(paths) == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 99}, "found version 99"),
        ({"images": None}, "found .*images"),  # an array is missing
        ({"n_targets": np.array([1, 1])}, "expected targets with 5 columns"),  # counts that do not add up
        ({"n_predictions": np.array([2])}, "expected predictions .* each of 2 images"),
        ({"predictions": np.zeros((2, 7))}, "expected predictions with 6 columns.*found .2, 7."),
        ({"targets": np.array([[0, 1, np.nan, 2, 3]])}, "finite"),
        ({"n_targets": np.array([-1, 2])}, "expected targets"),
        ({"class_names": np.array("box")}, "found class_names"),  # a number of dimensions
        ({"images": np.array(["a", None], dtype=object)}, "Object arrays cannot be loaded"),  # would be a pickle
    ],
)
def test_a_wrong_file(tmp_path, change, message):
    file = tmp_path / "evidence.npz"
    make_evidence().save(file)
    arrays = {**np.load(file), **change}
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=f"evidence.npz: .*{message}"):
        Evidence.load(file)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])  # the last: an empty zip
def test_no_such_file(tmp_path, content):
    file = tmp_path / "evidence.npz"
    with pytest.raises(FileNotFoundError, match="evidence.npz: no such file"):
        Evidence.load(file)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="expected an evidence file of val.py"):
        Evidence.load(file)
    make_evidence().save(file)
    file.write_bytes(file.read_bytes()[:-200])  # cut off
    with pytest.raises(ValueError, match="expected an evidence file"):
        Evidence.load(file)
