"""ByteTrack by the package `trackers`, with our boxes: which box of a frame belongs to which object of the last ones.

The library's times are in seconds, so it follows at the frames' own times, also where their rate varies.
"""

from importlib import import_module

import numpy as np

PACKAGE = "detect.py --track needs the package trackers: pip install trackers"
LEAST_IOU = 0.1  # of a box and where its object should be: ByteTrack's own
SURE_FRAMES = 2  # in so many frames one after the other an object is seen before it gets an id


def load_library():
    """Return the module `trackers`. ImportError with the pip line where it is missing."""
    try:
        return import_module("trackers")
    except ImportError as error:
        raise ImportError(f"{PACKAGE} ({error})") from None


class ByteTracks:
    """The objects of one video or stream. `fps`: about how many frames a second will be shown to update()."""

    def __init__(self, fps: float, lost_s: float):
        self.tracker = load_library().ByteTrackTracker(
            lost_track_buffer=round(30 * lost_s),  # in thirtieths of a second whatever the rate, as it documents
            frame_rate=fps,
            track_activation_threshold=0.5,  # update() gives 1 and 0 for confidences
            high_conf_det_threshold=0.5,
            minimum_iou_threshold=LEAST_IOU,
            minimum_consecutive_frames=SURE_FRAMES,
        )

    def update(self, boxes_xyxy: np.ndarray, is_sure: np.ndarray, time_s: float) -> np.ndarray:
        """Return the ids int [n] from 1 of boxes [n, 4] of the next frame; 0 for a box without an object.

        A box that is_sure [n] may begin an object; the others only show one that is known. Times must rise.
        """
        from supervision import Detections

        rows = {"row": np.arange(len(boxes_xyxy))}
        sure = is_sure.astype(np.float32)
        kinds = np.zeros(len(sure), int)
        found = self.tracker.update(
            Detections(xyxy=boxes_xyxy.astype(np.float32), confidence=sure, class_id=kinds, data=rows), timestamp=time_s
        )
        ids = np.zeros(len(boxes_xyxy), int)
        if len(found):
            ids[found.data["row"]] = found.tracker_id + 1  # its ids begin with 0, and -1 is none
        return ids
