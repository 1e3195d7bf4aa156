"""YOLOv5's steps from a picture to a classifier's input, as objects that torchvision's Compose takes."""

import numpy as np
import torch

from extras.classify.transforms import center_crop
from extras.compat.pixels import IMAGENET_MEAN, IMAGENET_STD
from utils.augmentations import letterbox


class LetterBox:
    """uint8 [H, W, 3] -> uint8 of this height and width (an int: both), the picture whole and grey around it."""

    def __init__(self, size=(640, 640), auto: bool = False, stride: int = 32):
        self.size, self.auto, self.stride = size, auto, stride

    def __call__(self, im: np.ndarray) -> np.ndarray:
        return letterbox(im, self.size, auto=self.auto, stride=self.stride)[0]


class CenterCrop:
    """uint8 [H, W, 3] -> its largest central part of this height and width (an int: both), resized to it."""

    def __init__(self, size=640):
        self.size = size

    def __call__(self, im: np.ndarray) -> np.ndarray:
        return center_crop(im, self.size)


class ToTensor:
    """uint8 [H, W, 3] BGR -> float32 (or float16) [3, H, W] RGB of 0 to 1."""

    def __init__(self, half: bool = False):
        self.dtype = torch.float16 if half else torch.float32

    def __call__(self, im: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(im.transpose(2, 0, 1)[::-1])).to(self.dtype) / 255


def classify_transforms(size: int = 224):
    """Return the steps from uint8 [H, W, 3] BGR to float32 [3, size, size] RGB, normalised as ImageNet's are."""
    from torchvision.transforms import Compose, Normalize

    return Compose([CenterCrop(size), ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])
