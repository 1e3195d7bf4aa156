"""YOLOv5's import path of the mask functions, which live in extras/segment; they return arrays."""

from utils.extras import lazy

NAMES = ("crop_mask", "mask_iou", "process_mask", "process_mask_native")
__getattr__ = lazy(dict.fromkeys(NAMES, "extras.segment.masks"), __name__)
