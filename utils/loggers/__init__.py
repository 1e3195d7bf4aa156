"""The loggers of a training. YOLOv5's other names are in extras/compat."""

from utils.extras import lazy

__getattr__ = lazy({}, __name__)
