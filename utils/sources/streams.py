"""Live sources: webcams and network streams, several at once, and the screen. Each yields lists of Frames."""

import os
import re
import sys
import threading
import time

import cv2
import numpy as np

from utils.logger import LOGGER
from utils.sources.frame import Frame, as_bgr, fps_of
from utils.sources.urls import shown

OPEN_TIMEOUT_MS = 10_000
RECONNECT_S = 60.0  # for which a lost stream is opened again and again, if nobody says otherwise
RECONNECT_WAIT_S = 2.0


class Stream:
    """One capture, and the thread that always holds its newest frame.

    A lost connection is opened again, until it has been away for `reconnect_s`.
    """

    def __init__(self, address: str, vid_stride: int, changed: threading.Condition, reconnect_s: float = RECONNECT_S):
        self.address, self.name = address, shown(address)
        self.vid_stride = vid_stride
        self.changed, self.reconnect_s = changed, reconnect_s
        self.local = os.path.isfile(address)  # A video in the place of a camera is played at its own speed, once.
        self.newest = None  # (number, image, Unix time of its arrival) that nobody has taken yet
        self.number = 0  # frames so far
        self.ended = False
        self.stop = threading.Event()
        self.capture = self._open()
        if not self.capture.isOpened():
            raise ConnectionError(f"{'webcam' if address.isnumeric() else 'stream'} {self.name} could not be opened")
        self.fps = fps_of(self.capture)
        self.thread = threading.Thread(target=self._run, name=f"stream {self.name}", daemon=True)

    def join(self) -> None:
        """Wait for the thread: one that still decodes while Python ends would abort the process."""
        if self.thread.ident:
            self.thread.join(2 * OPEN_TIMEOUT_MS / 1000)

    def _open(self):
        if self.address.isnumeric():
            return cv2.VideoCapture(int(self.address))
        if self.local:
            return cv2.VideoCapture(self.address)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, OPEN_TIMEOUT_MS]
        return cv2.VideoCapture(self.address, cv2.CAP_FFMPEG, limits)

    def _run(self):
        try:
            while not self.stop.is_set():
                if self.capture.grab():
                    self._take()
                elif self.local or not self._reconnect():
                    break
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()
            self.capture.release()

    def _take(self):
        self.number, arrival_s = self.number + 1, time.time()
        if self.number % self.vid_stride == 0:
            ok, image = self.capture.retrieve()
            if ok:
                with self.changed:
                    self.newest = self.number, as_bgr(image), arrival_s
                    self.changed.notify_all()
        if self.local:
            self.stop.wait(1 / self.fps)

    def _reconnect(self) -> bool:
        LOGGER.warning(f"stream {self.name}: no frame; it is opened again, for {self.reconnect_s:g} s at most")
        lost_s = time.monotonic()
        while time.monotonic() - lost_s < self.reconnect_s:
            self.capture.release()
            if self.stop.wait(RECONNECT_WAIT_S):
                return False
            self.capture = self._open()
            if self.capture.isOpened() and self.capture.grab():
                LOGGER.info(f"stream {self.name} is back after {time.monotonic() - lost_s:.1f} s")
                self._take()
                return True
        LOGGER.warning(f"stream {self.name} ended: it did not come back within {self.reconnect_s:g} s")
        return False


class StreamSource:
    """Webcams and network streams, all at once. A list holds the newest frame of every stream that has a new one."""

    realtime = True

    def __init__(self, addresses: list, vid_stride: int = 1, reconnect_s: float = RECONNECT_S):
        for address in addresses:
            if re.search(r"https?://(www\.)?youtu(be\.com|\.be)/", address):
                raise ValueError(f"{shown(address)} is a web page: give the address that `yt-dlp -g` prints for it")
            if sys.platform == "linux" and address.isnumeric() and not os.path.exists(f"/dev/video{address}"):
                raise ConnectionError(f"webcam {address} could not be opened: there is no /dev/video{address}")
        self.addresses = addresses
        self.vid_stride, self.reconnect_s = vid_stride, reconnect_s

    def __iter__(self):
        changed = threading.Condition()
        streams = []
        try:
            for address in self.addresses:
                streams.append(Stream(address, self.vid_stride, changed, self.reconnect_s))
            for stream in streams:
                stream.thread.start()
            while frames := self._round(streams, changed):
                yield frames
        finally:
            for stream in streams:
                stream.stop.set()
            for stream in streams:  # only now: they end at the same time
                stream.join()

    def _round(self, streams: list, changed) -> list:
        """Return the untaken newest frames, as soon as there is one; [] when every stream has ended."""
        frames = []
        with changed:
            while not any(s.newest for s in streams) and not all(s.ended for s in streams):
                changed.wait(0.5)  # without a limit Ctrl-C would not end it under Windows
            for item, stream in enumerate(streams, 1):
                if stream.newest:
                    number, image, time_s = stream.newest
                    where = {"item": item, "items": len(streams), "frame": number, "frames": 0, "time_s": time_s}
                    frames.append(Frame(stream.name, image, "stream", fps=stream.fps, **where))
                    stream.newest = None
        return frames


class ScreenSource:
    """The screen again and again: 'screen [n] [left top width height]', n = 0 is all monitors together."""

    realtime = True

    def __init__(self, text: str):
        words = text.split()[1:]
        if len(words) not in (0, 1, 4, 5) or not all(re.fullmatch(r"-?\d+", word) for word in words):
            raise ValueError(f"'{text}': expected 'screen [n] [left top width height]' with whole numbers")
        numbers = [int(word) for word in words]
        self.number = numbers.pop(0) if len(numbers) in (1, 5) else 0
        self.area = dict(zip(("left", "top", "width", "height"), numbers))
        try:
            import mss
        except ImportError:
            raise ImportError("a screen as source needs the package mss: pip install mss") from None
        self.mss = mss

    def __iter__(self):
        with self._grabber() as grabber:
            if not 0 <= self.number < len(grabber.monitors):
                raise ValueError(f"screen {self.number}: expected a number from 0 to {len(grabber.monitors) - 1}")
            monitor = dict(grabber.monitors[self.number])
            if self.area:
                offset = {"left": monitor["left"] + self.area["left"], "top": monitor["top"] + self.area["top"]}
                monitor = {**self.area, **offset}
            frame = 0
            while True:
                frame, time_s = frame + 1, time.time()
                image = np.ascontiguousarray(np.array(grabber.grab(monitor))[:, :, :3])  # BGRA -> BGR
                yield [Frame(f"screen {self.number}", image, "screen", frame=frame, frames=0, time_s=time_s)]

    def _grabber(self):
        try:
            return self.mss.mss()
        except self.mss.exception.ScreenShotError as error:
            raise OSError(f"the screen cannot be read: {error}") from None
