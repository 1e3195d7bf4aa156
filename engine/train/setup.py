"""All that a training needs before its first step: set_up() turns options into a Training."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.task import DETECT, Task, apply_defaults
from engine.train import build, recipe
from engine.train.device import Precision, check_options, choose_device, choose_precision
from engine.train.folder import RunFolder, attach_loggers, create_run_folder
from engine.train.loop import Learner
from engine.train.progress import RunClock
from engine.train.schedule import Schedule, multi_scaled
from engine.train.state import TrainState, restore
from utils import dist
from utils.autobatch import check_train_batch_size
from utils.callbacks import Callbacks
from utils.checkpoint import Checkpoint
from utils.data.images import find_images
from utils.extras import load_extra
from utils.general import check_img_size, init_seeds
from utils.logger import LOGGER
from utils.timing import UNTIMED, StageTimes, Untimed
from utils.torch_utils import EarlyStopping, ModelEMA, device_summary


class Options(argparse.Namespace):
    """The options of a run, complete and frozen: changed() returns others."""

    def __setattr__(self, name: str, value) -> None:
        raise AttributeError(f"the options of a run are frozen: '{name}' cannot be set to {value!r}")

    @classmethod
    def changed(cls, opt: argparse.Namespace, **changes) -> "Options":
        """Return a frozen copy of `opt` with some values changed."""
        options = cls()
        vars(options).update({**vars(opt), **changes})
        return options


@dataclass
class Training:
    """Everything that a training run needs, complete and checked."""

    opt: Options
    task: Task
    hyp: dict  # the hyperparameters as hyp.yaml has them
    data: dict  # the result of the task's read_data()
    learner: Learner
    loader: DataLoader
    val_loader: DataLoader | None  # None in all but the main process
    stopper: EarlyStopping
    run: RunFolder
    state: TrainState
    validate: Callable  # (model, **further options of the evaluator) -> its result
    clock: RunClock
    is_resumed: bool = False
    budget: object = None  # extras.budget.plan.Budget of --budget
    result: object = None  # the newest validation's


def set_up(
    opt: argparse.Namespace,
    callbacks: Callbacks | None = None,
    hyp: dict | None = None,
    resumed: Checkpoint | None = None,
    folder: Path | None = None,
    task: Task = DETECT,
) -> Training:
    """Return a training that is ready for its first step.

    Args:
        opt: the options of engine.options.training; they are not changed.
        callbacks: the user's hooks.
        hyp: hyperparameters instead of those of opt.hyp.
        resumed: a checkpoint with a train_state to go on with.
        folder: the run folder, if it exists already.
        task: the kind of model to train.

    ValueError, TypeError or OSError for wrong options, files or data.
    """
    clock, opt, callbacks = RunClock(), argparse.Namespace(**vars(opt)), callbacks or Callbacks()
    callbacks.run("on_pretrain_routine_start")
    budget = _budget(opt, clock, is_new=resumed is None)
    times = StageTimes() if opt.profile else UNTIMED
    start, data, values, precision = _read_inputs(opt, callbacks, hyp, resumed, task)
    model = task.build_model(opt, values, data, start, resumed)
    model = model.to(precision.device, memory_format=precision.memory_format)
    stride = _fit_options_to(model, opt, callbacks, precision)
    model = _describe(model, opt, data)
    teacher = _teacher(task, opt, values, model, data, stride, precision)
    loader, val_loader = task.build_loaders(opt, values, data, stride)  # Wrong data leave no run folder.
    run = RunFolder(folder or create_run_folder(opt), task)
    opt.save_dir = str(run.folder)
    state = TrainState(images=len(loader.dataset), ranks=dist.world_size(), maps=[0.0] * data["nc"])
    if resumed is None:
        if budget:
            state.plan = _first_plan(budget, opt, model, loader, val_loader, precision)
        values = _complete(opt, callbacks, values, loader, task.start_kind(opt, start, model), hyp is not None)
        if dist.is_main():
            _prepare_files(run, task, model, loader.dataset, opt, values, data)
    attach_loggers(opt, run, callbacks)
    callbacks.run("on_pretrain_routine_end", task.labels(loader.dataset), data["names"])
    learner = _learner(opt, values, task, model, loader, precision)
    learner.callbacks, learner.times = callbacks, _attach_clocks(times, precision.device, loader, val_loader)
    if teacher is not None:
        distiller = load_extra("teach.distillation").Distiller
        learner.hooks.append(distiller(teacher, model, loader, learner.criterion.hyp, opt, precision.device))
    stopper = EarlyStopping(opt.patience)
    if resumed is not None:
        state = restore(resumed, learner, stopper, state)
        clock.go_on(run.read_seconds(state.epoch))
    follow_plan(opt, state, learner, loader)
    learner.train_model = build.parallelize(learner.model, precision.device)
    _announce(opt, learner, loader, run.folder, state.epoch if resumed else None)
    opt = Options.changed(opt)
    return Training(
        opt=opt, task=task, hyp=values, data=data, learner=learner, loader=loader, val_loader=val_loader,
        stopper=stopper, run=run, state=state, validate=_validation(opt, task, learner, val_loader, data, run.folder),
        clock=clock, is_resumed=resumed is not None, budget=budget,
    )  # fmt: skip


@contextmanager
def _reporting(opt: argparse.Namespace, callbacks: Callbacks) -> Iterator[None]:
    """Tell the user's hooks which options the block has changed."""
    before = dict(vars(opt))
    yield
    changed = {key: value for key, value in vars(opt).items() if before[key] != value}
    if changed:
        callbacks.run("on_params_update", changed)


