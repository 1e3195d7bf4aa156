"""Files of the user's that are read with a reason for every failure, and files that are written whole or not at all.

Imports the standard library alone.
"""

import codecs
import csv
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
BYTE_ORDER_MARKS = {  # The longer ones first, as one begins like a shorter one.
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
MAX_TEXT_BYTES = 1 << 30


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file, or a link to one, for reading. A pipe, device, socket or folder is not opened: ValueError.

    OSError, FileNotFoundError where there is none, with the path for what the system refuses.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:
            raise ValueError(f"{path}: expected a file, found {KINDS.get(kind, 'something else')}; it is not opened")
        return open(path, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror or error}") from None


def read_bytes(path: Path | str) -> bytes:
    """Return the content of a file; the errors are those of open_regular()."""
    with open_regular(path) as file:
        return _content(file, path)


def read_text(path: Path | str, most_bytes: int = MAX_TEXT_BYTES) -> str:
    r"""Return the text of a UTF-8 file, or of a UTF-16 or UTF-32 file with a byte order mark; lines end with \n.

    ValueError with file and line for another encoding, and with the file for one of more than `most_bytes`; further
    errors as in open_regular().
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"{path}: expected a text file of at most {most_bytes:,} bytes, found {size:,}")
        data = _content(file, path)
    mark, encoding = next((item for item in BYTE_ORDER_MARKS.items() if data.startswith(item[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{error.object[error.start]:02X}" if encoding == "utf-8" else f"damaged {encoding.upper()}"
        raise ValueError(f"{path}:{line}: expected UTF-8 text, found {found}: save the file as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path}: expected text, found zero bytes: save the file as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_table(path: Path | str) -> list[list[str]]:
    """Return the cells of a CSV file, without blanks around them; of a blank line [].

    ValueError with file and line; further errors as in read_text().
    """
    rows = csv.reader(io.StringIO(read_text(path)))
    try:
        return [[cell.strip() for cell in row] for row in rows]
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num}: not a table: {error}") from None


@contextmanager
def naming(file: Path | str) -> Iterator[None]:
    """Put the name of a file before the message of a ValueError inside, where it is not in it yet."""
    try:
        yield
    except ValueError as error:
        if str(file) in str(error):
            raise
        raise ValueError(f"{file}: {error}") from error


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Give a binary file to write that replaces `path` when the block ends well; else `path` stays as it is."""
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # It is gone after success, and cannot be there where the folder is missing.
            temporary.unlink()


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write a file so that, whatever happens, `path` holds either its old content or all of `data`.

    OSError (disk full, no permission) with the path and what to do; no temporary file is left then.
    """
    path = Path(path)
    try:
        # One fixed name: a killed process leaves at most one such file, which the next writer overwrites.
        with replacing(path, path.with_name(path.name + ".tmp")) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        old = "the old file is still whole" if path.is_file() else "no file was written"
        hint = f"check the folder and free at least {len(data) / 2**20:.1f} MB on its disk"
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; {old}; {hint}") from error


@contextmanager
def while_writing(path: Path | str) -> Iterator[None]:
    """Name the file in an OSError of the block, which writes it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def write_whole(path: Path | str, data: bytes | str) -> None:
    """Write a file of a result, text as UTF-8: under its name there is all of it, or what was there before.

    Nothing waits for the disk, as there may be thousands. OSError with the path.
    """
    path = Path(path)
    with while_writing(path), replacing(path, path.with_name(path.name + ".tmp")) as file:
        file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def write_table(path: Path | str, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file as write_whole() does; an empty cell for None."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    write_whole(path, buffer.getvalue())


def write_cache(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make the cache file `path` of what write(file) puts into it, whole or not at all. OSError if that fails.

    Several processes may do so at once. Nothing waits for the disk: a cache that is lost is made again.
    """
    with replacing(path, path.with_name(f"{path.name}.{os.getpid()}.tmp")) as file:
        write(file)


def _content(file: BinaryIO, path: Path | str) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror or error}") from None


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can (Windows and some network disks cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
