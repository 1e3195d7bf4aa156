"""Hyperparameter search: a small genetic algorithm whose every trial is one whole training."""

from __future__ import annotations

import argparse
import time
from copy import copy
from pathlib import Path

import numpy as np

from engine.hyperparameters import TABLE, clip_to_search_range, load_hyp
from engine.options import from_kwargs
from engine.task import DETECT, apply_defaults
from engine.train.folder import create_run_folder
from engine.train.progress import NonFiniteLossError
from engine.train.run import fit, summary
from utils.files import read_table, write_atomic
from utils.files.yaml import save_yaml
from utils.general import ROOT
from utils.logger import LOGGER, colorize

WORDS = {key for key, entry in TABLE.items() if entry.choices}
PARENTS = 5  # the best so many trials have children
MUTATED_PART = 0.5  # share of the values
SIGMA = 0.2  # deviation of the logarithm of a mutation's factor, for a gain of 1
START_PART = 1 / 3  # at most so many of the trainings try the files of --evolve_population


def evolve(opt: argparse.Namespace, callbacks=None, task=DETECT) -> argparse.Namespace:
    """Run `opt.evolve` trainings in all; returns the options with `save_dir`, which has evolve.csv and hyp_evolve.yaml.

    The first training has the values of --hyp, the next ones those of the files of --evolve_population, the rest are
    children of the best so far. A trial is written down when it is done, so --resume_evolve repeats none.
    """
    plots = not opt.noplots
    opt = search_options(opt, task)
    starts = starting_points(opt, task)
    trials = read_trials(opt.resume_evolve, task) if opt.resume_evolve else []
    folder = Path(opt.resume_evolve).parent if opt.resume_evolve else create_run_folder(opt)
    opt.save_dir = str(folder)
    remaining = max(opt.evolve - len(trials), 0)
    LOGGER.info(
        f"evolve: {remaining} trainings of {opt.epochs} epochs ({len(trials)} are done already), "
        f"the first {len(starts)} with given values, the rest with mutations; results go to {folder}"
    )
    for number in range(len(trials), opt.evolve):
        hyp = starts[number] if number < len(starts) else child(trials, task, np.random.default_rng([opt.seed, number]))
        start = time.perf_counter()
        trials.append((train_once(opt, hyp, callbacks, folder, task), hyp))
        write_trials(folder, trials, task)
        print_trials(trials, opt.evolve, time.perf_counter() - start, task)
    if plots:
        from utils.plots.charts import plot_evolve

        plot_evolve(folder / "evolve.csv")
    LOGGER.info(f"evolve: best values in {colorize(str(folder / 'hyp_evolve.yaml'), 'good')}")
    return opt


def search_options(opt: argparse.Namespace, task=DETECT) -> argparse.Namespace:
    """Return `opt` for trials: nothing is saved or drawn, validation once at the end, data defaults applied."""
    opt = copy(opt)
    if opt.evolve < 1:
        raise ValueError(f"--evolve: expected at least 1 training, found {opt.evolve}")
    if opt.resume:
        raise ValueError("--evolve cannot be combined with --resume; --resume_evolve evolve.csv goes on with a search")
    if opt.project == from_kwargs(task.script.removesuffix(".py"), {}).project:
        opt.project = "runs/evolve"
    apply_defaults(opt, task.read_data(opt), task)
    opt.noval = opt.nosave = opt.noplots = True
    return opt


def starting_points(opt: argparse.Namespace, task=DETECT) -> list[dict]:
    """Return the values of --hyp, then those of the population folder's files that differ from all before."""
    points = [task.read_hyp(opt)]
    folder = next((f for f in (Path(opt.evolve_population), ROOT / opt.evolve_population) if f.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"--evolve_population: no folder {opt.evolve_population}")
    for file in sorted(folder.glob("*.yaml")):
        hyp = load_hyp(file)
        if len(points) < opt.evolve * START_PART and hyp not in points:
            points.append(hyp)
    return points


def columns(task) -> tuple:
    """Return the first columns of evolve.csv: the metrics and the losses of a validation."""
    return (*(f"metrics/{name}" for name in task.metric_names), *(f"val/{name}" for name in task.loss_names))


def train_once(opt: argparse.Namespace, hyp: dict, callbacks, folder: Path, task) -> list[float]:
    """Return the figures (of columns()) of one training; the metrics are 0 if it diverged."""
    try:
        return summary(task, fit(opt, callbacks, hyp=hyp, folder=folder, task=task).result)
    except NonFiniteLossError as error:
        LOGGER.warning(f"this trial counts as 0: {error}")
        return [0.0] * len(task.metric_names) + [float("nan")] * len(task.loss_names)


def child(trials: list, task, rng: np.random.Generator) -> dict:
    """Return a mutation of a mixture of two of the best trials. A value of 0 is a thing switched off, and stays."""
    best = sorted(trials, key=lambda trial: task.fitness(trial[0]), reverse=True)[:PARENTS]
    chances = np.array([task.fitness(figures) for figures, _ in best]) + 1e-6
    mother, father = (best[i][1] for i in rng.choice(len(best), 2, p=chances / chances.sum()))
    hyp = {key: (mother if rng.random() < 0.5 else father)[key] for key in TABLE}
    genes = [key for key, entry in TABLE.items() if entry.gain and hyp[key]]
    mutated = rng.random(len(genes)) < MUTATED_PART
    mutated[rng.integers(len(genes))] = True  # at least one: a copy would be a wasted training
    for key, factor in zip(genes, np.exp(rng.normal(0, SIGMA, len(genes)))):
        if mutated[genes.index(key)]:
            hyp[key] = clip_to_search_range(key, hyp[key] * factor ** TABLE[key].gain)
    return hyp


def print_trials(trials: list, total: int, seconds: float, task) -> None:
    scores = [task.fitness(figures) for figures, _ in trials]
    left = total - len(trials)
    LOGGER.info(
        f"evolve: training {len(trials)} of {total} took {seconds / 60:.1f} min, fitness {scores[-1]:.4f}, "
        f"best {max(scores):.4f}; {left} left, about {left * seconds / 3600:.2f} hours"
    )


def write_trials(folder: Path, trials: list, task) -> None:
    """Write evolve.csv with a row for each trial, and hyp_evolve.yaml with the best one's values."""
    lines = [",".join((*columns(task), *TABLE))]
    lines += [",".join(map(as_text, (*figures, *hyp.values()))) for figures, hyp in trials]
    write_atomic(folder / "evolve.csv", ("\n".join(lines) + "\n").encode())
    save_yaml(folder / "hyp_evolve.yaml", max(trials, key=lambda trial: task.fitness(trial[0]))[1])


def as_text(value) -> str:
    return value if isinstance(value, str) else f"{value:.5g}"


def read_trials(path: str, task=DETECT) -> list:
    """Return the trials of an evolve.csv. ValueError with file and line if it is none."""
    rows = read_table(path)
    header, expected = rows[0] if rows else [], [*columns(task), *TABLE]
    if header != expected:
        raise ValueError(
            f"{path}:1: expected the columns {', '.join(expected)}; found {' '.join(', '.join(header).split())[:200]}"
        )
    trials = []
    for line, row in enumerate(rows[1:], start=2):
        try:
            values = [value if name in WORDS else float(value) for name, value in zip(header, row)]
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from None
        if len(row) != len(header):
            raise ValueError(f"{path}:{line}: expected {len(header)} values, found {len(row)}")
        trials.append((values[: -len(TABLE)], dict(zip(TABLE, values[-len(TABLE) :]))))
    return trials
