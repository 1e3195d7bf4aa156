"""YOLOv5's import path of the downloads; the code is in extras/download."""

from utils.extras import lazy

NAMES = ("attempt_download", "download", "safe_unzip")
__getattr__ = lazy(dict.fromkeys(NAMES, "extras.download.files"), __name__)
