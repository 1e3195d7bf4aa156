"""The names of the files that prediction writes."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from utils.sources.files import suffix_of
from utils.sources.urls import is_url

WRITABLE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}  # others are saved as .jpg


def safe_name(text: str) -> str:
    """Return `text` as a file or folder name: path separators and characters that some system forbids become '_'."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", text).strip(" .") or "_"


class Stems:
    """Names for output files: the source's own, and NAME_2, NAME_3 ... for further files of the same name."""

    def __init__(self):
        self.stems = {}  # source -> stem
        self.used = set()  # lower case: some file systems do not tell A from a
        self.numbers = Counter()  # wanted stem -> last number given to it

    def __call__(self, frame) -> str:
        source = frame.path, frame.item
        if source not in self.stems:
            wanted = stem = safe_name(plain_stem(frame))
            while self._taken(stem.lower(), frame.kind):
                self.numbers[wanted] += 1
                stem = f"{wanted}_{self.numbers[wanted] + 1}"
            self.stems[source] = stem
            self.used.add(stem.lower())
        return self.stems[source]

    def _taken(self, stem: str, kind: str) -> bool:
        if kind == "image":
            return stem in self.used
        frame_names = re.compile(re.escape(stem) + r"(_\d+)?")  # a video's labels are STEM_1.txt, STEM_2.txt ...
        return any(frame_names.fullmatch(other) for other in self.used)


def frame_stem(frame) -> str:
    """Return the stem of a Frame or Result, and for one frame of many its number."""
    return frame.stem if frame.kind == "image" else f"{frame.stem}_{frame.frame}"


def plain_stem(frame) -> str:
    if frame.kind in ("stream", "screen"):
        address = re.sub("//[^/@]*@", "//", frame.path)  # no password in a file name
        return Path(address).stem if Path(address).is_file() else address
    return Path(unquote(urlsplit(frame.path).path) if is_url(frame.path) else frame.path).stem


def free_file(folder: Path, stem: str, number: int) -> Path:
    """Return STEM.jpg (number 1), STEM2.jpg, STEM3.jpg ...: the first from `number` on that does not exist."""
    while (file := folder / f"{stem}{number if number > 1 else ''}.jpg").exists():
        number += 1
    return file


def image_name(result) -> str:
    """Return the file name of the picture or video that shows this result."""
    if result.kind != "image":
        return f"{result.stem}.mp4"
    suffix = "." + suffix_of(result.path)
    return result.stem + (suffix if suffix in WRITABLE_SUFFIXES else ".jpg")
