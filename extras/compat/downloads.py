"""YOLOv5's functions for downloads, on top of extras/download: nothing is fetched that the caller did not name."""

import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from extras.compat.general import url2file
from extras.download.files import TIMEOUT_S, download, safe_unzip
from utils.logger import LOGGER


def is_url(url: object, check: bool = False) -> bool:
    """Tell whether a text is an address; with `check`, whether a server answers for it."""
    parts = urlsplit(str(url))
    if not (parts.scheme and parts.netloc):
        return False
    return not check or url_getsize(str(url)) >= 0


def url_getsize(url: str) -> int:
    """Return the bytes of what is at an address; -1 where the server cannot be reached or does not say."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "yolov5-edgevit"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return int(response.headers.get("Content-Length", -1))
    except (urllib.error.URLError, OSError, ValueError):
        return -1


def curl_download(url: str, filename, *, silent: bool = False) -> bool:
    """Fetch a file; returns False if that fails."""
    try:
        download(url, filename)
    except (OSError, ValueError) as error:
        if not silent:
            LOGGER.warning(str(error))
        return False
    return True


def safe_download(file, url: str, url2: str | None = None, min_bytes: float = 1, error_msg: str = "") -> None:
    """Fetch `url`, else `url2`, into `file`; the last error if neither can be had."""
    try:
        download(url, file, min_bytes=int(min_bytes))
    except (OSError, ValueError) as error:
        if not url2:
            raise type(error)(f"{error}. {error_msg}" if error_msg else str(error)) from None
        download(url2, file, min_bytes=int(min_bytes))


def download_all(
    url, dir=".", unzip: bool = True, delete: bool = True, curl: bool = False, threads: int = 1, retry: int = 3
) -> None:
    """Fetch one address, or a list of them, into a folder and unpack zip files there.

    delete: remove an archive that was unpacked. The others are not used.
    """
    for address in [url] if isinstance(url, (str, Path)) else url:
        file = download(str(address), Path(dir) / url2file(str(address)))
        if unzip and file.suffix == ".zip":
            safe_unzip(file)
            if delete:
                file.unlink()
