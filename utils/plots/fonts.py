"""Fonts that have the characters of class names: matplotlib's own, one that the user names, or one of the system's."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from utils.console.text import brief
from utils.logger import LOGGER

VARIABLE = "YOLOv5_FONT"  # environment variable: a .ttf, .otf or .ttc file for characters that DejaVu Sans lacks
_told: list[str] = []  # the characters of the one warning


@cache
def default_font() -> Path:
    """Return DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more, but not CJK."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def font_for(text: str) -> Path:
    """Return a font file for `text`: DejaVu Sans where it has all characters, else the one that has most of them.

    $YOLOv5_FONT comes before the system's fonts. What no font has is warned of once. FileNotFoundError or ValueError
    where the variable names no font.
    """
    needed = frozenset(ord(character) for character in text if character.isprintable() and not character.isspace())
    return default_font() if needed <= _characters(default_font()) else _best_font(needed)


@cache
def _best_font(needed: frozenset[int]) -> Path:
    import matplotlib.font_manager

    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_file():
        raise FileNotFoundError(f"{VARIABLE}: no file {named}, expected a .ttf, .otf or .ttc font")
    if named and not _characters(Path(named)):
        raise ValueError(f"{VARIABLE}: {named} is no font that can be read")
    files = [Path(named)] if named else sorted(map(Path, matplotlib.font_manager.findSystemFonts()))
    best = max([default_font(), *files], key=lambda file: len(needed & _characters(file)))
    lacking = "".join(map(chr, sorted(needed - _characters(best))))
    if lacking and not _told:
        _told.append(lacking)
        where = f"{VARIABLE}: {named}" if named else "this system has no font that"
        LOGGER.warning(
            f"{where} {'lacks' if named else 'has'} the characters {brief(lacking)}: pictures show empty boxes. "
            f"Install such a font (Debian's fonts-noto-cjk has most), or name a file by {VARIABLE}"
        )
    return best


@cache
def _characters(font: Path) -> frozenset[int]:
    """Return the code points that a font file has; none for a file that is no font."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(font)).get_charmap())
    except (RuntimeError, OSError):  # as FreeType reports what it cannot read
        return frozenset()


@contextmanager
def fitting_fonts(figure) -> Iterator[None]:
    """Give the texts of a figure that DejaVu Sans cannot write another font beside it, while it is drawn."""
    import matplotlib.font_manager
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    font = font_for("".join(text.get_text() for text in texts))
    if font != default_font():
        matplotlib.font_manager.fontManager.addfont(font)
        name = matplotlib.font_manager.FontProperties(fname=font).get_name()
        for text in texts:
            text.set_family(["DejaVu Sans", name])
    with warnings.catch_warnings():
        if texts:  # font_for() has said so once.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield
