"""Training pictures per second of one data-loading process, against a plain cv2 pipeline."""

import contextlib
import io

import cv2

from bench.harness import Call, Comparison
from bench.inputs import training_pictures
from bench.plain.data import PlainDataset
from engine.hyperparameters import load_hyp
from utils.dataloaders import LoadImagesAndLabels

PICTURES, QUICK_PICTURES = 64, 8
SIZES_PX = (640, 320)
# A picture that is cut out and resized is a level from the warped one, from rounding; HSV can make several of one.
# In the outermost pixels the warp mixes in what is outside of the picture.
LEVELS, SHARE, MEAN_LEVELS = 10, 0.001, 0.5  # but for this share, the most that values inside may differ; on average
BOX = 1e-4  # in parts of the picture
MARK = 0.50
DECODING = "decoding the JPEGs alone is half of the plain pipeline's time"
CACHED = "half of our time is the conversion to HSV and back, which both need"


def comparisons(settings) -> list:
    count = QUICK_PICTURES if settings.quick else PICTURES
    folder = training_pictures(settings, count)
    hyp = load_hyp("hyp.scratch-low.yaml")
    cases = [(size, cache) for size in SIZES_PX for cache in (None, "ram")]
    return [
        Comparison(
            what=f"training picture (mosaic, affine, HSV, flips), {size} px, {'--cache ram' if cache else 'no cache'}",
            reference="plain cv2 pipeline",
            ours=Call(lambda size=size, cache=cache: items(product_dataset(folder, size, hyp, cache))),
            theirs=Call(lambda size=size, cache=cache: items(plain_dataset(folder, size, hyp, cache))),
            differ=pictures_differ if size == SIZES_PX[0] else targets_differ,
            mark=MARK,
            per=count,
            why=CACHED if cache else DECODING,
        )
        for size, cache in cases
    ]


def product_dataset(folder, size_px: int, hyp: dict, cache):
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        return LoadImagesAndLabels(str(folder), size_px, augment=True, hyp=hyp, cache_images=cache)


def plain_dataset(folder, size_px: int, hyp: dict, cache):
    return PlainDataset(sorted(folder.glob("*.jpg")), size_px, hyp, cache=bool(cache))


def items(dataset):
    """Return a function that makes each item of epoch 0, without threads, as in a data-loading process."""
    cv2.setNumThreads(0)
    return lambda: [dataset[0, i][:2] for i in range(len(dataset))]


def pictures_differ(ours, theirs) -> str:
    """Compare lists of (image, targets): the same pixels but for interpolation, and the same boxes."""
    for i, ((image, _), (plain_image, _)) in enumerate(zip(ours, theirs)):
        if image.shape != plain_image.shape:
            return f"picture {i}: {list(image.shape)} and {list(plain_image.shape)}"
        difference = (image.int() - plain_image.int()).abs()
        if (mean := difference.float().mean().item()) > MEAN_LEVELS:
            return f"picture {i}: pixels differ by {mean:.2g} levels on average"
        if (share := (difference[:, 1:-1, 1:-1] > LEVELS).float().mean().item()) > SHARE:
            return f"picture {i}: {100 * share:.2g} % of the values differ by more than {LEVELS} levels"
    return targets_differ(ours, theirs)


def targets_differ(ours, theirs) -> str:
    """Compare the boxes alone: where pictures are decoded at half their size, pixels differ by intent."""
    if not sum(len(targets) for _, targets in theirs):
        return "there is no box to compare"
    for i, ((_, targets), (_, expected)) in enumerate(zip(ours, theirs)):
        if targets.shape != expected.shape:
            return f"picture {i}: {len(targets)} and {len(expected)} boxes"
        if len(targets) and (worst := (targets - expected).abs().max().item()) > BOX:
            return f"picture {i}: a box differs by {worst:.2g} of the picture"
    return "" if len(ours) == len(theirs) else f"{len(ours)} and {len(theirs)} pictures"
