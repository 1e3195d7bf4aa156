"""The gate of export.py for a file in a client's layout: it is run and decoded as the client does it."""

import cv2
import numpy as np

from extras.clients.decoding import DECODERS, Setting
from extras.clients.layouts import Layout
from extras.clients.runners import RUNNERS, prepared
from extras.export.parity import Gate, Parity
from models.backends.metadata import Metadata


class ClientFile:
    """A written file that gives what a DetectMultiBackend gives, by way of a client's decoding."""

    def __init__(self, file, runtime: str, layout: Layout, setting: Setting, metadata: Metadata, image: str = "nchw"):
        self.run, self.decode, self.image = RUNNERS[runtime](file), DECODERS[layout.name], image
        self.setting, self.batch = setting, None if metadata.dynamic else metadata.batch
        self.has_image_column = layout.name == "flat7"

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return predictions [B, N, 5 + nc], or boxes [B, n, 6], for uint8 RGB images [B, H, W, 3]."""
        size = self.batch or len(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filler = np.zeros((size - len(part), *part.shape[1:]), np.uint8)
            tensors = self.run(prepared(np.concatenate([part, filler]), self.image))
            tensors = [np.asarray(tensor, np.float32) for tensor in tensors]
            options = {"batch": size} if self.has_image_column else {}
            parts.append(self.decode(tensors, self.setting, **options)[: len(part)])
        return np.concatenate(parts)


class ClientGate(Gate):
    """Compares a ClientFile with the model that it was made from, on pictures that are prepared as the client does."""

    def __init__(self, reference, exported: ClientFile, imgsz, metadata: Metadata, layout: Layout, is_stretched: bool):
        super().__init__(reference, _Opened(exported, metadata, layout), imgsz, metadata.precision)
        self.exported, self.best_only, self.is_stretched = exported, layout.name == "rows6", is_stretched

    def _prepared(self, image) -> tuple:
        if not self.is_stretched:
            return super()._prepared(image)
        height, width = self.imgsz
        return cv2.cvtColor(cv2.resize(image, (width, height)), cv2.COLOR_BGR2RGB), None

    def _compare_rows(self, expected: np.ndarray, found: np.ndarray) -> Parity:
        """Compare raw predictions; only the best class of each row where the layout has no more."""
        if self.best_only:
            expected, found = (_best_class(rows) for rows in (expected, found))
        return super()._compare_rows(expected, found)


class _Opened:
    """What a Gate reads of a DetectMultiBackend besides its predictions."""

    def __init__(self, file: ClientFile, metadata: Metadata, layout: Layout):
        self.backend, self.stride = self, metadata.stride
        self.fixed_hw = None if metadata.dynamic else tuple(metadata.imgsz)
        self.metadata = Metadata(**{**vars(metadata), "output": "boxes" if layout.has_nms else "raw"})


def _best_class(rows: np.ndarray) -> np.ndarray:
    """Return raw predictions [B, N, 6] of one class, with the best class's score."""
    return np.concatenate([rows[..., :5], rows[..., 5:].max(2, keepdims=True)], 2)
