"""The order of events of train.py: set up, then epoch after epoch train, validate, record, save, and at last finish."""

import argparse
import math
from dataclasses import replace
from functools import partial

import torch

from engine.task import DETECT, Task
from engine.train.device import repeatable
from engine.train.folder import LR_COLUMNS, RunFolder
from engine.train.loop import Learner, train_one_epoch
from engine.train.progress import RunClock
from engine.train.resume import given_options, resume
from engine.train.setup import Training, set_up
from engine.train.state import TrainState, pack
from utils import dist
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint, save_checkpoint, strip_optimizer
from utils.extras import load_extra
from utils.general import print_args
from utils.logger import LOGGER, colorize, setup_logging
from utils.torch_utils import keep_freed_memory

BATCHES_DRAWN = 3


def train(opt: argparse.Namespace, callbacks: Callbacks | None = None, task: Task = DETECT) -> argparse.Namespace:
    """Train (or search hyperparameters) with `opt`; return it with `save_dir`, the run folder."""
    setup_logging(verbose=dist.is_main())
    print_args(given_options(opt, task), prefix=task.script.removesuffix(".py"))
    if opt.latency and not opt.resume:
        opt = load_extra("latency.choose").chosen_options(opt)
    if opt.evolve:
        return load_extra("evolve.search").evolve(opt, callbacks, task)
    checkpoint = folder = None
    if opt.resume:
        opt, checkpoint, folder = resume(opt, task)
    keep_freed_memory()
    dist.setup()
    try:
        return fit(opt, callbacks, resumed=checkpoint, folder=folder, task=task).opt
    finally:
        dist.cleanup()


def fit(opt: argparse.Namespace, callbacks: Callbacks | None = None, **inputs) -> Training:
    """Set up a training with `opt` and the further arguments of set_up(), and train to the end.

    Returns the training as it ended; its `result` is the validation of the final model, in the main process.
    ValueError, TypeError or OSError for bad options, files or data, NonFiniteLossError if the training diverges.
    """
    callbacks, training = callbacks or Callbacks(), None
    try:
        with repeatable():
            training = set_up(opt, callbacks, **inputs)
            train_epochs(training)
            if dist.is_main():
                training.result = finish(training)
        return training
    except (KeyboardInterrupt, OSError):  # The data may be gone, or the disk full.
        if training is not None and dist.is_main():
            explain_interruption(training.opt, training.task, training.run, training.state.epoch)
        raise
    finally:
        callbacks.run("teardown")


def train_epochs(training: Training) -> None:
    """Train the epochs that are left; validate, record and save after each."""
    state, learner, loader, clock = training.state, training.learner, training.loader, training.clock
    first_epoch, start = state.epoch, clock.seconds()
    save = partial(
        save_checkpoints, learner, training.stopper, training.hyp, training.task, training.data, training.run
    )
    if training.budget:
        training.budget.start(state)
    if dist.is_main() and not training.is_resumed:
        save(state, training.opt)
    learner.callbacks.run("on_train_start")
    draw = None if training.opt.noplots else partial(draw_batch, training.task, training.data["names"], training.run)
    while state.epoch < training.opt.epochs and not state.stopped:
        opt, epoch = training.opt, state.epoch
        chances = training.task.image_chances(loader.dataset, state.maps) if opt.image_weights else None
        losses = train_one_epoch(learner, loader, epoch, opt.seed, chances, draw)
        state.epoch += 1
        if training.budget:
            opt = training.budget.replan(training)
        if dist.is_main():
            learner.callbacks.run("on_train_epoch_end", epoch=epoch)
            result = validate_if_due(training.validate, learner, state, opt, clock)
            training.result = result or training.result
            is_best = record(state, training.task, losses, result, learner.optimizer)
            write_epoch(state, opt, clock, training.run, learner.callbacks, result)
            if result is not None:
                state.stopped = training.stopper(epoch=epoch, fitness=result.fitness)
            state.stopped |= learner.callbacks.stop_training
            with learner.times("saving"):
                save(state, opt, is_best, result.fitness if result else 0.0)
        state.stopped = dist.broadcast_object(state.stopped)
        state.maps = dist.broadcast_object(state.maps) if opt.image_weights else state.maps
    hours = (clock.seconds() - start) / 3600
    LOGGER.info(f"\n{state.epoch - first_epoch} epochs completed in {hours:.3f} hours.")


def validate_if_due(validate, learner: Learner, state: TrainState, opt: argparse.Namespace, clock: RunClock):
    """Return the result of a validation of the averaged weights, None where the plan has none after this epoch."""
    is_final = state.epoch == opt.epochs or learner.callbacks.stop_training
    if not is_final and (opt.noval or state.epoch % state.plan.get("val_period", 1)):
        return None
    start = clock.seconds()
    result = validate(learner.ema.ema)
    clock.val_seconds += clock.seconds() - start
    return result


