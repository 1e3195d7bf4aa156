"""YOLOv5's import path of the data set with masks; see extras/compat."""

from utils.extras import lazy

__getattr__ = lazy({}, __name__)
