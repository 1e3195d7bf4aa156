"""What every runtime offers to val.py, detect.py and hubconf.py. Imports numpy alone: not every runtime needs torch."""

import numpy as np


class Backend:
    """A model file, opened by its runtime and ready for inference.

    names   {class number: name}
    stride  pixels; the image's height and width must be multiples of it
    imgsz   image size in pixels that the model was made for, or None
    fp16    True if the runtime computes in half precision
    device  where it computes
    """

    names: dict
    stride: int = 32
    imgsz = None
    fp16: bool = False
    device = "cpu"

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def prepare(self, images: np.ndarray):
        """The runtime's input (RGB, 0 to 1, [B, 3, H, W]) from uint8 RGB images [B, H, W, 3]."""
        raise NotImplementedError

    def forward(self, images, augment: bool = False, visualize=False):
        """Predictions [B, N, 5 + nc] of prepared images: xywh in input pixels, objectness, class scores.

        augment: test-time augmentation. visualize: a folder for pictures of the feature maps, or False.
        """
        raise NotImplementedError

    def predict(self, images: np.ndarray, augment: bool = False, visualize=False):
        """forward() of prepare(): predictions [B, N, 5 + nc] of uint8 RGB images [B, H, W, 3]."""
        return self.forward(self.prepare(images), augment, visualize)

    def parallel_map(self, function, items):
        """function(item) for each item, in order, with as many at once as is fastest where function calls predict()."""
        return map(function, items)

    def warmup(self, imgsz=(1, 3, 640, 640)) -> None:
        """Do whatever the first forward of this shape would do once; by default nothing."""
