"""Metadata behind a file: written, replaced and read, whatever stands before it."""

import math
import zipfile

import pytest

from models.backends.metadata import Metadata, read_appended, read_member, write_appended

MODEL = b"\x1c\x00\x00\x00TFL3" + bytes(range(256)) * 20


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(MODEL)
    return path


def described(**fields) -> Metadata:
    return Metadata({0: "röd", 1: "box"}, [8.0, 16.0], 32, [64, 96], model={"nc": 2}, **fields)


def test_what_was_written_last_is_read(file):
    assert read_appended(file) is None
    for metadata in (described(parity={"images": 3, "box_px": 0.25}), described(), described(precision="int8")):
        write_appended(file, metadata)
        assert read_appended(file) == metadata
        with zipfile.ZipFile(file) as archive:
            assert archive.namelist() == ["metadata.json"]
        assert file.read_bytes().startswith(MODEL)


def test_the_same_metadata_is_the_same_bytes(file):
    write_appended(file, described())
    first = file.read_bytes()
    write_appended(file, described(version="2"))
    write_appended(file, described())
    assert file.read_bytes() == first


def test_members_are_found_by_the_end_of_their_path(file):
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("temp/meta.txt", "{'stride': 32}")
    assert read_member(file, "meta.txt") == "{'stride': 32}" and read_member(file, "other") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected a mapping"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"names": 3}', "expected names"),
        (b'{"stride": 1000000000000}', "stride: expected a whole number of pixels"),
        (b'{"imgsz": [100000000, 64]}', "imgsz: expected a list of pixels"),
        (b'{"imgsz": ["a", {}]}', "imgsz: expected a list of pixels"),
        (b'{"imgsz": 64}', "imgsz: expected a list of pixels"),
        (b'{"batch": -1}', "batch: expected a whole number"),
        (b'{"output": "code"}', "output: expected raw, boxes or image"),
        (b'{"limits": [1]}', "limits: expected a mapping"),
        (b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}", "not JSON|model: expected a mapping"),
    ],
)
def test_damaged_metadata(file, content, message):
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("metadata.json", content)
    with pytest.raises(ValueError, match=f"a.tflite.*{message}"):
        read_appended(file)


@pytest.mark.parametrize(
    "fields",
    [
        {"names": {math.inf: "a"}},
        {"names": ["a"], "thresholds": {"conf": [10**400]}},
        {"names": ["a"], "batch": math.inf},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_numbers_that_no_field_can_mean(fields):
    with pytest.raises(ValueError, match="^here: "):
        Metadata.from_dict(fields, "here")
