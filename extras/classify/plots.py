"""Pictures of classified images: batches with their classes, predictions beside the truth, the worst mistakes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from extras.classify.transforms import center_crop
from utils.data.images import read_image, write_image
from utils.plots.charts import plot_confusion_matrix
from utils.plots.pictures import Annotator, to_numpy

TILE_PX = 192  # least side of an image in a picture
CAPTION_PX = 18  # height of a line below an image
GREEN, RED, GREY, WHITE = (96, 174, 39), (60, 57, 214), (90, 90, 90), (255, 255, 255)  # BGR


def plot_tiles(images: list, captions: list, colors: list, file, columns: int | None = None) -> None:
    """Write square uint8 BGR images in rows, each above a line of text on its colour (BGR)."""
    side = max(TILE_PX, *(len(image) for image in images)) if images else TILE_PX
    columns = columns or max(int(np.ceil(np.sqrt(len(images)))), 1)
    rows = max(-(-len(images) // columns), 1)
    canvas = np.full((rows * (side + CAPTION_PX), columns * side, 3), 255, np.uint8)
    for i, (image, caption, color) in enumerate(zip(images, captions, colors)):
        smooth = cv2.INTER_AREA if len(image) > side else cv2.INTER_LINEAR
        tile = np.full((side + CAPTION_PX, side, 3), color, np.uint8)
        tile[:side] = cv2.resize(image, (side, side), interpolation=smooth)
        annotator = Annotator(tile, line_width=1, font_size=12, example="".join(captions))
        while len(caption) > 1 and annotator.text_size(caption)[0] > side:
            caption = caption[:-2] + "~"
        annotator.text((0, side), caption, WHITE)
        y, x = i // columns * (side + CAPTION_PX), i % columns * side
        tile = annotator.result()
        canvas[y : y + side + CAPTION_PX, x : x + side] = tile
        cv2.rectangle(canvas, (x, y), (x + side - 1, y + side + CAPTION_PX - 1), WHITE, 1)
    write_image(file, canvas)


def plot_class_images(images, targets, file, names, predictions=None, max_tiles: int = 16) -> None:
    """Draw a picture of a batch with its classes, or with true and predicted ones.

    Args:
        images: [B, 3, H, W] RGB, uint8, or float in 0..1.
        targets: class numbers [B], or shares [B, nc] of mixed images.
        file: picture to write.
        names: {class number: name}.
        predictions: probabilities [B, nc]. The text is green where the most likely class is true, else red.
    """
    images, targets = to_numpy(images)[:max_tiles], to_numpy(targets)[:max_tiles]
    if images.dtype != np.uint8:
        images = np.clip(images * 255, 0, 255).round().astype(np.uint8)
    captions, colors = [_described(target, names) for target in targets], [GREY] * len(images)
    if predictions is not None:
        predictions = to_numpy(predictions)[:max_tiles]
        predicted = predictions.argmax(1)
        colors = [GREEN if true == found else RED for true, found in zip(targets, predicted)]
        captions = [
            f"{caption} / {names[int(cls)]} {row[cls]:.2f}"
            for caption, cls, row in zip(captions, predicted, predictions)
        ]
    pictures = [np.ascontiguousarray(image.transpose(1, 2, 0)[..., ::-1]) for image in images]
    plot_tiles(pictures, captions, colors, file)


def _described(target, names) -> str:
    """Return the class's name; of a mixed image its two largest parts."""
    if np.ndim(target) == 0:
        return str(names[int(target)])
    first, second = (np.argsort(-target, kind="stable")[:2].tolist() * 2)[:2]
    if target[second] < 0.005 or first == second:
        return str(names[first])
    return f"{names[first]} {target[first]:.2f} + {names[second]} {target[second]:.2f}"


def plot_worst(mistakes: list, file, names) -> None:
    """Draw the most confident mistakes (extras.classify.metrics.Mistake): true / predicted class."""
    images, captions = [], []
    for mistake in mistakes:
        try:
            images.append(center_crop(read_image(mistake.path), TILE_PX))
        except (OSError, ValueError):
            images.append(np.full((TILE_PX, TILE_PX, 3), 114, np.uint8))
        name = f"{names[mistake.true]} / {names[mistake.predicted]} {mistake.confidence:.2f}"
        captions.append(f"{name} {Path(mistake.path).name}")
    if images:
        plot_tiles(images, captions, [RED] * len(images), file)


def plot_classification_result(result, names, folder) -> None:
    """Write confusion_matrix.png and, if there are any, worst_mistakes.jpg of a ClassificationResult."""
    plot_confusion_matrix(result.matrix, Path(folder) / "confusion_matrix.png", names, background=False)
    plot_worst(result.worst, Path(folder) / "worst_mistakes.jpg", names)
