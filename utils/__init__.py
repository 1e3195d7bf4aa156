"""The floor that everything stands on. The names that YOLOv5 has in this package itself are in extras/compat."""

from utils.extras import lazy

NAMES = ("TryExcept", "emojis", "join_threads", "notebook_init", "threaded")
__getattr__ = lazy(dict.fromkeys(NAMES, "extras.compat.general"), __name__, old=False)
