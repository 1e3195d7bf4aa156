"""extras/classify/plots.py: pictures have every image, the right colours, and survive odd input."""

import cv2
import numpy as np
import pytest
import torch

from extras.classify.metrics import ClassificationMetrics, Mistake
from extras.classify.plots import (
    CAPTION_PX,
    GREEN,
    GREY,
    RED,
    TILE_PX,
    plot_class_images,
    plot_classification_result,
    plot_worst,
)

NAMES = {0: "cat", 1: "dog", 2: "a very long name of a class that cannot fit"}


def caption_color(file, column, row=0):
    """The colour at the right end of a tile's line of text."""
    image = cv2.imread(str(file))
    side = TILE_PX
    return image[row * (side + CAPTION_PX) + side + CAPTION_PX // 2, (column + 1) * side - 4].astype(int)


def is_close(found, expected) -> bool:
    return abs(found - np.array(expected)).max() < 40  # JPEG


def test_predictions_are_green_where_right_and_red_where_wrong(tmp_path):
    images = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    predictions = torch.tensor([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.0, 0.1, 0.9]])
    plot_class_images(images, torch.tensor([0, 0, 0, 2]), tmp_path / "a.png", NAMES, predictions)
    found = [caption_color(tmp_path / "a.png", i % 2, i // 2) for i in range(4)]
    assert [is_close(color, GREEN) for color in found[:3]] == [True, False, True]
    assert is_close(found[1], RED)
    assert cv2.imread(str(tmp_path / "a.png")).shape == (2 * (TILE_PX + CAPTION_PX), 2 * TILE_PX, 3)


@pytest.mark.parametrize(
    "images, targets",
    [
        (torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2])),  # class numbers
        (torch.rand(2, 3, 300, 300), torch.tensor([[0.3, 0.7, 0], [1.0, 0, 0]])),  # mixed; larger than a tile
        (torch.rand(1, 3, 64, 64), torch.tensor([2])),
        (np.zeros((20, 3, 8, 8), np.uint8), np.zeros(20, int)),  # more than fit
    ],
)
def test_a_training_batch(tmp_path, images, targets):
    plot_class_images(images, targets, tmp_path / "a.jpg", NAMES)
    picture = cv2.imread(str(tmp_path / "a.jpg"))
    side = max(TILE_PX, images.shape[-1])
    columns = int(np.ceil(np.sqrt(min(len(images), 16))))
    assert picture.shape[1] == columns * side and picture.shape[0] % (side + CAPTION_PX) == 0
    if len(images) == 3:
        assert is_close(caption_color(tmp_path / "a.jpg", 0), GREY)


def test_image_colours_are_not_swapped(tmp_path):
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[:, 0] = 255  # red
    plot_class_images(images, torch.tensor([0]), tmp_path / "a.png", NAMES)
    assert is_close(cv2.imread(str(tmp_path / "a.png"))[TILE_PX // 2, TILE_PX // 2].astype(int), (0, 0, 255))


def test_worst_mistakes_and_confusion_matrix(tmp_path):
    file = tmp_path / "x.png"
    cv2.imwrite(str(file), np.full((50, 80, 3), 200, np.uint8))
    metrics = ClassificationMetrics(3)
    metrics.update([[0.9, 0.1, 0], [0, 1, 0], [0, 0, 1]], [1, 1, 2], [str(file)] * 3)
    plot_classification_result(metrics.compute(), NAMES, tmp_path)
    assert cv2.imread(str(tmp_path / "confusion_matrix.png")).std() > 1
    assert is_close(caption_color(tmp_path / "worst_mistakes.jpg", 0), RED)


def test_without_mistakes_there_is_no_picture_and_a_lost_file_is_grey(tmp_path):
    plot_worst([], tmp_path / "none.jpg", NAMES)
    assert not (tmp_path / "none.jpg").exists()
    plot_worst([Mistake("gone.jpg", 0, 1, 0.5)], tmp_path / "one.jpg", NAMES)
    assert is_close(cv2.imread(str(tmp_path / "one.jpg"))[50, 50].astype(int), (114, 114, 114))
