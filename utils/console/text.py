"""Text that people read on a terminal: counts, suggestions, tables, progress bars. Imports the standard library."""

import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any


def did_you_mean(name: object, known: Iterable[str], form: str = ", {}", n: int = 1, cutoff: float = 0.6) -> str:
    """Return "did you mean X or Y?" in `form` for the up to n entries of `known` most like `name`, or "" if none is.

    cutoff: the least similarity, 0 to 1.
    """
    nearest = get_close_matches(str(name), list(known), n=n, cutoff=cutoff)
    return form.format(f"did you mean {' or '.join(nearest)}?") if nearest else ""


def brief(value: object) -> str:
    """Return repr(value) in one line that is never long, whatever a file holds."""
    try:
        text = _BRIEF.repr(value)
    except ValueError:  # Python does not write whole numbers of thousands of digits.
        text = f"a value of type {type(value).__name__} that is too long to be shown"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


MAX_SHOWN = 200  # characters of a value
_BRIEF = reprlib.Repr()
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 12
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 4, 80, 80, 30


def counted(number: int, name: str) -> str:
    """Return '1 bus', '2 buses', '3 persons' or '4 scissors'."""
    if number == 1 or re.search("[^su]s$", name):  # Scissors and skis are plurals already.
        return f"{number} {name}"
    return f"{number} {name}{'es' if name.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def describe_classes(classes: Iterable[float], names: dict[int, str]) -> str:
    """Return '2 persons, 1 bus' for the class numbers [n] of an image's boxes, or '(no detections)'."""
    counts = sorted(Counter(int(cls) for cls in classes).items())
    return ", ".join(counted(n, str(names.get(cls, cls))) for cls, n in counts) or "(no detections)"


def aligned(rows: Iterable[Sequence[object]], left: Collection[int] = ()) -> str:
    """Return rows of cells as a table; columns whose number is in `left` begin at the left, others end at the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts)]
    lines = [[f"{text:{'<' if i in left else '>'}{widths[i]}}" for i, text in enumerate(row)] for row in texts]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def progress_bar(items: Iterable[Any] | None, description: str, show: bool = True, **kwargs: Any):
    """Return a tqdm bar over the items (None: to be updated by hand), drawn on a terminal alone and then wiped away.

    Elsewhere, as in a log file, and where not to `show`, the items pass without a word.
    """
    from tqdm import tqdm  # The command lines' --help takes its suggestions from here and needs no bars.

    return tqdm(items, description, disable=None if show else True, **{"leave": False, **kwargs})
