"""YOLOv5's import path of TensorFlow's layers, which there are none of; see extras/compat."""

from utils.extras import lazy

__getattr__ = lazy({}, __name__)