def _budget(opt: argparse.Namespace, clock: RunClock, is_new: bool):
    """Return the Budget of --budget, None without. ValueError if the number of epochs is given, too."""
    if not opt.budget:
        return None
    budget = load_extra("budget.plan").Budget(opt.budget, clock)
    if opt.epochs is not None and is_new:
        raise ValueError("--budget chooses the number of epochs: leave --epochs away")
    return budget


def _read_inputs(opt, callbacks: Callbacks, given_hyp, resumed: Checkpoint | None, task: Task) -> tuple:
    """Return the starting checkpoint, the data, the hyperparameters and the precision; complete `opt` by them."""
    if opt.logger:
        load_extra("loggers").check(opt.logger)
    source = resumed.hyp if resumed else given_hyp
    if source or opt.hyp:
        task.read_hyp(opt, source)  # A mistake in it is told before data are downloaded.
    with dist.main_first():
        start = None if resumed else task.load_start(opt)
        data = task.read_data(opt)
    with _reporting(opt, callbacks):
        apply_defaults(opt, data, task)
        if opt.batch_size == recipe.AUTO:
            opt.batch_size = recipe.batch_size(opt, len(find_images(data["train"])), dist.world_size())
        hyp = task.read_hyp(opt, source)
        if opt.single_cls and data["nc"] > 1:
            data |= {"nc": 1, "names": {0: "item"}}
        device = choose_device(opt)
        check_options(opt, device)
        opt.amp = recipe.precision(opt, device)
        precision = choose_precision(opt, device)
        init_seeds(opt.seed + 1 + dist.rank(), deterministic=True)
    return start, data, hyp, precision


def _fit_options_to(model: nn.Module, opt, callbacks: Callbacks, precision: Precision) -> int:
    """Freeze layers, fit image and batch size to the model; return its largest stride in px, at least 32."""
    frozen = build.freeze_layers(model, opt.freeze)
    if frozen:
        LOGGER.info(f"frozen: {len(frozen)} parameters, {frozen[0]} to {frozen[-1]}")
    stride = max(int(model.stride.max()), 32)
    opt.imgsz = check_img_size(opt.imgsz, stride, floor=stride * 2)
    if opt.batch_size == -1:
        with _reporting(opt, callbacks):
            opt.batch_size = check_train_batch_size(model, opt.imgsz, precision.amp)
    return stride


def _describe(model: nn.Module, opt: argparse.Namespace, data: dict) -> nn.Module:
    """Give the model its class names and image size, and print its layers; return it, synchronised if asked."""
    if opt.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if dist.is_main() and not opt.evolve:
        LOGGER.info(model.layer_table())
        model.info(img_size=opt.imgsz)
    model.names, model.imgsz = data["names"], opt.imgsz
    return model


def _teacher(task: Task, opt, hyp: dict, model: nn.Module, data: dict, stride: int, precision: Precision):
    """Return the teacher of --teacher, None without; what it labels of --unlabeled joins `data`."""
    if not (task.has_teacher and (opt.teacher or opt.unlabeled)):
        return None
    teach = load_extra("teach.distillation")
    names = data["names"]
    teacher = teach.load_teacher(opt, hyp, model, names, stride, precision.device, precision.memory_format)
    data["unlabeled"] = teach.label_unlabeled(opt, data, teacher)
    return teacher


def _first_plan(budget, opt, model: nn.Module, loader: DataLoader, val_loader, precision: Precision) -> dict:
    """Plan the run by a measurement, let `opt` and the sampler know, and return the plan as plain data."""
    plan = None
    if dist.is_main():
        plan = asdict(budget.plan(model, loader, len(val_loader.dataset), precision, opt.batch_size))
    plan = dist.broadcast_object(plan)
    opt.epochs, loader.sampler.limit = plan["epochs"], plan["images"]
    return plan


