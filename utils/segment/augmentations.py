"""YOLOv5's import path of augmentations that keep polygons; see extras/compat."""

from utils.extras import lazy

__getattr__ = lazy({}, __name__)
