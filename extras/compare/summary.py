"""Lines of val.py and of a training's end on how far their figures can be trusted."""

from pathlib import Path

from extras.compare.bootstrap import LEVEL, RESAMPLES, interval, mean_ap, sample_weights
from extras.compare.errors import error_lines, error_split
from extras.compare.matching import match_images, weighted_ap
from extras.compare.records import FILE_NAME, Evidence
from utils.logger import LOGGER

CHART = "error_split.png"


class EvidenceObserver(Evidence):
    """The evidence of a validation that is under way; engine.val.detection adds the images and closes it."""

    def close(self, options) -> None:
        """Conclude from the images; options: an engine.val.evaluator.EvalOptions. Nothing happens without images."""
        if self.images:
            conclude(self, options.save_dir, options.verbose, options.plots)


def conclude(evidence: Evidence, folder, verbose: bool = False, plots: bool = False) -> None:
    """Write FOLDER/evidence.npz, print the intervals and, if verbose, the split of the errors; plots: draw that."""
    evidence.save(Path(folder) / FILE_NAME)
    matches = match_images(evidence)
    LOGGER.info(interval_line(matches))
    if not (verbose or plots):
        return
    split = error_split(matches)
    if verbose:
        LOGGER.info("\n".join(error_lines(split)))
    if plots:
        from extras.compare.charts import plot_error_split

        plot_error_split({"": split.gains}, Path(folder) / CHART)


def interval_line(matches: list, resamples: int = RESAMPLES, seed: int = 0) -> str:
    """Return a line with the mAP50 and mAP50-95 of match_images() and their intervals, or why there are none."""
    targets = sum(len(image.targets) for image in matches)
    if len(matches) < 2 or targets == 0:
        return f"no interval of mAP: at least 2 images and 1 target are needed, found {len(matches)} and {targets}"
    _, ap = weighted_ap(matches, sample_weights(len(matches), resamples, seed))
    return f"{mean_line(ap)}, {resamples} resamples of {len(matches)} images"


def mean_line(ap) -> str:
    """Return mAP50 and mAP50-95 with their intervals, from AP [1 + resamples, k, 10]."""
    map50, map50_95 = map(interval, mean_ap(ap))
    level = f"{LEVEL * 100:.0f} % interval"
    return f"mAP50 {map50.value:.3f} ({level} {map50.low:.3f} to {map50.high:.3f}), mAP50-95 {map50_95}"
