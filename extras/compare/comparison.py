"""Figures of validations on the same images, side by side, and whether they truly differ: compare.py.

The same resamples of the images are scored for every run (a paired bootstrap), so what makes an image hard for all of
them cancels out. Every run is compared with the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from extras.compare.bootstrap import LEVEL, Interval, interval, mean_ap, p_value, sample_weights
from extras.compare.errors import ErrorSplit, error_lines, error_split
from extras.compare.matching import match_images, weighted_ap
from extras.compare.records import FILE_NAME, Evidence
from extras.compare.summary import CHART, mean_line
from utils.general import increment_path
from utils.logger import LOGGER, colorize

MAX_LABEL_SHIFT = 1.0  # pixels that a target may differ in two runs: each went through another image size and back
METRICS = ("mAP50", "mAP50-95")


@dataclass
class Run:
    """One validation with what follows from it."""

    name: str  # as the user gave it
    names: dict  # class number -> name
    errors: ErrorSplit
    classes: np.ndarray  # [k] with targets
    ap: np.ndarray  # [1 + resamples, k, 10]


@dataclass
class Difference:
    """A run against the first one in one metric, of all classes together or of one."""

    run: str
    metric: str  # one of METRICS
    cls: str  # a class name, '' for all
    value: float  # the run's own
    baseline: float  # the first run's
    change: Interval
    p: float

    @property
    def is_noise(self) -> bool:
        """True if the choice of images may well explain it."""
        return not self.p < 1 - LEVEL


def compare(opt) -> list:
    """Compare by the options of compare.py: print, draw, and return every Difference.

    ValueError or FileNotFoundError for runs that are not there or cannot be compared.
    """
    if not opt.runs:
        raise ValueError("expected at least one run folder, found none")
    if len(set(map(str, opt.runs))) < len(opt.runs):
        raise ValueError(f"expected different runs, found one of them twice in {', '.join(map(str, opt.runs))}")
    evidence = {str(source): Evidence.load(evidence_file(source)) for source in opt.runs}
    first, baseline = next(iter(evidence.items()))
    aligned = {name: align(baseline, other, first, name) for name, other in evidence.items()}
    n_images = len(baseline.images)
    if n_images < 2 or not any(map(len, baseline.targets)):
        raise ValueError(f"{first}: expected at least 2 images and 1 label, found {n_images} and no more labels")
    weights = sample_weights(n_images, opt.resamples, opt.seed)
    runs = [score(name, other, weights) for name, other in aligned.items()]

    LOGGER.info(f"{n_images} images of {baseline.data or 'an unnamed data set'}, {opt.resamples} resamples")
    for run in runs:
        LOGGER.info(f"\n{colorize(run.name, 'heading')}\n{mean_line(run.ap)}")
        LOGGER.info("\n".join(error_lines(run.errors)))
    differences = [difference for run in runs[1:] for difference in differences_of(runs[0], run)]
    print_differences(differences, runs[0], opt.verbose)
    draw(runs, increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True))
    return differences


def evidence_file(source) -> Path:
    """Return the evidence of a run folder, or the file itself; FileNotFoundError if it is not there."""
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such run folder")
    file = source / FILE_NAME if source.is_dir() else source
    if not file.exists():
        raise FileNotFoundError(f"{source}: expected {FILE_NAME} in it, as val.py and the end of a training write it")
    return file


def align(baseline: Evidence, other: Evidence, first: str, name: str) -> Evidence:
    """Return `other` with its images in `baseline`'s order. ValueError if classes, images or labels differ."""
    if baseline.names != other.names:
        raise ValueError(f"other classes: {first} has {_listed(baseline.names)}, {name} has {_listed(other.names)}")
    order, other_order = (sorted(range(len(e.images)), key=e.images.__getitem__) for e in (baseline, other))
    images, other_images = [baseline.images[i] for i in order], [other.images[i] for i in other_order]
    if images != other_images:
        only = sorted(set(images) ^ set(other_images)) or ["an image that one of them has twice"]
        raise ValueError(
            f"other images: {first} has {len(images)}, {name} has {len(other_images)}, and {len(only)} "
            f"of them are in one alone, such as {only[0]}"
        )
    source = dict(zip(order, other_order))
    for i, j in source.items():
        if not same_labels(baseline.targets[i], other.targets[j]):
            raise ValueError(f"other labels: {baseline.images[i]} has not the same ones in {first} and in {name}")
    rows = [source[i] for i in range(len(order))]
    parts = {key: [getattr(other, key)[j] for j in rows] for key in ("images", "predictions", "targets")}
    return replace(other, **parts)


