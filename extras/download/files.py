"""Downloads with resume and checks, and zip files unpacked safely. Nothing is fetched that the user did not name."""

import base64
import hashlib
import math
import os
import re
import shutil
import stat
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from utils.console.text import did_you_mean, progress_bar
from utils.logger import LOGGER
from utils.sources.urls import Limits, shown

RELEASE_URL = "https://github.com/ultralytics/yolov5/releases/download/v7.0/"
RELEASE_NAMES = tuple(f"yolov5{size}{kind}.pt" for size in "nsmlx" for kind in ("", "6", "-seg", "-cls"))
TIMEOUT_S = 5  # to connect, and without any data after that
TRIES = 2
UNLIMITED = Limits(math.inf, math.inf)
CHUNK_BYTES = 1 << 20
MAX_ZIP_RATIO = 200  # bytes unpacked for each byte of a zip file, beyond a free allowance of
ZIP_ALLOWANCE_BYTES = 64 << 20


def download(url: str, file, sha256: str | None = None, min_bytes: int = 0, limits: Limits = UNLIMITED) -> Path:
    """Fetch `url` into `file`, unless `file` is there already; returns its path.

    The bytes go to FILE.part, which a later call resumes, and FILE appears only whole and checked: at least `min_bytes`
    long, and with this `sha256` if one is given. ConnectionError within seconds if the server cannot be reached,
    FileNotFoundError if it has no such file, ValueError if the content is not what was expected, or beyond `limits`.
    User and password of a URL go to its own host alone, and into no message.
    """
    file, name = Path(file), shown(url)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected a http:// or https:// URL, found '{name}'")
    if file.is_file():
        _check(file, f"{file} exists already", sha256, min_bytes)
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    deadline = Deadline(name, limits)
    for attempt in range(TRIES):
        try:
            _fetch(url, part, deadline)
            break
        except urllib.error.HTTPError as error:
            kind = FileNotFoundError if error.code in (404, 410) else ConnectionError
            raise kind(f"cannot download {name}: the server answers {error.code} {error.reason}") from None
        except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
            if attempt == TRIES - 1:
                reason = getattr(error, "reason", None) or error
                kept = f"; {part.stat().st_size:,} bytes are kept in {part} to resume from" if part.exists() else ""
                raise ConnectionError(
                    f"cannot download {name}: {reason}{kept}. Check the network, or put the file at {file} yourself"
                ) from None
    try:
        _check(part, name, sha256, min_bytes)
    except ValueError:
        part.unlink()  # resuming a wrong file could never end well
        raise
    os.replace(part, file)
    return file


class Deadline:
    """The limits of one download, from now on. Its methods raise ValueError beyond them."""

    def __init__(self, name: str, limits: Limits):
        self.name, self.limits = name, limits
        self.end = time.monotonic() + limits.seconds

    def check(self, size: int) -> None:
        if size > self.limits.megabytes * 1e6:
            raise ValueError(f"{self.name}: is larger than {self.limits.megabytes:,g} MB (--url-limit-mb)")
        if time.monotonic() > self.end:
            raise ValueError(f"{self.name}: has not come within {self.limits.seconds:,g} seconds (--url-limit-s)")

    def open(self, request: urllib.request.Request) -> HTTPResponse:
        """Return the answer to a request. A server may send headings slowly without an end: a thread waits for it."""
        answers: list = []

        def ask() -> None:
            try:
                answers.append(urllib.request.urlopen(request, timeout=TIMEOUT_S))
            except Exception as error:  # It is raised again below, in the thread that has asked.
                answers.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        while thread.is_alive() and not answers:
            thread.join(min(max(self.end - time.monotonic(), 0), 1))
            self.check(0)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]


def _request(url: str, start: int) -> urllib.request.Request:
    """Return the request for what lies behind `start`; the user and password of the URL become a heading."""
    parts = urlsplit(url)
    user, has_user, host = parts.netloc.rpartition("@")
    headers = {"User-Agent": "yolov5-edgevit", **({"Range": f"bytes={start}-"} if start else {})}
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers=headers)
    if has_user:  # not for the host that the server may send us on to
        secret = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


