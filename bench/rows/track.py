"""detect.py --track on drawn videos: MOTA, IDF1 and HOTA by the package trackeval, with perfect boxes and with ours.

With perfect boxes (those of all objects of which 0.3 is seen) the package `trackers` with its own defaults stands
beside the way in which we call it. Higher is better.
"""

from functools import cache

import numpy as np

from bench.harness import Row
from extras.shapes.videos import SCENES, draw_video
from extras.track.bytetrack import ByteTracks, load_library
from extras.track.follower import Follower
from extras.track.places import Places
from utils.boxes import box_iou

SEEDS, QUICK_SEEDS = 3, 1
FPS = 30.0
CONF_THRES, SIZE_PX = 0.25, 192
LOST_S = 2.0  # of detect.py


def measurements(settings):
    seeds = QUICK_SEEDS if settings.quick else SEEDS
    for scene in SCENES:
        truths = [[truth for _, truth in video(scene, seed)] for seed in range(seeds)]
        steady = [np.arange(len(truth)) / FPS for truth in truths]
        sides = {
            "perfect boxes": [with_ours(t, times) for t, times in zip(truths, steady)],
            f"boxes of the detector, {SIZE_PX} px": [detected(scene, seed, settings) for seed in range(seeds)],
        }
        theirs = score(truths, [with_library(truth) for truth in truths])
        for boxes, found in sides.items():
            ours = score(truths, found)
            for name, value in ours.items():
                what = f"{scene}, {name}, {boxes}, {seeds} videos (higher is better)"
                yield Row(what, "trackers' defaults, perfect boxes", ours=value, theirs=theirs[name], unit="")


@cache
def video(scene: str, seed: int) -> list:
    """Return the frames of a drawn video: (picture, Truth)."""
    return list(draw_video(scene, seed))


def with_ours(truths: list, times_s) -> list:
    """Return (ids, boxes_xyxy) for each frame as extras/track finds them in perfect boxes."""
    tracks = ByteTracks(FPS, LOST_S)
    found = []
    for truth, time_s in zip(truths, times_s):
        ids = tracks.update(truth.boxes_xyxy, np.ones(len(truth.ids), bool), time_s)
        found.append((ids, truth.boxes_xyxy))
    return found


def with_library(truths: list) -> list:
    """Return the same by the package's own tracker with its own defaults, frame by frame."""
    from supervision import Detections

    tracker = load_library().ByteTrackTracker(frame_rate=FPS)
    found = []
    for truth in truths:
        ones = np.ones(len(truth.ids), np.float32)
        boxes = Detections(xyxy=truth.boxes_xyxy, confidence=ones, class_id=truth.kinds)
        tracked = tracker.update(boxes)
        found.append((tracked.tracker_id + 1, tracked.xyxy))
    return found


def detected(scene: str, seed: int, settings) -> list:
    """Return (ids, boxes_xyxy) for each frame as detect.py --track finds them in the pictures."""
    from engine.predict.detector import Detector
    from models.backends import DetectMultiBackend
    from utils.sources.frame import Frame

    follower = Follower(Places(), LOST_S)
    options = follower.adjusted({"conf_thres": CONF_THRES})
    model = DetectMultiBackend(settings.weights, "cpu", threads=settings.threads)
    detector = Detector(model, [SIZE_PX, SIZE_PX], **options)
    frames = [
        [Frame(scene, picture, "video", frame=number + 1, fps=FPS, time_s=number / FPS)]
        for number, (picture, _) in enumerate(video(scene, seed))
    ]
    found = []
    for batch in detector.batches(frames):
        for _, result, line in detector.detect(batch):
            followed, _ = follower.follow(result, line)
            found.append((followed.ids, followed.boxes[:, :4]))
    return found


def score(truths: list, found: list) -> dict:
    """Return MOTA, IDF1 and HOTA over several videos, by trackeval. Boxes without an id count as not found."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    quiet = {"PRINT_CONFIG": False}
    data = {str(i): as_trackeval(*pair) for i, pair in enumerate(zip(truths, found))}
    scores = {}
    for metric, name in ((CLEAR(quiet), "MOTA"), (Identity(quiet), "IDF1"), (HOTA(), "HOTA")):
        of_each = {key: metric.eval_sequence(sequence) for key, sequence in data.items()}
        scores[name] = float(np.mean(metric.combine_sequences(of_each)[name]))
    return scores


def as_trackeval(truths: list, found: list) -> dict:
    """Return one video as trackeval's metrics take it: ids from 0 without gaps, IoU of all pairs of boxes."""
    found = [(ids[ids > 0], boxes[ids > 0]) for ids, boxes in found]
    true_ids, true_count = renumbered([truth.ids for truth in truths])
    found_ids, found_count = renumbered([ids for ids, _ in found])
    pairs = zip(truths, found)
    return {
        "num_timesteps": len(truths),
        "gt_ids": true_ids,
        "tracker_ids": found_ids,
        "num_gt_ids": true_count,
        "num_tracker_ids": found_count,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, found_ids)),
        "similarity_scores": [iou(truth.boxes_xyxy, boxes) for truth, (_, boxes) in pairs],
    }


def iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    return np.asarray(box_iou(np.float32(a_xyxy), np.float32(b_xyxy)), float).reshape(len(a_xyxy), len(b_xyxy))


def renumbered(ids: list) -> tuple:
    """Return arrays of ids with numbers from 0 in their place, and how many there are."""
    known = np.unique(np.concatenate(ids)) if ids else np.zeros(0, int)
    return [np.searchsorted(known, one) for one in ids], len(known)
