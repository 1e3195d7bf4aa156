"""The folder of a run: what it reads back of its own files when a training goes on."""

import pytest

from engine.task import DETECT
from engine.train.folder import RunFolder


def seconds(folder, content: bytes, epochs: int = 2) -> list[float]:
    run = RunFolder(folder, DETECT)
    run.results_csv.write_bytes(content)
    return run.read_seconds(epochs)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"epoch,time\n0,1.5\n1,3.5\n2,9.0\n", [1.5, 3.5]),
        (b"epoch, time\n0, 1.5\n", [1.5, 1.5]),  # an epoch was lost
        (b"epoch,time\n", [0, 0]),
        (b"epoch\n0\n1\n", [0, 0]),  # of a version without the column
        (b"", [0, 0]),
        (b"\xef\xbb\xbfepoch,time\r\n0,1\r\n1,2\r\n", [1, 2]),  # saved by a table program
    ],
)
def test_seconds_of_a_run_that_goes_on(tmp_path, content, expected):
    assert seconds(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epoch,time\n0,1.5\n1,soon\n", r"results\.csv:3: expected seconds in the column 'time', found 'soon'"),
        (b"epoch,time\n0,nan\n", r"results\.csv:2: expected seconds"),
        (b"epoch,time\n0,1.5\n1\n", r"results\.csv:3: expected seconds"),  # a line that was cut off
        (b"epoch,time\n0,\xff\xfe\n", r"results\.csv:2: expected UTF-8 text, found the byte 0xFF"),
        (b"epoch,time\n0,\x00\n", r"results\.csv: expected text, found zero bytes"),
        (b'epoch,time\n"' + b"x" * 200_000 + b"\n", r"results\.csv:\d: not a table: field larger"),
        (b"epoch,time\n0," + b"x" * 5000 + b"\n", r"results\.csv:2: expected seconds"),
    ],
)
def test_a_broken_table_is_one_line(tmp_path, content, words):
    with pytest.raises(ValueError, match=words) as caught:
        seconds(tmp_path, content)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
