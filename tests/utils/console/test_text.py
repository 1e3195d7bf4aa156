"""utils.console.text: suggestions, tables, and bars that keep quiet where there is no terminal."""

import io
import sys

import pytest

from utils.console.text import aligned, counted, did_you_mean, progress_bar


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("epoch", {}, ", did you mean epochs?"),
        ("epoch", {"form": " ({})"}, " (did you mean epochs?)"),
        ("epoc", {"n": 2, "cutoff": 0}, ", did you mean epochs or seed?"),
        ("zzz", {}, ""),  # nothing is like it
        (7, {}, ""),  # a key of a YAML file need not be a text
    ],
)
def test_the_nearest_name(name, options, text):
    assert did_you_mean(name, ["epochs", "seed"], **options) == text


@pytest.mark.parametrize(
    "number, name, text", [(1, "bus", "1 bus"), (2, "bus", "2 buses"), (4, "scissors", "4 scissors")]
)
def test_plurals(number, name, text):
    assert counted(number, name) == text


def test_columns_are_as_wide_as_their_cells():
    assert aligned([("name", "n"), ("a", 10), ("long one", 2)], left=[0]) == "name       n\na         10\nlong one   2"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "stream, show, drawn", [(Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False)]
)
def test_bars_are_drawn_on_terminals_alone(monkeypatch, stream, show, drawn):
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar(range(3), "counting", show)) == [0, 1, 2]
    assert ("counting" in stream.getvalue()) == drawn
