"""Where pictures come from: files, folders, globs, lists, videos, URLs, webcams, network streams, the screen.

`open_source(...)` looks at what it is given and returns an object that yields lists of Frames; a list holds the frames
that may go through a model together.
"""

import glob
import os
from pathlib import Path
from urllib.parse import urlsplit

import cv2

from utils.data.images import IMG_FORMATS, read_image
from utils.data.walk import matching
from utils.files import read_text
from utils.general import ROOT
from utils.logger import LOGGER
from utils.sources.frame import Frame, as_bgr, fps_of, time_of
from utils.sources.streams import RECONNECT_S, ScreenSource, StreamSource
from utils.sources.urls import DEFAULT_LIMITS, Limits, is_url, local_file, shown

VID_FORMATS = ("asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv")
MAX_FILE_FPS = 60_000.0  # high-speed cameras; what is above is the ticks of a clock
MAX_WINDOW_BYTES = 256 * 2**20  # a list of frames ends early at this many bytes of pixels


def open_source(
    source, vid_stride: int = 1, window: int = 1, limits: Limits = DEFAULT_LIMITS, reconnect_s: float = RECONNECT_S
):
    """Open a FileSource, StreamSource or ScreenSource for `source`: a text as detect.py takes it, a path, or several.

    vid_stride: every n-th frame of videos and streams. window: frames of files in one list (streams: one of each).
    limits: of the download of a file that is named by its URL. reconnect_s: how long a lost stream is opened again.
    Raises FileNotFoundError or ValueError where there is nothing to read.
    """
    if vid_stride < 1:
        raise ValueError(f"--vid-stride: expected a whole number from 1, found {vid_stride}")
    items = [str(item).strip() for item in source] if isinstance(source, (list, tuple)) else [str(source).strip()]
    if not items or not all(items):
        raise ValueError("--source is empty: expected a file, folder, glob, list, URL, stream, screen or webcam index")
    if items[0].lower().split()[0] == "screen" and not os.path.exists(items[0]):
        return ScreenSource(" ".join(items))
    if items[0].endswith(".streams"):
        items = [line for _, line in read_list(items[0])]
        return StreamSource(items, vid_stride, reconnect_s)
    live = [is_stream(item) for item in items]
    if all(live):
        return StreamSource(items, vid_stride, reconnect_s)
    if any(live):
        raise ValueError(f"files and streams cannot be mixed in one source: {shown(', '.join(items))}")
    return FileSource(expand(items), vid_stride, window, limits)


def suffix_of(path: str) -> str:
    """Return the suffix of a file or of a URL's path, lower case, without dot."""
    return Path(urlsplit(path).path if is_url(path) else path).suffix.lower()[1:]


def is_stream(text: str) -> bool:
    """True for a webcam index and for a URL that is not that of an image or video file over http(s)."""
    is_file_url = text.lower().startswith(("http://", "https://")) and suffix_of(text) in IMG_FORMATS + VID_FORMATS
    return text.isnumeric() or (is_url(text) and not is_file_url)


def read_list(path: str) -> list:
    """Return (line number, text) of the lines of a list file that are neither blank nor comments (#)."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"list file '{path}' does not exist")
    texts = [line.strip() for line in read_text(path).splitlines()]
    lines = [(number, text) for number, text in enumerate(texts, 1) if text and not text.startswith("#")]
    if not lines:
        raise ValueError(f"{path}: expected one source per line, found no line")
    return lines


def expand(items: list) -> list:
    """Return the image files, then the video files (paths or URLs), that `items` name, each as a text."""
    files = [file for item in items for file in files_of(item)]
    return [f for f in files if suffix_of(f) not in VID_FORMATS] + [f for f in files if suffix_of(f) in VID_FORMATS]


def files_of(item: str) -> list:
    """Return the files of one folder, glob, list, file or file URL, sorted by name within a folder or glob."""
    if is_url(item):
        return [item]
    path = Path(item).expanduser()
    # Those of os.path answer for a name that is too long as well.
    if not os.path.exists(path) and os.path.exists(ROOT / path):
        path = ROOT / path
    if os.path.isdir(path):
        return keep_supported([str(file) for file in path.iterdir()], f"folder '{item}'")
    if os.path.isfile(path):
        if path.suffix.lower() == ".txt":
            return files_of_list(path)
        if suffix_of(str(path)) not in IMG_FORMATS + VID_FORMATS:
            raise ValueError(f"'{item}': expected {formats_text()}; found suffix '{path.suffix}'")
        return [str(path)]
    if glob.has_magic(item):
        return keep_supported(matching(str(path)), f"glob '{item}'")
    raise FileNotFoundError(f"source '{shown(item)}' does not exist")


def files_of_list(path: Path) -> list:
    """Return the files that a list file names, relative to the working folder or else to the list's own."""
    files = []
    for number, line in read_list(str(path)):
        is_beside = not (is_url(line) or os.path.exists(line)) and os.path.exists(path.parent / line)
        if is_stream(line):
            raise ValueError(
                f"{path}:{number}: '{shown(line)}' is a stream: the name of a list of streams ends in .streams"
            )
        try:
            files += files_of(str(path.parent / line) if is_beside else line)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{path}:{number}: {error}") from None
    return files


def keep_supported(files: list, where: str) -> list:
    named = [file for file in files if suffix_of(file) in IMG_FORMATS + VID_FORMATS]
    folders = {folder: os.path.realpath(folder) for folder in {os.path.dirname(file) for file in named}}
    # A link to a folder above gives the same files again and again.
    own = {(folders[os.path.dirname(file)], os.path.basename(file)): file for file in sorted(named, reverse=True)}
    kept = sorted(file for file in own.values() if Path(file).is_file())
    if len(kept) < len(named):
        left = ", ".join(sorted(set(named) - set(kept))[:3])
        LOGGER.warning(f"{where}: {len(named) - len(kept)} are passed over, as no file or one that is there: {left}")
    if not kept:
        others = f"{len(files)} other files; " if files else ""
        raise FileNotFoundError(f"no image or video in {where} ({others}supported are {formats_text()})")
    return kept


def formats_text() -> str:
    return f"images ({' '.join(sorted(IMG_FORMATS))}) and videos ({' '.join(sorted(VID_FORMATS))})"


class FileSource:
    """Image and video files, one after the other. A file that cannot be read is a Frame with an `error`."""

    realtime = False

    def __init__(self, files: list, vid_stride: int = 1, window: int = 1, limits: Limits = DEFAULT_LIMITS):
        self.files, self.limits = files, limits
        self.vid_stride = vid_stride
        self.window = window

    def __iter__(self):
        frames = []
        for frame in self.frames():
            frames.append(frame)
            size = sum(frame.image.nbytes for frame in frames if not frame.error)
            if len(frames) == self.window or size > MAX_WINDOW_BYTES:
                yield frames
                frames = []
        if frames:
            yield frames

    def frames(self):
        """Frame after frame."""
        for item, path in enumerate(self.files, 1):
            kind = "video" if suffix_of(path) in VID_FORMATS else "image"
            origin = {"path": shown(path), "kind": kind, "item": item, "items": len(self.files)}
            try:
                with local_file(path, self.limits) as file:
                    if kind == "video":
                        yield from self._video(file, origin)
                    else:
                        yield Frame(image=read_image(file, name=origin["path"]), **origin)
            except (ValueError, OSError) as error:
                name = origin["path"]
                yield Frame(error=str(error) if name in str(error) else f"{name}: {error}", **origin)

    def _video(self, file: str, origin: dict):
        """Yield frames 1, 1 + vid_stride, 1 + 2 vid_stride ... of a video file."""
        capture = cv2.VideoCapture(file)
        fps, claimed = fps_of(capture, MAX_FILE_FPS), capture.get(cv2.CAP_PROP_FPS)
        if fps != claimed and capture.isOpened():
            LOGGER.warning(f"{origin['path']}: its rate reads as {claimed:g} frames a second; it counts as {fps:g}")
        try:
            count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            number, time_s = 0, -1 / fps
            while capture.isOpened() and capture.grab():
                number, time_s = number + 1, time_of(capture, time_s, fps)
                if (number - 1) % self.vid_stride == 0:
                    ok, image = capture.retrieve()
                    if not ok:
                        break
                    where = {"frame": number, "frames": count, "fps": fps, "time_s": time_s, "capture": capture}
                    yield Frame(image=as_bgr(image), **{**origin, **where})
            if number == 0:
                raise ValueError(f"{file}: no frame can be decoded: not a video, or a broken one")
            # Containers without a count have a duration, from which it is guessed: too many where the rate varies.
            if number < 0.9 * count and time_s < 0.9 * count / max(claimed, 1e-9):
                LOGGER.warning(f"{origin['path']} ends after frame {number} of {count}")
        finally:
            capture.release()
