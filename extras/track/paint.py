"""Lines and zones on a picture, with what was counted."""

from dataclasses import dataclass

import cv2
import numpy as np

LINE_BGR, ZONE_BGR, DARK_BGR = (0, 220, 255), (255, 180, 0), (32, 32, 32)


@dataclass(frozen=True)
class Painter:
    """The lines and zones of one moment, as (points [n, 2] in pixels, text). A picture may be painted much later."""

    lines: tuple
    zones: tuple

    @classmethod
    def of(cls, watch) -> "Painter | None":
        """Return the Painter of what an extras.track.counting.Watch has counted so far; None without a place."""
        lines = tuple((p.ends, f"{p.name} in {p.counts['in']} out {p.counts['out']}") for p in watch.lines)
        zones = tuple((p.corners, f"{p.name} {len(p.inside)} of {p.entered}") for p in watch.zones)
        return cls(lines, zones) if lines or zones else None

    def __call__(self, picture: np.ndarray) -> None:
        """Draw on a picture, uint8 [H, W, 3] BGR, in place; an arrow shows where `in` is."""
        width = max(round(sum(picture.shape[:2]) / 600), 1)
        for corners, text in self.zones:
            cv2.polylines(picture, [np.round(corners).astype(np.int32)], True, ZONE_BGR, width, cv2.LINE_AA)
            write(picture, text, corners.mean(0), ZONE_BGR)
        for ends, text in self.lines:
            start, end = (tuple(map(int, point)) for point in np.round(ends))
            cv2.line(picture, start, end, LINE_BGR, width, cv2.LINE_AA)
            middle, along = ends.mean(0), ends[1] - ends[0]
            tip = middle + np.array([-along[1], along[0]]) / np.hypot(*along) * 12 * width
            cv2.arrowedLine(picture, pixel(middle), pixel(tip), LINE_BGR, width, cv2.LINE_AA, tipLength=0.4)
            write(picture, text, middle + (ends[0] - middle) / 2, LINE_BGR)


def pixel(point) -> tuple:
    """Return a point as OpenCV takes it."""
    return tuple(int(round(float(value))) for value in point)


def write(picture: np.ndarray, text: str, centre, color) -> None:
    """Write a text on a dark ground around `centre`, wholly inside the picture."""
    scale = max(sum(picture.shape[:2]) / 2600, 0.3)
    (w, h), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x, y = pixel(
        np.clip(
            np.subtract(centre, (w / 2, h / 2)), 0, np.maximum(np.subtract(picture.shape[1::-1], (w, h + below)), 0)
        )
    )
    cv2.rectangle(picture, (x, y), (x + w, y + h + below), DARK_BGR, cv2.FILLED)
    cv2.putText(picture, text, (x, y + h), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
