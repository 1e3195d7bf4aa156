"""bfloat16 on a CPU: what --half means there, once it is seen that the boxes stay those of float32. Free of torch."""

from collections.abc import Callable

import cv2
import numpy as np

from models.backends.base import Backend
from utils.general import ROOT
from utils.logger import LOGGER

PICTURES = ROOT / "data" / "images"
MOST_PICTURES = 4
ROWS = 100  # so many of the best predictions are compared
MAX_SCORE = 0.05  # largest difference of a score, and of a box in shares of its longer side, that is accepted
MAX_SHARE = 0.1


def judged(reduced: Backend, open_float32: Callable[[], Backend]) -> Backend:
    """Return `reduced`, a backend in bfloat16, or one in float32 where their results on pictures differ too much."""
    exact = open_float32()
    pictures = sample_pictures(reduced)
    score, share = differences(*(scores_and_boxes(backend, pictures) for backend in (exact, reduced)))
    fits = score <= MAX_SCORE and share <= MAX_SHARE
    found = f"scores differ by at most {score:.4f} from float32's, boxes by {share:.1%} of their longer side"
    if not fits:
        LOGGER.warning(f"--half: float32 is used: with bfloat16 {found}, more than {MAX_SCORE} or {MAX_SHARE:.0%}")
        return exact
    LOGGER.info(f"--half: bfloat16; {found}")
    return reduced


def sample_pictures(backend: Backend) -> np.ndarray:
    """Return the pictures of data/images, uint8 RGB [B, H, W, 3], in the size that the model takes."""
    size = backend.fixed_hw or backend.imgsz or 640
    height, width = (size, size) if isinstance(size, int) else size
    files = sorted(PICTURES.glob("*.jpg"))[:MOST_PICTURES]
    images = [cv2.resize(cv2.imread(str(file)), (width, height))[..., ::-1] for file in files]
    noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.concatenate([np.stack(images), noise]) if images else noise)


def scores_and_boxes(backend: Backend, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return what is compared: scores [rows], and boxes [rows, 4] in px if the rows are the same predictions always.

    Of a classifier the probabilities, of a model with NMS in its file the confidences, which are sorted.
    """
    outputs = [backend.predict(picture[None]) for picture in pictures]
    first = np.concatenate([np.asarray(out[0] if isinstance(out, tuple) else out) for out in outputs])
    if backend.task == "classify":
        powers = np.exp(first - first.max(1, keepdims=True))
        return (powers / powers.sum(1, keepdims=True)).ravel(), None
    if backend.end2end:
        return first[..., 4].ravel(), None
    rows = first.reshape(-1, first.shape[-1])
    return rows[:, 4] * rows[:, 5 : 5 + backend.nc].max(1), rows[:, :4]


def differences(exact: tuple, reduced: tuple) -> tuple[float, float]:
    """Return the largest difference of a score, and of a box in shares of its longer side, among the best ROWS."""
    best = np.argsort(-exact[0], kind="stable")[:ROWS]
    score = float(np.abs(exact[0] - reduced[0])[best].max(initial=0))
    if exact[1] is None:
        return score, 0.0
    boxes, others = exact[1][best], reduced[1][best]
    sides = np.maximum(boxes[:, 2:].max(1, keepdims=True), 1)
    return score, float((np.abs(boxes - others) / sides).max(initial=0))
