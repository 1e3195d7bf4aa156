"""The page on exports says what models/backends and extras/export/parity.py know."""

import re

import pytest

from extras.export.exporter import PARITY_IMAGES
from extras.export.parity import TOLERANCES
from models.backends import FORMATS
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
EXPORTED = [row for row in FORMATS if row.exports]


def table() -> dict[str, tuple[str, ...]]:
    """{title of a column: texts of its cells} of the page's first table, without backticks."""
    lines = re.search(r"^\| format \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)[0].strip().splitlines()
    head, _, *rows = ([cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines)
    return dict(zip(head, zip(*rows)))


def test_formats_and_their_names():
    assert table()["format"] == tuple(row.title for row in EXPORTED)
    assert table()["--include"] == tuple(row.key for row in EXPORTED)
    assert table()["file"] == tuple(f"best{row.suffixes[0]}" for row in EXPORTED)


@pytest.mark.parametrize("number", range(len(EXPORTED)), ids=lambda number: EXPORTED[number].key)
def test_flags_and_extra(number):
    row, flags, extra = EXPORTED[number], table()["flags"][number], table()["pip install"][number]
    assert set(flags.split()) == {f"--{option}" for option in row.options}
    assert extra == (f'".[{row.extra}]"' if row.extra else "")


def test_rule_of_the_comparison():
    text = " ".join(PAGE.split())
    expected = "{:g} px and {:g} in fp32, {:g} px and {:g} with `--half`, {:g} px and {:g} with `--int8`"
    assert expected.format(*(value for kind in TOLERANCES.values() for value in kind[:2])) in text
    assert f"on {PARITY_IMAGES} images of the val split" in text
    assert "on the pictures of `data/images`" in text
