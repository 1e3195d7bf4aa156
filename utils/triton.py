"""YOLOv5's import path of an inference server's client; see extras/compat."""

from utils.extras import lazy

__getattr__ = lazy({}, __name__)
