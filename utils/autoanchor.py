"""Do the anchors fit the data set's boxes? If not, find better ones: k-means, then random mutations."""

import numpy as np
import torch

from utils.console.text import progress_bar
from utils.logger import LOGGER

GOOD_RECALL = 0.98  # share of boxes that some anchor must fit for the anchors to be kept
MAX_BOXES = 50_000  # enough for a stable search; more are sampled
KMEANS_STEPS = 30
CHANGED_SHARE, MUTATION = 0.2, 0.1  # share of sides that a mutation changes, standard deviation of their logarithm
MIN_SIDE_PX = 2.0
PREFIX = "AutoAnchor: "


def placeholder_anchors(number: int, levels: int) -> list[list[float]]:
    """Return anchors [levels][2 * number], w, h, w, h ..., that only hold the room for those of a data set."""
    return [[float(x) for x in range(2 * number)]] * levels


def are_placeholders(detect) -> bool:
    """Tell whether the anchors of a Detect are those of placeholder_anchors()."""
    levels, number = detect.anchors.shape[:2]
    wanted = torch.tensor(placeholder_anchors(number, levels)).view_as(detect.anchors)
    return torch.allclose(detect.anchors.cpu() * detect.stride.cpu().view(-1, 1, 1), wanted, atol=1e-3)


def check_anchor_order(detect) -> None:
    """Reverse the anchors of a Detect, in place, if its finest map has the largest. They are in stride units."""
    stride = detect.stride.to(detect.anchors).view(-1, 1, 1)
    anchors_px = detect.anchors * stride
    areas = anchors_px.prod(-1).mean(-1)
    if (areas[-1] - areas[0]) * (stride[-1] - stride[0]) < 0:
        LOGGER.info(f"{PREFIX}reversing the order of the anchors")
        detect.anchors[:] = anchors_px.flip(0) / stride


def check_anchors(dataset, model, thr: float = 4.0, imgsz: int = 640) -> None:
    """Replace the anchors of the model's Detect, in place, if they fit too few boxes and better ones are found.

    A box fits an anchor if neither side differs by more than the factor `thr` (hyperparameter anchor_t). Placeholders
    are always replaced; ValueError where there is no box to do so.
    """
    detect = getattr(model, "module", model).model[-1]
    wh, are_open = box_sizes(dataset, imgsz), are_placeholders(detect)
    if len(wh) == 0 and are_open:
        raise ValueError(f"{PREFIX}the data set has no boxes, from which the sizes of the anchors would come")
    if len(wh) == 0:
        LOGGER.warning(f"{PREFIX}the data set has no boxes, anchors are kept")
        return
    # the augmentation will vary the sizes
    wh = wh * np.random.default_rng(0).uniform(0.9, 1.1, (len(wh), 1))
    stride = detect.stride.to(detect.anchors).view(-1, 1, 1)
    anchors_px = (detect.anchors * stride).reshape(-1, 2).cpu().numpy()
    recall, per_box = anchor_recall(wh, anchors_px, thr)
    found = f"{PREFIX}{per_box:.2f} anchors/target, {recall:.3f} best possible recall (BPR)"
    if recall > GOOD_RECALL and not are_open:
        LOGGER.info(f"{found}: the model's anchors fit the data set")
        return
    reason = f"{PREFIX}the model has their number alone" if are_open else f"{found}: expected more than {GOOD_RECALL}"
    LOGGER.info(f"{reason}, looking for better anchors")
    new_px = kmean_anchors(dataset, n=len(anchors_px), img_size=imgsz, thr=thr, verbose=False)
    new_recall = anchor_recall(wh, new_px, thr)[0]
    if new_recall <= recall and not are_open:
        LOGGER.info(f"{PREFIX}BPR would be {new_recall:.3f}: the model's anchors stay")
        return
    detect.anchors[:] = torch.tensor(new_px).to(detect.anchors).view_as(detect.anchors) / stride
    check_anchor_order(detect)
    LOGGER.info(f"{PREFIX}BPR is now {new_recall:.3f}; to keep these anchors, write them into the model's YAML")


