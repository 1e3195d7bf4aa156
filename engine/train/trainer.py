"""Training: fit -> train_one_epoch -> step.

Everything random in an epoch comes from (seed, epoch), and last.pt holds everything that outlives an epoch. So a run
that was killed at any moment and resumed gives the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import nullcontext
from copy import copy
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import nn

from engine.task import DETECT, apply_defaults
from engine.train import build, pictures, recipe
from engine.train.folder import LR_COLUMNS, RunFolder, create_run_folder
from engine.train.progress import EpochProgress, MeanLosses
from engine.train.schedule import Schedule, multi_scale_size, scaled_weight_decay
from engine.train.state import TrainState, pack, restore
from utils import dist
from utils.autobatch import check_train_batch_size
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint, save_checkpoint, strip_optimizer
from utils.data.images import find_images
from utils.extras import load_extra
from utils.general import check_img_size, init_seeds
from utils.logger import LOGGER, colorize
from utils.timing import UNTIMED, StageTimes
from utils.torch_utils import EarlyStopping, ModelEMA, device_summary, smart_optimizer

GRADIENT_NORM = 10.0  # longer gradients are scaled down to this
GPU_CHECK_EVERY = 10  # batches between looks at the losses on a GPU, where each look waits for it


class Trainer:
    """One training run.

    Args:
        opt: the options of engine.options.training; a copy is changed.
        callbacks: the user's hooks.
        hyp: hyperparameters (a mapping) instead of those of opt.hyp.
        resumed: a checkpoint with a train_state to go on with.
        folder: the run folder, if it exists already.
        task: what to train.
    """

    def __init__(self, opt: argparse.Namespace, callbacks=None, hyp=None, resumed=None, folder=None, task=DETECT):
        self.opt = copy(opt)
        self.callbacks = callbacks or Callbacks()
        self.task = task
        self.given_hyp = hyp
        self.resumed = resumed
        self.folder = folder
        self.state = TrainState()
        self.distiller = None  # with --teacher
        self.pending = 0  # batches whose gradients wait for an optimizer step
        self.run = None
        self.result = None  # of the newest validation
        self.board = None  # TensorBoard's writer, where it is installed
        self.started = time.perf_counter()
        self.epoch_ends = []  # seconds of training, at the end of each epoch
        self.budget = None
        self.times = StageTimes() if opt.profile else UNTIMED
        self.val_seconds = 0.0  # of the newest validation

    def fit(self):
        """Train to the end; returns the validation result of the final model, None in all but the main process.

        ValueError, TypeError or OSError for bad options, files or data, NonFiniteLossError if the training diverges.
        """
        try:
            with build.repeatable():
                self.prepare()
                self.train()
                return self.finish() if dist.is_main() else None
        except KeyboardInterrupt:
            self.explain_interruption()
            raise
        finally:
            if self.board is not None:
                self.board.close()
            self.callbacks.run("teardown")

    def train(self) -> None:
        start, first_epoch = time.perf_counter(), self.state.epoch
        while self.state.epoch < self.opt.epochs and not self.state.stopped:
            self.train_one_epoch()
            self.end_epoch()
        hours = (time.perf_counter() - start) / 3600
        LOGGER.info(f"\n{self.state.epoch - first_epoch} epochs completed in {hours:.3f} hours.")

    def prepare(self) -> None:
        """Everything before the first step, ending with the first last.pt."""
        self.callbacks.run("on_pretrain_routine_start")
        self.read_options()
        self.build_model()
        self.teacher = self.task.load_teacher(self)
        self.run = self.open_run_folder()
        self.load_data()
        self.build_optimizer()
        if self.teacher is not None:
            distillation, hyp = load_extra("teach.distillation"), self.model.hyp
            self.distiller = distillation.Distiller(self.teacher, self.model, self.loader, hyp, self.opt, self.device)
        if self.resumed is not None:
            restore(self, self.resumed)
            self.epoch_ends = self.run.read_seconds(self.state.epoch)
            self.started -= self.epoch_ends[-1] if self.epoch_ends else 0
        if self.opt.budget:
            self.follow_plan()
        self.train_model = build.parallelize(self.model, self.device)
        self.announce()
        if dist.is_main() and self.resumed is None:
            self.save()
        self.callbacks.run("on_train_start")

    def read_options(self) -> None:
        """Starting weights, data file and the defaults that it gives, hyperparameters, device and precision."""
        opt = self.opt
        source = self.resumed.hyp if self.resumed else self.given_hyp
        if opt.budget:
            self.budget = load_extra("budget.plan").Budget(opt.budget, lambda: time.perf_counter() - self.started)
            if opt.epochs is not None and self.resumed is None:
                raise ValueError("--budget chooses the number of epochs: leave --epochs away")
        if source or opt.hyp:
            self.task.read_hyp(opt, source)  # a mistake in it is told before data are downloaded
        with dist.main_first():
            self.start = None if self.resumed else self.task.load_start(opt)
            self.data = self.task.read_data(opt)
        before = dict(vars(opt))
        apply_defaults(opt, self.data, self.task)
        if opt.batch_size == recipe.AUTO:
            opt.batch_size = recipe.batch_size(opt, len(find_images(self.data["train"])), dist.world_size())
        self.hyp = self.task.read_hyp(opt, source)
        if opt.single_cls and self.data["nc"] > 1:
            self.data.update(nc=1, names={0: "item"})
        self.names = self.data["names"]
        self.device = build.choose_device(opt)
        build.check_options(opt, self.device)
        opt.amp = recipe.precision(opt, self.device)
        self.amp = build.amp_dtype(opt.amp, self.device)
        # convolutions are a sixth faster on a CPU, and EdgeViT not slower
        self.memory_format = torch.contiguous_format if self.device.type == "mps" else torch.channels_last
        init_seeds(opt.seed + 1 + dist.rank(), deterministic=True)
        self.report_changes(before)

    def report_changes(self, before: dict) -> None:
        changed = {key: value for key, value in vars(self.opt).items() if before[key] != value}
        if changed:
            self.callbacks.run("on_params_update", changed)

    def build_model(self) -> None:
        opt = self.opt
        model = self.task.build_model(opt, self.hyp, self.data, self.start, self.resumed)
        self.model = model.to(self.device, memory_format=self.memory_format)
        frozen = build.freeze_layers(self.model, opt.freeze)
        if frozen:
            LOGGER.info(f"frozen: {len(frozen)} parameters, {frozen[0]} to {frozen[-1]}")
        self.stride = max(int(self.model.stride.max()), 32)
        opt.imgsz = check_img_size(opt.imgsz, self.stride, floor=self.stride * 2)
        if opt.batch_size == -1:
            before = dict(vars(opt))
            opt.batch_size = check_train_batch_size(self.model, opt.imgsz, self.amp)
            self.report_changes(before)
        if opt.sync_bn:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if dist.is_main() and not opt.evolve:
            LOGGER.info(self.model.layer_table())
            self.model.info(img_size=opt.imgsz)
        self.model.names = self.names
        self.model.imgsz = opt.imgsz

    def open_run_folder(self) -> RunFolder:
        run = RunFolder(self.folder or create_run_folder(self.opt), self.task)
        self.opt.save_dir = str(run.folder)
        if dist.is_main() and not self.opt.evolve:
            self.board = build.tensorboard(run.folder, run.columns)
        return run

    def load_data(self) -> None:
        self.loader, self.val_loader = self.task.build_loaders(self.opt, self.hyp, self.data, self.stride)
        self.state.images, self.state.ranks = len(self.loader.dataset), dist.world_size()
        self.times.on(self.device)
        self.loader.dataset.times = self.times
        if self.val_loader is not None:
            self.val_loader.dataset.times = self.times.validation()
        if self.budget and self.resumed is None:
            self.state.plan = dist.broadcast_object(asdict(self.budget.plan(self)) if dist.is_main() else None)
            self.opt.epochs = self.state.plan["epochs"]
        if self.resumed is None:
            self.complete_options()
        self.task.prepare(self)

    def complete_options(self) -> None:
        """Choose what is still open, now that data and model are known, and write down what this run trains with."""
        before = dict(vars(self.opt))
        given = self.given_hyp is not None
        pretrained = self.start is not None
        self.hyp = recipe.fill(self.opt, self.hyp, self.state.images, len(self.loader), pretrained, given)
        self.report_changes(before)
        LOGGER.info("hyperparameters: " + ", ".join(f"{key}={value}" for key, value in self.hyp.items()))
        if dist.is_main() and not self.opt.evolve:
            self.run.write_options(self.opt, self.hyp)

    def build_optimizer(self) -> None:
        opt, hyp = self.opt, self.hyp
        decay = scaled_weight_decay(hyp, opt.batch_size)
        backbone, part = build.backbone_parameters(self.model), hyp.get("lr_backbone", 1.0)
        self.optimizer = smart_optimizer(
            self.model,
            opt.optimizer,
            hyp["lr0"],
            hyp["momentum"],
            decay,
            slow=backbone,
            slow_part=part,
            outputs=build.output_parameters(self.model),
        )
        build.set_drop_path(self.model, hyp.get("drop_path", 0.0))
        build.use_fused_steps(self.optimizer, self.device)
        self.schedule = Schedule(opt.epochs, len(self.loader), opt.batch_size, hyp, cosine=opt.cos_lr)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)
        self.ema = ModelEMA(self.model, hyp["ema_decay"], hyp["ema_tau"])
        self.criterion = self.task.criterion(self.model)
        self.stopper = EarlyStopping(opt.patience)

    def announce(self) -> None:
        """Say what is about to happen."""
        opt, schedule, batches = self.opt, self.schedule, self.schedule.batches_per_epoch
        precision = {None: "float32", torch.float16: "AMP float16", torch.bfloat16: "AMP bfloat16"}[self.amp]
        LOGGER.info(
            f"{device_summary(self.device)}, {precision}, image size {opt.imgsz}, "
            f"{self.loader.num_workers} data-loading processes\n"
            f"{batches} batches of {opt.batch_size} in an epoch, "
            f"an optimizer step every {min(schedule.accumulate, batches)}, "
            f"warm-up {schedule.warmup_iterations} of {batches * opt.epochs} batches\n"
            f"Logging results to {self.run.folder}\nStarting training for {opt.epochs} epochs..."
            + (f" (resumed, {self.state.epoch} done)" if self.resumed else "")
        )

    def train_one_epoch(self) -> None:
        epoch, total = self.state.epoch, len(self.loader)
        self.train_model.train()
        self.callbacks.run("on_train_epoch_start")
        view = self.distiller.before_epoch(epoch) if self.distiller else None
        self.loader.sampler.set_epoch(epoch, self.task.image_weights(self), view)
        batches = iter(self.loader)
        # only now: making the iterator draws from the same generator, a new one more often than a used one
        init_seeds(build.epoch_seed(self.opt.seed, epoch, dist.rank()), deterministic=True)
        losses = MeanLosses(self.task.loss_names, self.device)
        look_every = GPU_CHECK_EVERY if self.device.type == "cuda" else 1
        progress = EpochProgress(
            batches, total, epoch, self.opt.epochs, self.task.loss_names, self.device, show=dist.is_main()
        )
        for i, (images, targets, paths, _) in enumerate(self.times.each("waiting", progress)):
            self.callbacks.run("on_train_batch_start")
            iteration = epoch * total + i
            if self.distiller:
                self.distiller.before_batch(images, i)
            images = self.to_input(images, iteration)
            losses.add(self.step(images, targets, iteration, is_last=i + 1 == total))
            if i % look_every == 0 or i + 1 == total:
                progress.update(losses.values(f"epoch {epoch}, batch {i}"), len(targets), max(images.shape[2:]))
            if dist.is_main():
                self.callbacks.run(
                    "on_train_batch_end", self.model, iteration, images, targets, paths, list(losses.mean)
                )
                if not self.opt.noplots:
                    pictures.draw_train_batch(self.task, iteration, images, targets, paths, self.names, self.run.folder)
            if self.callbacks.stop_training and not dist.is_distributed():  # other ranks would wait for this one
                break
        if self.pending:
            self.optimizer_step()
        self.train_losses = losses.values(f"epoch {epoch}")
        if self.distiller:
            self.distiller.after_epoch(epoch)

    def step(self, images: torch.Tensor, targets, iteration: int, is_last: bool) -> torch.Tensor:
        """Gradients of one batch, and where enough are gathered (or none will follow) an optimizer step.

        images [B, 3, H, W] in 0..1; targets as the task's loader gives them. Returns the loss terms.
        """
        settings = self.schedule.at(iteration)
        self.apply_settings(settings)
        steps_now = is_last or self.pending + 1 >= settings.accumulate
        wait = nullcontext() if steps_now or self.train_model is self.model else self.train_model.no_sync()
        with wait:
            with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
                with self.times("forward"):
                    outputs = self.train_model(images)
                with self.times("loss"):
                    loss, items = self.criterion(outputs, targets.to(self.device, non_blocking=True))
                    if self.distiller:
                        loss = loss + self.distiller.loss(outputs)
                # DDP averages over the ranks where one process would sum; a quad batch has a quarter of the images
                loss = loss * dist.world_size() * (4 if self.opt.quad else 1)
            with self.times("backward"):
                self.scaler.scale(loss).backward()
        self.pending += 1
        self.times.count(len(images))
        if steps_now:
            with self.times("step"):
                self.optimizer_step()
        return items

    def optimizer_step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        if self.distiller:
            self.distiller.optimizer_step(self.scaler)
        self.scaler.update()
        self.callbacks.run("optimizer_step")
        self.callbacks.run("on_before_zero_grad")
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        self.pending = 0

    def apply_settings(self, settings) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lrs[group["kind"]] * group["lr_part"]
            if "momentum" in group:
                group["momentum"] = settings.momentum

    def to_input(self, images: torch.Tensor, iteration: int) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> float 0..1 on the device, with --multi-scale resized."""
        images = images.to(self.device, non_blocking=True)
        images = images.to(torch.float32, memory_format=self.memory_format).div_(255)
        if self.opt.multi_scale:
            rng = np.random.default_rng([self.opt.seed, iteration])  # the same size in every rank
            images = build.resize_batch(images, multi_scale_size(self.opt.imgsz, self.stride, rng), self.stride)
        return images

    def end_epoch(self) -> None:
        """Validate, record, decide whether to stop, and save."""
        epoch = self.state.epoch
        self.state.epoch += 1
        if self.budget:
            epochs = self.budget.corrected(self.state.epoch, self.epoch_ends, self.opt.epochs, self.val_seconds)
            self.opt.epochs = dist.broadcast_object(epochs)
            self.follow_plan()
        if dist.is_main():
            self.callbacks.run("on_train_epoch_end", epoch=epoch)
            is_final = self.state.epoch == self.opt.epochs or self.callbacks.stop_training
            skipped = self.opt.noval or self.state.epoch % self.state.plan.get("val_period", 1)
            result = self.validate(self.ema.ema) if is_final or not skipped else None
            is_best = self.record(epoch, result)
            if result is not None:
                self.state.stopped = self.stopper(epoch=epoch, fitness=result.fitness)
            self.state.stopped |= self.callbacks.stop_training
            with self.times("saving"):
                self.save(is_best, result.fitness if result else 0.0)
        self.state.stopped = dist.broadcast_object(self.state.stopped)
        if self.opt.image_weights:
            self.state.maps = dist.broadcast_object(self.state.maps)

    def follow_plan(self) -> None:
        """Let data and schedule know the plan of --budget as it is now."""
        self.loader.sampler.limit = self.state.plan["images"]
        self.schedule = replace(self.schedule, epochs=self.opt.epochs, batches_per_epoch=len(self.loader))
        self.task.set_close_mosaic(self)

    def validate(self, model: nn.Module, **options):
        start = time.perf_counter()
        self.result = self.task.evaluate(
            model,
            self.val_loader,
            names=self.names,
            device=self.device,
            half=self.amp is torch.float16,
            single_cls=self.opt.single_cls,
            save_dir=self.run.folder,
            compute_loss=self.criterion,
            callbacks=self.callbacks,
            times=self.times.validation(),
            **options,
        )
        self.val_seconds = time.perf_counter() - start
        return self.result

    def record(self, epoch: int, result) -> bool:
        """Note the epoch's figures (nan where there was no validation); True if the model is the best so far."""
        state = self.state
        lrs = [group["lr"] for group in self.optimizer.param_groups[: len(LR_COLUMNS)]]
        unknown = [math.nan] * (len(self.task.metric_names) + len(self.task.loss_names))
        figures = self.summary(result) if result else unknown
        values = [*self.train_losses, *figures, *lrs]
        state.rows.append([epoch, *values])
        self.epoch_ends.append(time.perf_counter() - self.started)
        is_best = result is not None and (state.best_fitness is None or result.fitness >= state.best_fitness)
        if is_best:
            state.best_fitness = float(result.fitness)
        if result is not None:
            state.maps = self.task.class_scores(result)
        if not self.opt.evolve:
            self.run.write_results(state.rows, self.epoch_ends)
        if self.board is not None:
            self.board.write_epoch(values, epoch)
        fitness = result.fitness if result else math.nan
        self.callbacks.run("on_fit_epoch_end", values, epoch, state.best_fitness, fitness)
        return is_best

    def summary(self, result) -> list[float]:
        """The metrics and the losses of a validation, the order of results.csv."""
        return [*self.task.figures(result), *map(float, result.losses)]

    def save(self, is_best: bool = False, fitness: float = 0.0) -> None:
        """Write the checkpoints; last.pt is the last of them, so that a kill between them repeats the epoch."""
        opt, state, run = self.opt, self.state, self.run
        is_final = state.epoch == opt.epochs or state.stopped
        if opt.evolve or (opt.nosave and not is_final):
            return
        state.has_best |= is_best
        checkpoint = pack(self)
        epoch = state.epoch - 1
        if is_best:
            save_checkpoint(run.best, replace(checkpoint, train_state=None))
        if opt.save_period > 0 and epoch >= 0 and epoch % opt.save_period == 0:
            save_checkpoint(run.weights / f"epoch{epoch}.pt", checkpoint)
        save_checkpoint(run.last, checkpoint)
        if epoch >= 0:
            self.callbacks.run("on_model_save", run.last, epoch, is_final, state.best_fitness, fitness)

    def finish(self):
        """Strip the final checkpoints, validate the best one, draw the curves and say where everything is."""
        opt, state, run = self.opt, self.state, self.run
        if opt.evolve:
            self.callbacks.run("on_train_end", run.last, run.best, state.epoch - 1, self.summary(self.result))
            return self.result
        final = run.best if state.has_best and run.best.is_file() else run.last
        if final == run.best:
            strip_optimizer(run.best)
        if not opt.noplots:
            pictures.draw_results(run.results_csv)
        LOGGER.info(f"\nValidating {final}...")
        model = self.task.model_class.from_checkpoint(load_checkpoint(final)).to(self.device)
        result = self.validate(model, plots=not opt.noplots, verbose=True, evidence=str(opt.data))
        strip_optimizer(run.last)  # only now: until here --resume can go on
        self.callbacks.run("on_train_end", run.last, run.best, state.epoch - 1, self.summary(result))
        if self.board is not None:
            self.board.write_pictures(state.epoch - 1)
        self.times.report(run.folder)
        LOGGER.info(f"Results saved to {colorize(str(run.folder), 'good')}")
        return result

    def explain_interruption(self) -> None:
        if self.run is None or not dist.is_main():
            return
        if self.opt.evolve:
            LOGGER.info(f"\nInterrupted; go on with --resume_evolve {self.run.folder / 'evolve.csv'}")
        elif self.opt.nosave or not self.run.last.is_file():
            LOGGER.info("\nInterrupted; nothing was saved, so this training cannot go on.")
        else:
            LOGGER.info(
                f"\nInterrupted in epoch {self.state.epoch}. {self.run.last} holds the state before it; go on with:\n"
                f"    python {self.task.scripts}train.py --resume {self.run.last}"
            )
