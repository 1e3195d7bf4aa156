"""extras/classify/transforms.py: what a classifier sees of an image."""

import cv2
import numpy as np
import pytest
import torch

from extras.classify.transforms import center_crop, resize


@pytest.mark.parametrize(
    "hw, imgsz, seen",  # seen: rows and columns of the image, from and to
    [
        ((100, 100), 50, (0, 100, 0, 100)),  # a square: all of it
        ((100, 200), 50, (0, 100, 50, 150)),  # wide
        ((200, 100), 50, (50, 150, 0, 100)),  # tall
        ((101, 60), 64, (20, 80, 0, 60)),  # enlarged; an odd rest goes to the end
        ((90, 120), (60, 80), (0, 90, 0, 120)),  # height and width
        ((90, 240), [60, 80], (0, 90, 60, 180)),
        ((1, 500), 32, (0, 1, 249, 250)),  # a line
        ((64, 64), 64, (0, 64, 0, 64)),  # nothing to do
    ],
)
def test_the_central_part_in_the_target_shape(hw, imgsz, seen):
    ys, xs = np.mgrid[: hw[0], : hw[1]]
    image = np.stack([ys % 256, xs % 256, (ys + xs) % 256], -1).astype(np.uint8)
    top, bottom, left, right = seen
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    expected = resize(np.ascontiguousarray(image[top:bottom, left:right]), (width, height))
    found = center_crop(image, imgsz)
    assert found.shape == (height, width, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_shrinking_is_antialiased():
    """Stripes of one pixel become grey, not other stripes; the result is near torch's antialiased resize."""
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(center_crop(stripes, 40).astype(int) - 127).max() <= 43  # three columns make one
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (300, 200, 3), dtype=np.uint8), (0, 0), 3)
    rgb = torch.from_numpy(photo).permute(2, 0, 1)[None, :, 50:250].float()
    expected = torch.nn.functional.interpolate(rgb, size=(64, 64), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert abs(center_crop(photo, 64).astype(float) - expected.numpy()).mean() < 2
