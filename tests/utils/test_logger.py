"""utils.logger: where messages go, and when they are coloured."""

import io
import logging
import sys

import pytest

from utils.logger import LOGGER, STYLES, colorize, setup_logging


@pytest.fixture
def fresh_logger():
    """LOGGER as it is after an import, restored afterwards."""
    saved = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers[:], LOGGER.propagate = [], True
    LOGGER.setLevel(logging.NOTSET)
    yield LOGGER
    LOGGER.handlers[:], LOGGER.propagate = saved[0], saved[2]
    LOGGER.setLevel(saved[1])


def test_messages_are_lines_on_stdout_with_their_level_if_it_matters(fresh_logger, capsys):
    setup_logging()
    setup_logging()  # a second call adds no second line
    LOGGER.info("epoch %d", 1)
    LOGGER.warning("careful")
    captured = capsys.readouterr()
    assert captured.out == "epoch 1\nWARNING: careful\n" and captured.err == ""


def test_a_replaced_stdout_is_honoured(fresh_logger, monkeypatch):
    setup_logging()
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    LOGGER.info("here")
    assert stream.getvalue() == "here\n"


def test_quiet_lets_errors_through(fresh_logger, capsys):
    setup_logging(verbose=False)
    LOGGER.info("no")
    LOGGER.warning("no")
    LOGGER.error("yes")
    assert capsys.readouterr().out == "ERROR: yes\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stdout, no_color, expected",
    [
        (Terminal(), None, "\033[33mx\033[0m"),
        (Terminal(), "1", "x"),  # the user does not want colours: no-color.org
        (io.StringIO(), None, "x"),  # a file or a pipe
    ],
)
def test_colour(monkeypatch, stdout, no_color, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert colorize("x", "warning") == expected


def test_an_unknown_style_is_an_error(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert all(colorize("x", style).endswith("x\033[0m") for style in STYLES)
    with pytest.raises(KeyError):
        colorize("x", "none")


def test_the_level_is_coloured_on_a_terminal(fresh_logger, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    setup_logging()
    LOGGER.warning("careful")
    LOGGER.error("wrong")
    assert stream.getvalue() == "\033[33mWARNING: \033[0mcareful\n\033[31mERROR: \033[0mwrong\n"