def kmean_anchors(dataset, n=9, img_size=640, thr=4.0, gen=1000, verbose=True, seed=0) -> np.ndarray:
    """Find anchors for a data set (or its YAML): float32 [n, 2] width, height in pixels at img_size, smallest first.

    k-means on the box sizes, then `gen` random mutations of which each is kept if the boxes fit better.
    """
    if isinstance(dataset, (str, dict)) or hasattr(dataset, "__fspath__"):
        dataset = _open_training_set(dataset, img_size)
    rng = np.random.default_rng(seed)
    wh = box_sizes(dataset, img_size)
    small = (wh < 3).any(1).sum()
    if small:
        LOGGER.warning(f"{PREFIX}{small} of {len(wh)} boxes are less than 3 pixels wide or high at {img_size}")
    wh = wh[(wh >= MIN_SIDE_PX).any(1)]
    if len(wh) < n:
        LOGGER.warning(f"{PREFIX}{len(wh)} boxes are too few for {n} anchors: a geometric series is used")
        return (img_size * np.geomspace(1 / 64, 0.75, n)[:, None] * np.ones(2)).astype(np.float32)
    if len(wh) > MAX_BOXES:
        wh = rng.choice(wh, MAX_BOXES, replace=False)
    anchors = _sorted_by_area(_kmeans(wh, n, rng))
    LOGGER.info(f"{PREFIX}k-means of {len(wh)} boxes: {_describe(wh, anchors, thr)}")
    anchors = _evolve(wh, anchors, thr, gen, rng, verbose)
    LOGGER.info(f"{PREFIX}after {gen} mutations: {_describe(wh, anchors, thr)}")
    return anchors.astype(np.float32)


def box_sizes(dataset, img_size: int) -> np.ndarray:
    """Width and height in pixels [M, 2] of all boxes of a data set, in images whose longer side is img_size."""
    scaled = img_size * dataset.shapes / dataset.shapes.max(1, keepdims=True)
    counts = [len(rows) for rows in dataset.labels]
    return np.repeat(scaled, counts, 0) * np.concatenate([rows[:, 3:5] for rows in dataset.labels], 0)


def anchor_recall(wh: np.ndarray, anchors_px: np.ndarray, thr: float) -> tuple[float, float]:
    """Return (share of boxes that fit at least one anchor, mean number of anchors that a box fits)."""
    fits = _likeness(wh, anchors_px) > 1 / thr
    return float(fits.any(1).mean()), float(fits.sum(1).mean())


def _likeness(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return [M, n] the smaller of the ratios of widths and of heights, each taken so that it is at most 1."""
    ratio = wh[:, None] / anchors[None]
    return np.minimum(ratio, 1 / ratio).min(2)


def _fitness(wh: np.ndarray, anchors: np.ndarray, thr: float) -> float:
    """Mean likeness of each box to its best anchor, where only a fit counts."""
    best = _likeness(wh, anchors).max(1)
    return float((best * (best > 1 / thr)).mean())


def _kmeans(wh: np.ndarray, n: int, rng) -> np.ndarray:
    """Run Lloyd's algorithm on the logarithms of the sizes, as a fit is a matter of ratios, from area quantiles."""
    points = np.log(wh.clip(1))
    by_area = points[points.sum(1).argsort(kind="stable")]
    centres = by_area[((np.arange(n) + 0.5) / n * len(points)).astype(int)]
    for _ in range(KMEANS_STEPS):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
        sums = np.stack([np.bincount(nearest, points[:, axis], n) for axis in (0, 1)], 1)
        counts = np.bincount(nearest, minlength=n)[:, None]
        # a centre that lost all its points starts again from a random one
        centres = np.where(counts > 0, sums / counts.clip(1), points[rng.integers(len(points), size=n)])
    return np.exp(centres)


def _evolve(wh: np.ndarray, anchors: np.ndarray, thr: float, generations: int, rng, verbose: bool) -> np.ndarray:
    """Hill climbing: each candidate has a few of the sides changed by some per cent."""
    best = _fitness(wh, anchors, thr)
    bar = progress_bar(range(generations), f"{PREFIX}mutating anchors")
    for _ in bar:
        changed = rng.random(anchors.shape) < CHANGED_SHARE
        candidate = (anchors * np.exp(changed * rng.normal(0, MUTATION, anchors.shape))).clip(MIN_SIDE_PX)
        fitness = _fitness(wh, candidate, thr)
        if fitness > best:
            anchors, best = candidate, fitness
            bar.set_postfix(fitness=f"{best:.4f}", refresh=False)
            if verbose:
                LOGGER.info(f"{PREFIX}{_describe(wh, _sorted_by_area(anchors), thr)}")
    return _sorted_by_area(anchors)


def _sorted_by_area(anchors: np.ndarray) -> np.ndarray:
    return anchors[anchors.prod(1).argsort()]


def _describe(wh: np.ndarray, anchors: np.ndarray, thr: float) -> str:
    recall, per_box = anchor_recall(wh, anchors, thr)
    sizes = ", ".join(f"{round(w)},{round(h)}" for w, h in anchors)
    return f"BPR {recall:.4f}, {per_box:.2f} anchors/target: {sizes}"


def _open_training_set(data, img_size: int):
    from utils.data.config import check_dataset
    from utils.dataloaders import LoadImagesAndLabels

    data = check_dataset(data)
    return LoadImagesAndLabels(data["train"], img_size, nc=data["nc"])
