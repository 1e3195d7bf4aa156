"""Names that DejaVu Sans cannot write: a font of the user's or of the system, or one warning."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from utils.plots import fonts
from utils.plots.charts import plot_confusion_matrix
from utils.plots.pictures import Annotator

CHINESE = "\u732b"  # a cat
CODE = """
import json, logging, sys, warnings
import numpy as np
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("always")
from utils.logger import setup_logging
setup_logging()
from utils.plots.charts import plot_confusion_matrix
from utils.plots.fonts import font_for
from utils.plots.pictures import Annotator
names = sys.argv[2:]
for i in range(2):
    plot_confusion_matrix(np.eye(len(names) + 1), f"{i}.png", names)
    Annotator(np.zeros((64, 64, 3), np.uint8), example=names[0]).box_label([5, 5, 50, 50], names[0])
    Annotator(np.zeros((64, 64, 3), np.uint8), example=str(names)).box_label([5, 5, 50, 50], names[1])
print(json.dumps([str(font_for(name)) for name in names]))
"""


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    """A font file with Latin letters and one Chinese character, all of them a square."""
    builder = pytest.importorskip("fontTools.fontBuilder", reason="needs fonttools, which comes with matplotlib")
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 700), (700, 700), (700, 0)):
        pen.lineTo(point)
    pen.closePath()
    square, characters = pen.glyph(), [*range(32, 127), ord(CHINESE)]
    names = [".notdef", *(f"c{number}" for number in characters)]
    made = builder.FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({number: f"c{number}" for number in characters})
    made.setupGlyf(dict.fromkeys(names, square))
    made.setupHorizontalMetrics(dict.fromkeys(names, (800, 100)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    folder = tmp_path_factory.mktemp("data") / "fonts"
    folder.mkdir()
    made.save(folder / "squares.ttf")
    return folder / "squares.ttf"


def draw(folder, *names, **environment):
    """Return the fonts that a fresh process draws the names with, and what it said."""
    variables = {**os.environ, "MPLCONFIGDIR": str(folder), "XDG_DATA_HOME": str(folder), **environment}
    command = [sys.executable, "-c", CODE, str(ROOT), *names]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr + "\n".join(done.stdout.splitlines()[:-1])


def test_a_font_of_the_system_is_found(tmp_path, font):
    found, said = draw(tmp_path, CHINESE, "cat", XDG_DATA_HOME=str(font.parents[1]))
    assert found[1].endswith("DejaVuSans.ttf") and not found[0].endswith("DejaVuSans.ttf") and not said.strip(), said


def test_a_font_that_the_user_names(tmp_path, font):
    found, said = draw(tmp_path, CHINESE, "cat", YOLOv5_FONT=str(font))
    assert found[0] == str(font) and not said.strip(), said


def test_one_warning_where_no_font_has_them(tmp_path, font):
    korean = "\ud55c"
    _, said = draw(tmp_path, korean, f"cat{korean}", YOLOv5_FONT=str(font))
    assert said.count("WARNING") == 1 and f"squares.ttf lacks the characters '{korean}'" in said, said
    assert "Glyph" not in said


@pytest.mark.parametrize(
    ("content", "error", "words"), [(None, FileNotFoundError, "YOLOv5_FONT: no file"), (b"x", ValueError, "is no font")]
)
def test_a_variable_that_names_no_font(tmp_path, monkeypatch, content, error, words):
    file = tmp_path / "a.ttf"
    if content:
        file.write_bytes(content)
    monkeypatch.setenv(fonts.VARIABLE, str(file))
    fonts._best_font.cache_clear()
    with pytest.raises(error, match=words):
        fonts.font_for(CHINESE)


def test_the_pictures_show_the_character(tmp_path, font, monkeypatch):
    """The square of the test's font, and not the frame of a missing character."""
    monkeypatch.setenv(fonts.VARIABLE, str(font))
    fonts._best_font.cache_clear()
    annotator = Annotator(np.zeros((64, 64, 3), np.uint8), font_size=20, example=CHINESE)
    annotator.text((10, 10), CHINESE)
    filled = annotator.result()[..., 0] > 64
    rows, columns = (np.flatnonzero(filled.any(axis)) for axis in (1, 0))
    assert len(rows) > 8 and len(columns) > 8 and filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    plot_confusion_matrix(np.eye(2), tmp_path / "m.png", [CHINESE])
    assert (tmp_path / "m.png").stat().st_size > 1000
    fonts._best_font.cache_clear()