def _complete(opt, callbacks: Callbacks, hyp: dict, loader: DataLoader, start: str, given: bool) -> dict:
    """Choose what is still open, now that data and model are known; return the hyperparameters, and print them."""
    with _reporting(opt, callbacks):
        hyp = recipe.fill(opt, hyp, len(loader.dataset), len(loader), start, given)
    LOGGER.info("hyperparameters: " + ", ".join(f"{key}={value}" for key, value in hyp.items()))
    return hyp


def _prepare_files(run: RunFolder, task: Task, model: nn.Module, dataset, opt, hyp: dict, data: dict) -> None:
    """Write what the run starts with, fit the model's anchors, and draw the labels."""
    if not opt.evolve:
        run.write_options(opt, hyp)
    task.fit_to_data(model, dataset, opt, hyp)
    if not opt.noplots:
        task.plot_labels(dataset, data["names"], run.folder)


def _learner(opt, hyp: dict, task: Task, model: nn.Module, loader: DataLoader, precision: Precision) -> Learner:
    optimizer, stride = build.make_optimizer(model, opt, hyp), max(int(model.stride.max()), 32)
    build.set_drop_path(model, hyp.get("drop_path", 0.0))
    if "bn_momentum" in hyp:
        build.set_bn_momentum(model, hyp["bn_momentum"])
    build.use_fused_steps(optimizer, precision.device)
    return Learner(
        model=model,
        train_model=model,
        criterion=task.criterion(model, hyp, opt.imgsz),
        loss_names=task.loss_names,
        optimizer=optimizer,
        schedule=Schedule(opt.epochs, len(loader), opt.batch_size, hyp, cosine=opt.cos_lr),
        scaler=torch.amp.GradScaler(precision.device.type, enabled=precision.amp is torch.float16),
        ema=ModelEMA(model, hyp["ema_decay"], hyp["ema_tau"]),
        resize=partial(multi_scaled, imgsz=opt.imgsz, stride=stride, seed=opt.seed) if opt.multi_scale else None,
        loss_factor=4 if opt.quad else 1,
        known=getattr(loader.dataset, "known", None),
        **precision._asdict(),
    )


def _attach_clocks(times: Untimed, device: torch.device, loader: DataLoader, val_loader: DataLoader | None) -> Untimed:
    times.on(device)
    loader.dataset.times = times
    if val_loader is not None:
        val_loader.dataset.times = times.validation()
    return times


def follow_plan(opt: argparse.Namespace, state: TrainState, learner: Learner, loader: DataLoader) -> None:
    """Let the data and the schedule know the plan as it is now: the number of epochs, the images in the next one."""
    loader.sampler.limit = state.plan.get("images")
    length = {"epochs": opt.epochs, "batches_per_epoch": len(loader), "progress": state.plan.get("progress")}
    learner.schedule = replace(learner.schedule, **length)
    if opt.close_mosaic:
        loader.dataset.mosaic_until = max(opt.epochs - opt.close_mosaic, 0)


def _validation(opt, task: Task, learner: Learner, val_loader: DataLoader | None, data: dict, folder: Path) -> Callable:
    """Return a function (model, **further options) that validates in the run's own way."""
    return partial(
        task.evaluate,
        loader=val_loader,
        names=data["names"],
        device=learner.device,
        half=learner.amp is torch.float16,
        single_cls=opt.single_cls,
        save_dir=folder,
        compute_loss=learner.criterion,
        callbacks=learner.callbacks,
        times=learner.times.validation(),
    )


def _announce(opt, learner: Learner, loader: DataLoader, folder: Path, epochs_done: int | None) -> None:
    schedule, batches = learner.schedule, len(loader)
    precision = {None: "float32", torch.float16: "AMP float16", torch.bfloat16: "AMP bfloat16"}[learner.amp]
    LOGGER.info(
        f"{device_summary(learner.device)}, {precision}, image size {opt.imgsz}, "
        f"{loader.num_workers} data-loading processes\n"
        f"{batches} batches of {opt.batch_size} in an epoch, "
        f"an optimizer step every {min(schedule.accumulate, batches)}, "
        f"warm-up {schedule.warmup_iterations} of {batches * opt.epochs} batches\n"
        f"Logging results to {folder}\nStarting training for {opt.epochs} epochs..."
        + ("" if epochs_done is None else f" (resumed, {epochs_done} done)")
    )
