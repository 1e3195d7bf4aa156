"""YOLOv5's older import path of utils.downloads."""

from utils.extras import lazy

__getattr__ = lazy({}, __name__)