def record(state: TrainState, task: Task, losses: list[float], result, optimizer: torch.optim.Optimizer) -> bool:
    """Note an epoch's figures in `state`, nan where there was no validation; True if the model is the best so far."""
    lrs = [group["lr"] for group in optimizer.param_groups[: len(LR_COLUMNS)]]
    unknown = [math.nan] * (len(task.metric_names) + len(task.loss_names))
    state.rows.append([state.epoch - 1, *losses, *(summary(task, result) if result else unknown), *lrs])
    if result is None:
        return False
    state.maps = task.class_scores(result)
    is_best = state.best_fitness is None or result.fitness >= state.best_fitness
    state.best_fitness = float(result.fitness) if is_best else state.best_fitness
    return is_best


def summary(task: Task, result) -> list[float]:
    """Return the metrics and the losses of a validation in the order of results.csv."""
    return [*task.figures(result), *map(float, result.losses)]


def write_epoch(state: TrainState, opt, clock: RunClock, run: RunFolder, callbacks: Callbacks, result) -> None:
    """Write the newest row of figures to results.csv, and hand it to the hooks of users and loggers."""
    clock.end_epoch()
    epoch, *values = state.rows[-1]
    if not opt.evolve:
        run.write_results(state.rows, clock.epoch_ends)
    fitness = result.fitness if result else math.nan
    callbacks.run("on_fit_epoch_end", values, epoch, state.best_fitness, fitness)


def save_checkpoints(
    learner: Learner, stopper, hyp: dict, task: Task, data: dict, run: RunFolder, state: TrainState, opt,
    is_best: bool = False, fitness: float = 0.0,
) -> None:  # fmt: skip
    """Write the checkpoints; last.pt is the last of them, so that a kill between them repeats the epoch."""
    is_final = state.epoch == opt.epochs or state.stopped
    if opt.evolve or (opt.nosave and not is_final):
        return
    state.has_best |= is_best
    checkpoint, epoch = pack(learner, state, stopper, opt, hyp, task, data), state.epoch - 1
    if is_best:
        save_checkpoint(run.best, replace(checkpoint, train_state=None))
    if opt.save_period > 0 and epoch >= 0 and epoch % opt.save_period == 0:
        save_checkpoint(run.weights / f"epoch{epoch}.pt", checkpoint)
    save_checkpoint(run.last, checkpoint)
    if epoch >= 0:
        learner.callbacks.run("on_model_save", run.last, epoch, is_final, state.best_fitness, fitness)


def finish(training: Training):
    """Strip the final checkpoints, validate the best one and draw the curves; return the result of that validation."""
    opt, state, run, learner, task = training.opt, training.state, training.run, training.learner, training.task
    result = training.result
    if not opt.evolve:
        final = run.best if state.has_best and run.best.is_file() else run.last
        if final == run.best:
            strip_optimizer(run.best)
        if not opt.noplots:
            draw_results(run)
        LOGGER.info(f"\nValidating {final}...")
        model = task.model_class.from_checkpoint(load_checkpoint(final)).to(learner.device)
        result = training.validate(model, plots=not opt.noplots, verbose=True, evidence=str(opt.data))
        strip_optimizer(run.last)  # Only now, as --resume can go on until here.
    learner.callbacks.run("on_train_end", run.last, run.best, state.epoch - 1, summary(task, result))
    if opt.evolve:
        return result
    learner.times.report(run.folder)
    LOGGER.info(f"Results saved to {colorize(str(run.folder), 'good')}")
    return result


def draw_batch(task: Task, names: dict[int, str], run: RunFolder, iteration: int, images, targets, paths) -> None:
    """Draw train_batch0.jpg to train_batch2.jpg, the first batches as the model sees them."""
    if iteration < BATCHES_DRAWN:
        task.plot_batch(images, targets, paths, run.folder / f"train_batch{iteration}.jpg", names)


def draw_results(run: RunFolder) -> None:
    """Draw results.png from results.csv."""
    from utils.plots.charts import plot_results  # The drawing libraries load when something is drawn.

    plot_results(run.results_csv)


def explain_interruption(opt: argparse.Namespace, task: Task, run: RunFolder, epoch: int) -> None:
    """Say how an interrupted run can go on."""
    if opt.evolve:
        LOGGER.info(f"\nInterrupted; go on with --resume_evolve {run.folder / 'evolve.csv'}")
    elif opt.nosave or not run.last.is_file():
        LOGGER.info("\nInterrupted; nothing was saved, so this training cannot go on.")
    else:
        LOGGER.info(
            f"\nInterrupted in epoch {epoch}. {run.last} holds the state before it; go on with:\n"
            f"    python {task.script} --resume {run.last}"
        )
