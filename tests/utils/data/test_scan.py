"""Files looked into in parallel, in their order, with what is wrong with some of them."""

import logging

import cv2
import numpy as np

from utils.data.scan import MAX_PROBLEMS_LOGGED, Problem, check_size, files_digest, log_problems, map_files


def test_map_files_keeps_the_order():
    assert list(map_files(str, range(100), "numbers", progress=False)) == [str(i) for i in range(100)]
    assert list(map_files(str, [], "nothing", progress=False)) == []


def test_check_size(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 7, 3), np.uint8))
    assert check_size(str(tmp_path / "a.png")) == (7, 4)
    gone = str(tmp_path / "gone.png")
    assert check_size(gone) == Problem(gone, 0, "no such file") and str(check_size(gone)) == f"{gone}: no such file"


def test_the_first_problems_are_logged_and_the_others_counted(caplog):
    with caplog.at_level(logging.WARNING):
        log_problems([Problem("a.txt", 3, "bad")] * (MAX_PROBLEMS_LOGGED + 2), "train: ")
    assert len(caplog.messages) == MAX_PROBLEMS_LOGGED + 1 and caplog.messages[0].endswith("a.txt:3: bad")
    assert "and 2 more" in caplog.messages[-1]


def test_files_digest(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    before = files_digest([a, b])
    assert files_digest([a, b]) == before != files_digest([b, a])
    b.write_text("22")
    changed = files_digest([a, b])
    b.unlink()
    assert len({before, changed, files_digest([a, b]), files_digest([a])}) == 4
