"""A teacher's answers about pictures, kept on disk: one file of equal records for each view of a data set.

A record counts only for the very picture that it was made for, and only whole: in front of it stand a checksum of the
picture and one of the record. So a process may be killed at any moment, and several may write at once.
The files are written with write(), not through a memory map: a full disk is then an error, not the end of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np

from utils.files import write_cache
from utils.logger import LOGGER

FORMAT = 1  # the records'; part of every description
HEAD = np.dtype([("picture", "<u4"), ("check", "<u4")])  # crc32 of the picture; of the record, begun with the former
HEADROOM = 1.25  # free space that must be there, relative to the rest to be written: checkpoints need some too


class TeacherCache:
    """Records of type `dtype` for image `index` of the views (names) of a data set.

    They live in `folder`/<key>/<view>.bin; the key is a hash of `description`, plain data which cache.json shows: all
    that makes the teacher's answers what they are. Where nothing can be written, that is logged once, and what is
    there is still read.
    """

    def __init__(self, folder, description: dict, dtype: np.dtype):
        text = json.dumps({"format": FORMAT, "record": str(dtype), **description}, indent=1, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.text = text
        self.dtype = dtype
        self.writable = True

    @property
    def record_bytes(self) -> int:
        return HEAD.itemsize + self.dtype.itemsize

    def reserve(self, entries: int, what: str) -> None:
        """Say how large the cache of so many entries becomes. Where there is no room for it, it stays as it is."""
        free = free_bytes(self.folder)
        missing = max(entries * self.record_bytes - self.used_bytes(), 0)
        size = f"{entries * self.record_bytes / 1e6:,.1f} MB ({self.record_bytes / 1000:.1f} kB for each of {entries})"
        if missing * HEADROOM > free:
            self.writable = False
            LOGGER.warning(f"{what} would take {size}, {free / 1e6:,.1f} MB are free: nothing more is kept")
        else:
            LOGGER.info(f"{what} will take up to {size} in {self.folder}, which may be deleted after the training")

    def used_bytes(self) -> int:
        """Return what the files take on the disk by now; parts that were never written take nothing."""
        stats = [file.stat() for file in self.folder.glob("*.bin")]
        return sum(getattr(stat, "st_blocks", 0) * 512 for stat in stats)  # Windows does not say it

    def read(self, view: str, index: int, picture: int) -> np.ndarray | None:
        """Return the record [] of a picture, None if there is none, or only one of another picture or a damaged one.

        picture: its checksum, from picture_checksum().
        """
        try:
            with open(self.folder / f"{view}.bin", "rb") as file:
                file.seek(index * self.record_bytes)
                data = file.read(self.record_bytes)
        except OSError:
            return None
        if len(data) < self.record_bytes:
            return None
        head = np.frombuffer(data, HEAD, 1)[0]
        body = data[HEAD.itemsize :]
        if head["picture"] != picture or head["check"] != zlib.crc32(body, picture):
            return None
        return np.frombuffer(body, self.dtype, 1)[0]

    def write(self, view: str, index: int, picture: int, record: np.ndarray) -> None:
        """Keep a record [] of the cache's dtype."""
        if not self.writable:
            return
        body = record.tobytes()
        head = np.array((picture, zlib.crc32(body, picture)), HEAD)
        path = self.folder / f"{view}.bin"
        try:
            self._make_folder()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            with open(descriptor, "r+b", buffering=0) as file:
                file.seek(index * self.record_bytes)
                data = head.tobytes() + body
                if file.write(data) < len(data):
                    raise OSError("the disk is full")
        except OSError as error:
            self.writable = False
            LOGGER.warning(f"cannot write {path} ({error}): from now on the teacher's answers are not kept")

    def _make_folder(self) -> None:
        file = self.folder / "cache.json"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_cache(file, lambda opened: opened.write(self.text.encode()))


def picture_checksum(picture_uint8: np.ndarray) -> int:
    """Return crc32 of a picture's shape and pixels."""
    return zlib.crc32(np.ascontiguousarray(picture_uint8), zlib.crc32(str(picture_uint8.shape).encode()))


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder that need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free
