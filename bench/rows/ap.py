"""AP of a large synthetic data set against pycocotools."""

import numpy as np

from bench.harness import Call, Comparison
from bench.plain.coco import annotations, coco_ap
from utils.metrics import DetectionMetrics

IMAGES, QUICK_IMAGES = 5000, 200
BOXES, OBJECTS, CLASSES = 100, 12, 80  # of an image: predictions, true ones
TOLERANCE = 1e-6
MARK = 0.10


def comparisons(settings) -> list:
    count = QUICK_IMAGES if settings.quick else IMAGES
    return [
        Comparison(
            what=f"AP of {count:,} images x {BOXES} boxes x {CLASSES} classes",
            reference="pycocotools",
            ours=Call(lambda: product_ap(random_boxes(count))),
            theirs=Call(lambda: pycocotools_ap(random_boxes(count))),
            differ=ap_differs,
            mark=MARK,
        )
    ]


def random_boxes(count: int) -> list:
    """For each image (predictions [100, 6] xyxy, confidence, class; targets [12, 5] class, xyxy), of any quality."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        low, sides = rng.uniform(0, 400, (OBJECTS, 2)), rng.uniform(8, 200, (OBJECTS, 2))
        classes = rng.integers(0, CLASSES, OBJECTS)
        targets = np.concatenate([classes[:, None], low, low + sides], 1)
        owner = rng.integers(0, OBJECTS, BOXES)
        noise = rng.normal(0, 0.08, (BOXES, 4)) * np.tile(sides, 2)[owner]
        boxes = targets[owner, 1:] + noise
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:] - 1), boxes[:, 2:]], 1)
        found = np.where(rng.random(BOXES) < 0.7, classes[owner], rng.integers(0, CLASSES, BOXES))
        images.append((np.concatenate([boxes, rng.random((BOXES, 1)), found[:, None]], 1), targets))
    return images


def product_ap(images: list):
    """Return a function that gives AP [classes], nan for a class without objects."""

    def run():
        metrics = DetectionMetrics(CLASSES)
        for predictions, targets in images:
            metrics.update(predictions, targets)
        result = metrics.compute()
        ap = np.full(CLASSES, np.nan)
        ap[result.classes] = result.ap
        return ap

    return run


def pycocotools_ap(images: list):
    def run():
        truth, found = [], []
        for i, (predictions, targets) in enumerate(images):
            truth += annotations(targets[:, 1:], targets[:, 0], i)
            found += annotations(predictions[:, :4], predictions[:, 5], i, predictions[:, 4])
        return coco_ap(truth, found, len(images), CLASSES)

    return run


def ap_differs(ours, theirs) -> str:
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)) or np.isnan(theirs).all():
        return "not the same classes have objects"
    worst = np.nanmax(abs(ours - theirs))
    return "" if worst <= TOLERANCE else f"the AP of a class differs by {worst:.2g}"
