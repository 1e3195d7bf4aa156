"""Frame: one picture on its way from a source to a model, and what all sources share."""

from dataclasses import dataclass

import cv2
import numpy as np

DEFAULT_FPS = 30.0  # where the video or stream does not say


@dataclass
class Frame:
    """One picture and where it is from. `image` is uint8 [H, W, 3] BGR; None if it could not be read, see `error`."""

    path: str  # file, URL, stream address or "screen N"
    image: np.ndarray | None = None
    kind: str = "image"  # image, video, stream or screen
    item: int = 1  # number among the source's files or streams, from 1
    items: int = 1
    frame: int = 1  # number in the video or stream, from 1
    frames: int = 1  # frames in the video; 0 where nobody knows
    fps: float = DEFAULT_FPS
    time_s: float = 0.0  # videos: of its presentation, since the first frame; streams, screen: when it came, Unix time
    error: str = ""
    stem: str = ""  # names the output files
    capture: object = None  # the cv2.VideoCapture of a video

    def title(self) -> str:
        """Name this frame for the console: 'image 1/2 PATH', 'video 1/1 (3/100) PATH', 'stream 1/4 (17) PATH'."""
        number = {"image": "", "video": f" ({self.frame}/{self.frames or '?'})"}.get(self.kind, f" ({self.frame})")
        return f"{self.kind} {self.item}/{self.items}{number} {self.path}"


def time_of(capture, last_s: float, fps: float) -> float:
    """Return the presentation time in seconds of the frame that a capture has just grabbed, later than `last_s`.

    It is the container's own, so exact where the rate varies; where that does not grow, the frame counts as 1 / fps.
    """
    time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    return time_s if time_s > last_s else last_s + 1 / fps


def fps_of(capture, most: float = 999.0) -> float:
    """Return the frames a second that a capture claims; DEFAULT_FPS where that is no number, or more than `most`.

    Streams often give the ticks of their clock instead, such as 1,000 or 90,000; files seldom do.
    """
    fps = capture.get(cv2.CAP_PROP_FPS)
    return float(fps) if 0 < fps <= most else DEFAULT_FPS  # also filters NaN


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Three channels, whatever the capture device gives."""
    return image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
