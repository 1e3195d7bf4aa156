"""Metadata behind a model file's end, as a ZIP archive: its directory is found from the end, the model from the front.

For formats whose runtimes pass over what follows the model: LiteRT (where labels travel in the same way), ExecuTorch.
"""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from models.backends.metadata import Metadata

MEMBER = "metadata.json"


def write_metadata(file, metadata: Metadata) -> None:
    """Put the metadata behind the model, in the place of what is there."""
    file = Path(file)
    end = file.stat().st_size
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            end = min((info.header_offset for info in archive.infolist()), default=archive.start_dir)
    with file.open("r+b") as stream:
        stream.truncate(end)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:  # ZipInfo: no time of day in the file
        archive.writestr(zipfile.ZipInfo(MEMBER), json.dumps(asdict(metadata)), zipfile.ZIP_DEFLATED)


def read_member(file, name: str) -> str | None:
    """The text of the archive's first member whose path ends in `name`, None if there is none or no archive.

    ValueError, naming the file, if it is damaged.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    if member.endswith(name):
                        return archive.read(member).decode("utf-8")
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: the metadata behind the model cannot be read: {error}") from None
    return None


def read_metadata(file) -> Metadata | None:
    """What write_metadata() wrote, None if there is none. ValueError, naming the file, if it is damaged."""
    text = read_member(file, MEMBER)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: {MEMBER} behind the model is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a mapping in {MEMBER} behind the model, found {type(values).__name__}")
    return Metadata.from_dict(values, file)
