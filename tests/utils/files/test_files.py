"""utils/files/__init__.py: text files of a user in any honest encoding, and the reason of every failure."""

import os
import sys

import pytest

from utils.files import open_regular, read_text

TEXT = "é 中\nsecond\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_in_any_encoding_that_says_so(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes(TEXT.replace("\n", "\r\n").encode(encoding))
    assert read_text(file) == TEXT


@pytest.mark.parametrize("order,mark", [("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")])
def test_both_orders_of_utf_16(tmp_path, order, mark):
    (tmp_path / "a.txt").write_bytes(mark + TEXT.encode(order))
    assert read_text(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize(
    "data,message",
    [
        ("a\ncafé\n".encode("latin-1"), r"a\.txt:2: expected UTF-8 text, found the byte 0xE9: save the file as UTF-8"),
        (b"\xff\xfea\0b", "found damaged UTF-16-LE"),
        ("ab".encode("utf-16-le"), "found zero bytes"),
        (b"GIF89a\0\0", "found zero bytes"),
    ],
)
def test_other_encodings_are_named_with_file_and_line(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "a.txt")


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(1 << 40)  # It takes no space.
    with pytest.raises(ValueError, match="at most 1,073,741,824 bytes, found 1,099,511,627,776"):
        read_text(tmp_path / "a.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # Opening it would wait for a writer.
    os.symlink("/dev/zero", tmp_path / "zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device"), ("", "a folder")):
        with pytest.raises(ValueError, match=f"expected a file, found {kind}; it is not opened"):
            open_regular(tmp_path / name)


def test_why_a_file_cannot_be_opened_is_said_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt: no such file"):
        read_text(tmp_path / "none.txt")
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError, match="loop: cannot be read" if sys.platform != "win32" else "loop"):
        read_text(tmp_path / "loop")