def _listed(names: dict) -> str:
    shown = list(names.values())
    return f"{len(shown)} ({', '.join(shown[:5])}{' ...' if len(shown) > 5 else ''})"


def same_labels(a, b) -> bool:
    """Return whether targets [m, 5] are those of the same label file."""
    return a.shape == b.shape and bool((a[:, 0] == b[:, 0]).all() and (np.abs(a - b) <= MAX_LABEL_SHIFT).all())


def score(name: str, evidence: Evidence, weights) -> Run:
    matches = match_images(evidence)
    return Run(name, evidence.names, error_split(matches), *weighted_ap(matches, weights))


def differences_of(first: Run, run: Run) -> list:
    """Return a Difference in each metric for all classes together, then for each class."""
    found = [_difference(run, metric, "", mean_ap(run.ap)[i], mean_ap(first.ap)[i]) for i, metric in enumerate(METRICS)]
    for k, cls in enumerate(first.classes):
        ours, theirs = (mean_ap(ap[:, k : k + 1]) for ap in (run.ap, first.ap))
        name = first.names[int(cls)]
        found += [_difference(run, metric, name, ours[i], theirs[i]) for i, metric in enumerate(METRICS)]
    return found


def _difference(run: Run, metric: str, cls: str, ours, theirs) -> Difference:
    change = ours - theirs
    return Difference(run.name, metric, cls, float(ours[0]), float(theirs[0]), interval(change), p_value(change))


def print_differences(differences: list, first: Run, verbose: bool) -> None:
    """Print the differences of all classes together and what they mean, and if verbose those of each class."""
    for name in dict.fromkeys(d.run for d in differences):
        own = [d for d in differences if d.run == name]
        LOGGER.info(f"\n{colorize(f'{name} against {first.name}', 'heading')}")
        for d in own:
            if not d.cls:
                LOGGER.info(f"{line(d)}\n    {sentence(d, first.name)}")
        if verbose:
            LOGGER.info("\n".join(f"{d.cls:>22} {line(d)}" for d in own if d.cls))
            LOGGER.info("Of 20 classes without any difference, one has p below 0.05 by chance.")
    if differences:
        LOGGER.info(
            "\nThis is about these models on images like these. It does not say how much another training with "
            "another seed would differ."
        )


def line(d: Difference) -> str:
    change = f"{d.change.value:+.3f} ({LEVEL * 100:.0f} % interval {d.change.low:+.3f} to {d.change.high:+.3f})"
    return f"{d.metric:<8} {d.value:.3f} - {d.baseline:.3f} = {change}, p {d.p:.2g}"


def sentence(d: Difference, first: str) -> str:
    """In plain words whether a difference of all classes is more than noise."""
    if d.is_noise:
        return f"No difference is shown: the choice of images alone may well give {d.change.value:+.3f}."
    better = d.run if d.change.value > 0 else first
    return f"{better} is better: the choice of images alone hardly gives {d.change.value:+.3f}."


def draw(runs: list, folder: Path) -> None:
    """Draw error_split.png, and learning_curves.png of the runs that have a results.csv."""
    from extras.compare.charts import plot_error_split, plot_learning_curves
    from utils.plots.charts import read_results

    plot_error_split({run.name: run.errors.gains for run in runs}, folder / CHART)
    tables = {run.name: Path(run.name) / "results.csv" for run in runs}
    trainings = {name: read_results(file) for name, file in tables.items() if file.is_file()}
    if trainings:
        plot_learning_curves(trainings, folder / "learning_curves.png")
    LOGGER.info(f"Pictures saved to {colorize(str(folder), 'good')}")
