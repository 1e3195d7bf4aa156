"""detect.py --tile against SAHI: the same model, pictures, tiles and confidences; time, AP and objects on seams."""

from functools import cache
from pathlib import Path

import numpy as np

from bench.harness import Call, Comparison, Row
from bench.inputs import PHOTOGRAPHS, SHARED, shared_file
from extras.tile.grid import views_of
from extras.tile.tiler import Tiler, may_join
from models.backends import DetectMultiBackend
from utils.boxes import bbox_ioa, box_iou, xywhn2xyxy
from utils.data.images import read_image
from utils.data.label_files import image_to_label_path
from utils.general import SHAPES_WEIGHTS
from utils.metrics import DetectionMetrics, DetectionResult

MOSAICS, QUICK_MOSAICS = 6, 1
SIDE_PX = 2560  # of a mosaic of photographs in their own size
TILE_PX, OVERLAP, SIZE_PX = 640, 0.2, 640
LOW, USUAL = 0.01, 0.25  # confidences: for AP, and in use
NMS_IOU, MAX_DET = 0.45, 1000
MARK = 0.70
INSIDE = 0.7  # share of a box that lies in an object, to be counted as one for it
FORWARD = "nearly all of both sides' time are forward passes"


def comparisons(settings) -> list:
    count = QUICK_MOSAICS if settings.quick else MOSAICS
    return [
        Comparison(
            what=f"--tile, {count} mosaics of {SIDE_PX} px, tiles of {TILE_PX} px, confidence {confidence:g}",
            reference="SAHI",
            ours=Call(lambda c=confidence: ours(settings, c, count), keeps_memory=True),
            theirs=Call(lambda c=confidence: theirs(settings, c, count), keeps_memory=True),
            differ=lambda mine, other: worse(mine, other, count),
            mark=MARK,
            why=FORWARD,
            per=count,
            with_memory=False,
        )
        for confidence in (LOW, USUAL)
    ]


def measurements(settings):
    """Yield what is found, as rows without a mark."""
    count = QUICK_MOSAICS if settings.quick else MOSAICS
    pair = [side(settings, LOW, count)() for side in (ours, theirs)]
    results = [scored(found, count) for found in pair]
    for name in ("map", "ap_small", "ap_medium", "ap_large"):
        figures = [getattr(result, name) for result in results]
        yield Row(f"mosaics, {name} (higher is better)", "SAHI", ours=figures[0], theirs=figures[1], unit="")
    seams = [share_found_once(side(settings, USUAL, count)(), count) for side in (ours, theirs)]
    what = f"mosaics, share of objects on a seam found exactly once from confidence {USUAL:g} (higher is better)"
    yield Row(what, "SAHI", ours=seams[0], theirs=seams[1], unit="")


def weights_of(settings) -> Path:
    """Return the checkpoint that knows COCO's classes."""
    is_own = Path(settings.weights) != SHAPES_WEIGHTS
    return Path(settings.weights) if is_own else shared_file(SHARED / "weights" / "yolov5n.pt")


def ours(settings, confidence: float, count: int):
    """Return the function that finds the boxes [n, 6] of each mosaic."""
    pictures = [picture for picture, _ in mosaics(count)]
    nms = {"conf_thres": confidence, "iou_thres": NMS_IOU, "max_det": MAX_DET}
    model = DetectMultiBackend(weights_of(settings), "cpu", threads=settings.threads)
    tiler = Tiler(model, (SIZE_PX, SIZE_PX), TILE_PX, OVERLAP, nms, joined=may_join(model))
    return lambda: [tiler.find_boxes(picture) for picture in pictures]


def theirs(settings, confidence: float, count: int):
    """Return the same by SAHI, with its own defaults."""
    from bench.plain.sahi_model import sahi_finder

    pictures = [picture for picture, _ in mosaics(count)]
    find = sahi_finder(weights_of(settings), confidence, SIZE_PX, TILE_PX, OVERLAP, settings.threads)
    return lambda: [find(picture) for picture in pictures]


@cache
def mosaics(count: int) -> list:
    """Return pictures, uint8 RGB [SIDE_PX, SIDE_PX, 3] of whole photographs side by side, with boxes [m, 5]."""
    made, files = [], sorted(shared_file(PHOTOGRAPHS).glob("*.jpg"))
    while len(made) < count and files:
        canvas, boxes, x, y, row_px = np.full((SIDE_PX, SIDE_PX, 3), 114, np.uint8), [], 0, 0, 0
        while files:
            picture = read_image(files[0])[..., ::-1]
            height, width = picture.shape[:2]
            if x + width > SIDE_PX:
                x, y, row_px = 0, y + row_px, 0
            if y + height > SIDE_PX:
                break
            canvas[y : y + height, x : x + width] = picture
            boxes.append(labels_of(files.pop(0), width, height) + np.array([0, x, y, x, y]))
            x, row_px = x + width, max(row_px, height)
        made.append((canvas, np.concatenate(boxes)))
    return made


def labels_of(file: Path, width: int, height: int) -> np.ndarray:
    """Return the true boxes [m, 5] (class, xyxy in pixels) of a photograph."""
    label_file = Path(image_to_label_path(file))
    text = label_file.read_text() if label_file.exists() else ""
    rows = np.array([line.split() for line in text.splitlines()], float).reshape(-1, 5)
    return np.concatenate([rows[:, :1], xywhn2xyxy(rows[:, 1:], width, height)], 1)


def scored(found: list, count: int) -> DetectionResult:
    metrics = DetectionMetrics(80)
    for boxes, (_, truth) in zip(found, mosaics(count)):
        metrics.update(boxes, truth)
    return metrics.compute()


def worse(mine: list, other: list, count: int) -> str:
    """Return in words which AP of ours is lower than SAHI's."""
    a, b = scored(mine, count), scored(other, count)
    figures = {name: (getattr(a, name), getattr(b, name)) for name in ("map", "ap_small")}
    return ", ".join(f"{name} {x:.4f} is below {y:.4f}" for name, (x, y) in figures.items() if x < y)


def share_found_once(found: list, count: int) -> float:
    """Return the share of the objects across a tile's border for which there is one box, and that box fits."""
    once, total = 0, 0
    for boxes, (picture, truth) in zip(found, mosaics(count)):
        boxes = boxes[boxes[:, 4] > USUAL]
        tiles = views_of(*picture.shape[:2], TILE_PX, OVERLAP)[1:]
        for cls, *box in truth[crosses(truth[:, 1:], tiles)]:
            mine = boxes[boxes[:, 5] == cls]
            near = mine[bbox_ioa(np.array(box), mine[:, :4]) > INSIDE, :4]
            others = truth[(truth[:, 0] == cls) & (truth[:, 1:] != box).any(1), 1:]
            fits = box_iou(near, np.array([box]))[:, 0]
            own = near[fits >= box_iou(near, others).max(1, initial=0)]
            once += len(own) == 1 and box_iou(own, np.array([box]))[0, 0] >= 0.5
            total += 1
    return once / max(total, 1)


def crosses(boxes, tiles) -> np.ndarray:
    """Return which boxes [n, 4] a border of a tile [k, 4] inside the picture cuts: bool [n]."""
    cut = np.zeros(len(boxes), bool)
    for axis in (0, 1):
        for line in np.unique(tiles[:, [axis, axis + 2]]):
            cut |= (boxes[:, axis] < line - 2) & (boxes[:, axis + 2] > line + 2)
    return cut
