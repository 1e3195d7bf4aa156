"""Where the label file of an image is: the rule, other spellings that tools leave behind, and hints where none is."""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from unicodedata import normalize
from urllib.parse import unquote

LABEL_SUFFIXES = (".txt", ".xml", ".json")  # suffixes of files with labels, of which .txt alone is read
FOLDERS_SEARCHED = 1000  # for a hint
STEMS_SEARCHED = 1000


def image_to_label_path(path) -> str:
    """Turn data/images/train/1.jpg into data/labels/train/1.txt: the last folder called images, if any, is replaced.

    Images becomes Labels, and IMAGES becomes LABELS.
    """
    folder, name = os.path.split(str(path))
    parts = folder.replace("/", os.sep).split(os.sep)  # Windows takes both
    for i in reversed(range(len(parts))):
        if parts[i].lower() == "images":
            parts[i] = "LABELS" if parts[i].isupper() else "Labels" if parts[i][0].isupper() else "labels"
            break
    return os.sep.join([*parts, os.path.splitext(name)[0] + ".txt"]) if folder else os.path.splitext(name)[0] + ".txt"


def odd_label_files(im_files: Sequence[str]) -> dict[str, str]:
    """Return {image: label file} of images whose label file is there, but not under the name that the rule gives.

    The name may differ in upper and lower case (.TXT, Labels), in percent-encoding (a%20b), and in whether an accent
    is a code point of its own. A label file that is the rule's for one image is never taken for another.
    """
    wanted, odd = {}, {}
    for im_file in im_files:
        folder, name = os.path.split(image_to_label_path(im_file))
        wanted.setdefault(folder, {})[name] = im_file
    for folder, images in wanted.items():
        existing = _existing_folder(folder)
        names = set(os.listdir(existing or ".")) if existing is not None else set()
        if existing == folder and names >= images.keys():
            continue
        spare = {}
        for name in sorted(names - images.keys()):
            if name.lower().endswith(".txt"):
                spare.setdefault(_spelling(name), []).append(name)
        for name, im_file in images.items():
            alike = [name] if name in names else spare.get(_spelling(name), [])
            if len(alike) == 1 and (existing, alike[0]) != (folder, name):
                odd[im_file] = os.path.join(existing, alike[0])
    return odd


def labels_elsewhere(im_files: Sequence[str]) -> str:
    """Return where files with the images' names and a label file's suffix are, as the end of a sentence, or ""."""
    stems = {_spelling(os.path.splitext(os.path.basename(file))[0]) for file in islice(im_files, STEMS_SEARCHED)}
    top, counts = os.path.abspath(os.path.join(os.path.dirname(im_files[0]), "..", "..")), Counter()
    for folder, _, names in islice(os.walk(top), FOLDERS_SEARCHED):
        for stem, suffix in map(os.path.splitext, names):
            if suffix.lower() in LABEL_SUFFIXES and _spelling(stem) in stems:
                counts[folder, suffix] += 1
    if not counts:
        return ""
    (folder, suffix), number = counts.most_common(1)[0]
    return f"; {folder} has {number} {suffix} files with names of the images"


def _spelling(name: str) -> str:
    """Return what a name has in common with its other spellings."""
    return normalize("NFC", unquote(name)).casefold()


def _existing_folder(folder: str) -> str | None:
    """Return `folder`, or the one folder that is there under another spelling of its parts; None without."""
    if not folder or os.path.isdir(folder):
        return folder
    parent, name = os.path.split(folder)
    base = _existing_folder(parent) if parent != folder else None
    if base is None:
        return None
    paths = (os.path.join(base, entry) for entry in os.listdir(base or ".") if _spelling(entry) == _spelling(name))
    alike = [path for path in paths if os.path.isdir(path)]
    return alike[0] if len(alike) == 1 else None
