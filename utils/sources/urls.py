"""Addresses of files and streams: what may be shown of them, and files that are fetched from them, within limits."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from utils.extras import load_extra

STREAM_SCHEMES = {"http", "https", "rtp", "rtmp", "rtsp", "tcp", "udp"}
SECRETS = re.compile(r"([?&][^=&#]*(?:pass|pwd|secret|token|key|sig|auth)[^=&#]*=)[^&#\s]+", re.IGNORECASE)


class Limits(NamedTuple):
    """The most that one download may take."""

    seconds: float = 600.0
    megabytes: float = 2048.0


DEFAULT_LIMITS = Limits()


def is_url(text: str) -> bool:
    return "://" in text and text.partition("://")[0].lower() in STREAM_SCHEMES


def shown(text: str) -> str:
    """Return a text as it may be printed: an address in it without its user, password, and tokens."""
    if "://" not in text:
        return text
    return SECRETS.sub(r"\1***", re.sub(r"://[^/\s?#]*@", "://***@", text))


@contextmanager
def local_file(path: str, limits: Limits = DEFAULT_LIMITS) -> Iterator[str]:
    """Give `path` itself; for a URL (which the user named) the downloaded file, which goes away afterwards.

    An error inside names the URL, as no file of the user's is there.
    """
    if not is_url(path):
        yield path
        return
    download = load_extra("download.files").download

    with tempfile.TemporaryDirectory(prefix="detect_") as folder:
        file = Path(folder) / (Path(unquote(urlsplit(path).path)).name[-100:] or "file")
        try:
            yield str(download(path, file, limits=limits))
        except (ValueError, OSError) as error:
            text = str(error)
            if isinstance(error, ConnectionError):  # Its advice, to go on or put it there, is not for this folder.
                text = re.split(r"; [\d,]+ bytes are kept|\. Check the network", text)[0]
            kinds = (ConnectionError, FileNotFoundError, OSError, ValueError)
            kind = next(kind for kind in kinds if isinstance(error, kind))
            raise kind(text.replace(str(file), shown(path))) from None
