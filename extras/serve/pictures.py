"""Pictures from the bytes of a request: held against bounds, decoded, letterboxed. The memory of all is counted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from fastapi import HTTPException

from engine.predict.detector import Detector, Prepared
from utils.data.headers import parse_header
from utils.data.images import decode_image
from utils.sources.frame import Frame

MAX_SCANS = 100  # of a JPEG; each goes through all pixels, encoders write some ten
SCAN_START = b"\xff\xda"
RETRY_S = "1"


class Memory:
    """The bytes that all requests hold together, at most `most`."""

    def __init__(self, most: int):
        self.most, self.used = most, 0
        self.lock = threading.Lock()

    def take(self, count: int) -> None:
        """Count further bytes. A refusal (503) beyond the most."""
        with self.lock:
            if self.used + count > self.most:
                raise HTTPException(503, "the server's memory is taken by other requests", {"Retry-After": RETRY_S})
            self.used += count

    def give(self, count: int) -> None:
        with self.lock:
            self.used -= count

    @contextmanager
    def holding(self, count: int = 0) -> Iterator["Held"]:
        """Count `count` bytes, and what is taken of Held inside, until the block ends."""
        held = Held(self)
        try:
            held.take(count)
            yield held
        finally:
            self.give(held.count)


class Held:
    """The bytes of one request."""

    def __init__(self, memory: Memory):
        self.memory, self.count = memory, 0

    def take(self, count: int) -> None:
        self.memory.take(count)
        self.count += count


def prepare(detector: Detector, data: bytes, name: str, max_pixels: int, memory: Memory, keep: bool) -> Prepared:
    """Return a picture ready for the detector; `keep` its pixels for drawing. A refusal (413, 422) if it is unfit."""
    try:
        header = parse_header(data)
        if header.format == "JPEG" and (scans := data.count(SCAN_START)) > MAX_SCANS:
            raise ValueError(f"expected at most {MAX_SCANS} scans in a JPEG, found {scans}")
    except ValueError as error:
        raise HTTPException(422, f"{name}: {error}") from None
    pixels = header.width * header.height
    if pixels > max_pixels:
        found = f"{header.width} x {header.height}"
        raise HTTPException(413, f"{name}: expected at most {max_pixels:,} pixels, found {found}")
    with memory.holding(3 * pixels):
        try:
            image = decode_image(data, name)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        ((prepared,),) = detector.batches([[Frame(name, image)]])
        if not keep:  # Only the shape is needed further on; this array has the same, and one byte.
            prepared.frame.image = np.broadcast_to(np.uint8(0), image.shape)
        return prepared
