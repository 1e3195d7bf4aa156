"""Missing data sets: the archives of a `download:` entry, fetched and unpacked into the data set's own folder only.

A data file may come from anywhere, so it is not trusted: whatever it says, only pictures, labels and the like are
unpacked, below `path` and nowhere else, and `path` must be a folder that can be a data set's.
"""

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from extras.download.files import download, safe_unzip
from utils.console.text import brief
from utils.data.folder import check_own_folder, working_folder
from utils.data.images import IMG_FORMATS
from utils.logger import LOGGER

URL = re.compile(r"https?://[^\s\"'<>)\],]+")
# Suffixes of what is unpacked. Nothing here is ever run, imported or read by a shell.
DATA_SUFFIXES = {f".{suffix}" for suffix in IMG_FORMATS} | set(
    ".gif .avif .heic .jp2 .txt .csv .tsv .json .jsonl .geojson .xml .yaml .yml .names .md .html .pdf .mat .zip "
    ".avi .mkv .mov .mp4 .mpeg .mpg .webm".split()
)


def download_dataset(value: str | dict | list, folder: Path, where: str) -> None:
    """Fetch and unpack every archive of a `download:` entry into `folder`.

    Args:
        value: a URL, a mapping with url and, if wanted, to (a folder below `folder`) and sha256, or a list of these.
            An archive without `to` may hold the folder itself (`coco128/images/...`) or its content (`images/...`).
        folder: the data set's folder. Until all archives are in, FOLDER.download beside it keeps what has arrived.
        where: the data file, named in errors.

    Raises:
        ValueError: a wrong entry, a script, a folder that is not a data set's own, or a harmful archive.
        ConnectionError, FileNotFoundError: the server cannot be reached, or has no such file.
    """
    check_own_folder(folder, where)
    items = download_items(value, where)
    working = working_folder(folder)
    working.mkdir(parents=True, exist_ok=True)
    done_file = working / "done.txt"
    done = done_file.read_text(encoding="utf-8").split() if done_file.exists() else []
    try:
        for item in items:
            if item["url"] not in done:
                _fetch_and_unpack(item, folder, working)
                done.append(item["url"])
                done_file.write_text("\n".join(done), encoding="utf-8")
    finally:
        if not any(working.iterdir()):
            working.rmdir()


def download_items(value: str | dict | list, where: str) -> list[dict]:
    """Return a `download:` entry as mappings of url, to and sha256. ValueError for anything else, scripts included."""
    items = [{"url": v} if isinstance(v, str) else v for v in (value if isinstance(value, list) else [value])]
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("url"), str) or set(item) - {"url", "to", "sha256"}:
            found = repr(item)[:100]
            raise ValueError(f"{where}: 'download' takes URLs, or mappings of url, to and sha256, found {found}")
        if not URL.fullmatch(item["url"].strip()):
            raise ValueError(_script_message(item["url"], where))
        item["url"] = item["url"].strip()
        if not item["url"].split("?")[0].endswith(".zip"):
            raise ValueError(f"{where}: 'download' can unpack .zip files only: fetch and unpack {item['url']} by hand")
        _check_target(item.get("to", "."), where)
    return items


def _check_target(to: str, where: str) -> None:
    """Raise ValueError unless `to` names a folder below the data set's, on every operating system."""
    if not isinstance(to, str):
        raise ValueError(f"{where}: 'to' must be a folder below 'path', found {brief(to)}")
    for path in (PurePosixPath(to), PureWindowsPath(to)):
        if path.is_absolute() or path.drive or path.root or any(part.startswith((".", "~")) for part in path.parts):
            raise ValueError(f"{where}: 'to' must be a folder below 'path', found '{to[:100]}'")


def _script_message(script: str, where: str) -> str:
    urls = list(dict.fromkeys(URL.findall(script)))
    lines = [f"{where}: the data are missing and 'download' is a script ({script.strip().splitlines()[0][:60]!r}...)."]
    lines.append("Scripts from dataset files are never run. By hand: read it, do what it does, then start again.")
    if urls:
        lines.append("It names these addresses:")
        lines += [f"  {url}" for url in urls]
    lines.append("If plain .zip files are enough, make 'download' a list of their URLs.")
    return "\n".join(lines)


def _fetch_and_unpack(item: dict, folder: Path, working: Path) -> None:
    """Unpack an archive all or nothing, so that an interruption never leaves a folder that looks complete."""
    name = re.sub(r"[^\w.-]", "_", item["url"].split("?")[0].rsplit("/", 1)[-1])
    by_hand = folder.parent / name
    archive = by_hand if by_hand.is_file() else working / name
    target = folder / item["to"] if "to" in item else folder
    LOGGER.info(f"Downloading {item['url']} to {target}")
    download(item["url"], archive, sha256=item.get("sha256"))
    with tempfile.TemporaryDirectory(dir=working, prefix=f"{archive.stem}.", suffix=".tmp") as staging:
        safe_unzip(archive, Path(staging), is_wanted=_is_data)
        whole_set = Path(staging) / folder.name
        if "to" not in item and whole_set.is_dir():
            _merge(whole_set, folder)
            shutil.rmtree(whole_set, ignore_errors=True)
        _merge(Path(staging), target)
    if archive != by_hand:
        archive.unlink()


def _is_data(member: str) -> bool:
    """Tell whether a member of an archive is a picture, a label file or the like, and not hidden."""
    path = PurePosixPath(member)
    return path.suffix.lower() in DATA_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _merge(source: Path, target: Path) -> None:
    """Move what is in `source` into `target`; a file that `target` has already stays as it is."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        destination = target / entry.name
        if not destination.exists():
            shutil.move(entry, destination)
        elif entry.is_dir() and destination.is_dir():
            _merge(entry, destination)
        else:
            LOGGER.warning(f"{destination} exists already and is kept")
