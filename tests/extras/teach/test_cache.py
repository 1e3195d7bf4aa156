"""Records on disk: what is read back, what is not taken for an answer, and a disk without room."""

import json

import numpy as np
import pytest

from extras.teach.cache import TeacherCache, picture_checksum

DTYPE = np.dtype([("boxes", "<f4", (3, 4)), ("scores", "<f2", (3, 2))])


def record(value) -> np.ndarray:
    made = np.zeros((), DTYPE)
    made["boxes"], made["scores"] = value, value / 3
    return made


@pytest.fixture
def cache(tmp_path):
    return TeacherCache(tmp_path / "teacher-cache", {"teacher": "abc"}, DTYPE)


def test_records_come_back_in_any_order(cache, tmp_path):
    entries = [("view0", 5, 11), ("view0", 0, 12), ("view1", 5, 13), ("view0", 2, 0)]
    for view, index, picture in entries:
        cache.write(view, index, picture, record(picture))
    again = TeacherCache(tmp_path / "teacher-cache", {"teacher": "abc"}, DTYPE)  # another process
    for view, index, picture in entries:
        assert again.read(view, index, picture) == record(picture)
    cache.write("view0", 5, 11, record(99))  # the newest counts
    assert again.read("view0", 5, 11) == record(99)
    assert json.loads((cache.folder / "cache.json").read_text())["teacher"] == "abc"


@pytest.mark.parametrize(("view", "index"), [("view9", 0), ("view0", 1), ("view0", 7)])  # no file, a hole, the end
def test_what_was_never_written_is_missing(cache, view, index):
    for i in (0, 3):
        cache.write("view0", i, 0, record(i))
    assert cache.read(view, index, 0) is None


def test_an_answer_about_another_picture_does_not_count(cache):
    cache.write("view0", 0, picture_checksum(np.zeros((3, 8, 8), np.uint8)), record(1))
    changed = np.zeros((3, 8, 8), np.uint8)
    changed[2, 7, 7] = 1
    assert cache.read("view0", 0, picture_checksum(changed)) is None
    assert cache.read("view0", 0, picture_checksum(np.zeros((3, 4, 16), np.uint8))) is None  # equal bytes
    assert cache.read("view0", 0, picture_checksum(np.zeros((3, 8, 8), np.uint8))) == record(1)


@pytest.mark.parametrize("place", [0, 5, 8, -1])  # in the head, in its second number, in the record, its last byte
def test_a_damaged_record_does_not_count(cache, place):
    cache.write("view0", 0, 7, record(1))
    file = cache.folder / "view0.bin"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert cache.read("view0", 0, 7) is None
    file.write_bytes(data[:-3])  # killed while writing
    assert cache.read("view0", 0, 7) is None


@pytest.mark.parametrize(
    ("description", "dtype"),
    [({"teacher": "abd"}, DTYPE), ({"teacher": "abc", "seed": 1}, DTYPE), ({"teacher": "abc"}, DTYPE[["boxes"]])],
)
def test_another_description_is_another_folder(cache, tmp_path, description, dtype):
    cache.write("view0", 0, 7, record(1))
    other = TeacherCache(tmp_path / "teacher-cache", description, np.dtype(dtype))
    assert other.folder != cache.folder and other.read("view0", 0, 7) is None


def test_a_full_disk_is_said_once_and_what_is_there_is_still_read(cache, caplog, full_disk):
    cache.write("view0", 0, 1, record(1))
    full_disk(cache.record_bytes * 2 - 9)
    for i in (1, 2):
        cache.write("view0", i, 1, record(i))
    full_disk(None)
    assert caplog.text.count("cannot write") == 1 and "view0.bin" in caplog.text
    assert cache.read("view0", 0, 1) == record(1)
    assert cache.read("view0", 1, 1) is None


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = TeacherCache(tmp_path / "file", {}, DTYPE)
    cache.write("view0", 0, 1, record(1))
    assert "cannot write" in caplog.text and cache.read("view0", 0, 1) is None


def test_the_size_is_said_before_anything_is_written(cache, caplog):
    caplog.set_level("INFO", "yolov5_edgevit")
    cache.reserve(1000, "answers")
    assert f"answers will take up to 0.1 MB (0.1 kB for each of 1000) in {cache.folder}" in caplog.text
    assert cache.writable and not cache.folder.exists()
    cache.reserve(10**15, "answers")
    assert "nothing more is kept" in caplog.text and not cache.writable
    cache.write("view0", 0, 1, record(1))
    assert not cache.folder.exists()