def _fetch(url: str, part: Path, deadline: Deadline) -> None:
    """Append to `part` what it still lacks of `url`; from the start if the server cannot resume."""
    start = part.stat().st_size if part.exists() else 0
    try:
        response = deadline.open(_request(url, start))
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: nothing lies behind `start`
            raise
        if error.headers.get("Content-Range") != f"bytes */{start}":
            part.unlink()
            _fetch(url, part, deadline)
        return
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        _append(response, part, start if resumed else 0, deadline)


def _append(response: HTTPResponse, part: Path, start: int, deadline: Deadline) -> None:
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    deadline.check(total or 0)
    with (
        open(part, "ab") as out,
        progress_bar(None, part.stem, total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        out.truncate(start)
        size = start
        while chunk := response.read1(CHUNK_BYTES):  # returns the bytes that have come, be it one a second
            size += len(chunk)
            deadline.check(size)
            out.write(chunk)
            bar.update(len(chunk))
        out.flush()
        os.fsync(out.fileno())
    if total is not None and size < total:
        raise ConnectionError(f"the connection ended after {size:,} of {total:,} bytes")


def _check(content: Path, what: str, sha256: str | None, min_bytes: int) -> None:
    """ValueError that begins with `what` unless `content` is long enough and has the SHA-256."""
    size = content.stat().st_size
    if size < min_bytes:
        raise ValueError(f"{what}: expected at least {min_bytes:,} bytes, found {size:,}")
    if sha256:
        digest = hashlib.sha256()
        with open(content, "rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != sha256.lower():
            raise ValueError(f"{what}: expected sha256 {sha256.lower()}, found {digest.hexdigest()}")


def safe_unzip(file, folder=None, is_wanted: Callable[[str], bool] | None = None) -> Path:
    """Unpack a zip file into `folder` (default: where it lies); returns the folder. Files that exist stay as they are.

    Members whose name `is_wanted` turns down are left in the archive, and counted in a warning.
    ValueError, before anything is written, for a broken or encrypted file, a member that would land outside `folder`
    or is a link, or a content far larger than the file; OSError if the disk is too full. Files appear only whole.
    """
    file = Path(file)
    folder = Path(folder) if folder else file.parent
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_members(file, folder, members)
            members = _choose(file, members, is_wanted)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unzip-") as temporary:
                for member in progress_bar(members, f"unzip {file.name}", unit="file"):
                    target = folder / member.filename
                    if not target.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        os.replace(archive.extract(member, temporary), target)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise ValueError(f"{file}: not a readable zip file: {error}") from None
    return folder


def _choose(file: Path, members: list, is_wanted: Callable[[str], bool] | None) -> list:
    left = [m.filename for m in members if is_wanted and not is_wanted(m.filename)]
    if left:
        counts = f"{len(left):,} of {len(members):,} members"
        LOGGER.warning(f"{file}: {counts} are no data and are not unpacked, the first is '{left[0]}'")
    return [m for m in members if not is_wanted or is_wanted(m.filename)]


def _check_members(file: Path, folder: Path, members: list) -> None:
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or re.search(r"^[A-Za-z]:|\\", member.filename):
            raise ValueError(f"{file}: member '{member.filename}' would land outside {folder}; nothing was unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{file}: member '{member.filename}' is a link; nothing was unpacked")
        if member.flag_bits & 1:
            raise ValueError(f"{file}: member '{member.filename}' is encrypted; nothing was unpacked")
    total, limit = sum(m.file_size for m in members), file.stat().st_size * MAX_ZIP_RATIO + ZIP_ALLOWANCE_BYTES
    if total > limit:
        raise ValueError(f"{file}: would unpack to {total:,} bytes, more than {limit:,}; nothing was unpacked")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise OSError(f"{file}: unpacking needs {total:,} bytes, the disk of {folder} has {free:,} free")


def attempt_download(name) -> Path:
    """Return `name` if it is a file; a weights name of YOLOv5's release (yolov5n.pt ...) is downloaded to that path."""
    path = Path(str(name).strip())
    if path.is_file():
        return path
    if path.name not in RELEASE_NAMES:
        hint = did_you_mean(path.name, RELEASE_NAMES, "; {}", cutoff=0.8)
        raise FileNotFoundError(f"weights '{name}' not found{hint}" + " That file is downloaded." * bool(hint))
    url = RELEASE_URL + path.name
    LOGGER.info(f"Downloading {url} to {path}")
    return download(url, path, min_bytes=1_000_000)
