"""Quiet: for Python, for C++ and for subprocesses, and nothing is lost afterwards."""

import os
import sys

import pytest

from models.backends.quiet import quiet


def say(text):
    print(text)
    print(text, file=sys.stderr)
    os.write(1, text.encode())
    os.write(2, text.encode())


@pytest.mark.parametrize("shown", [False, True])
def test_quiet(capfd, shown):
    say("before ")
    with quiet(shown):
        say("within ")
    say("after ")
    for text in capfd.readouterr():
        assert text.count("before") == text.count("after") == 2
        assert text.count("within") == (2 if shown else 0)


def test_an_error_comes_through_and_output_is_back(capfd):
    with pytest.raises(ValueError, match="broken"), quiet():
        raise ValueError("broken")
    say("after ")
    assert capfd.readouterr().out.count("after") == 2
