"""The task of pretrain.py: a backbone learns from images without labels, by the engine's trainer."""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.options.flags import PRETRAIN_DEFAULTS
from engine.task import Task
from engine.train.folder import RunFolder
from engine.train.run import train
from engine.val.evaluator import Evaluator
from extras.teach.loss import correlation_loss
from extras.teach.pretrain_data import PretrainDataset, load_pretrain_hyp, read_source, scan_images
from extras.teach.student import BACKBONE, Student
from extras.teach.teacher import Pixels, Together, open_teacher
from models.backbone import load_backbone_weights
from utils import dist
from utils.checkpoint import load_checkpoint, without_folders
from utils.data.loader import epoch_loader
from utils.files import write_atomic
from utils.general import VERSION
from utils.logger import LOGGER

VAL_IMAGES = 64  # that the loss is measured on after each epoch, evenly spread over the images


@dataclass
class PretrainResult:
    """The loss on whole images, and the times of one validation."""

    images: int
    losses: tuple
    speed_ms: tuple

    @property
    def fitness(self) -> float:
        return -self.losses[0]


class PretrainEvaluator(Evaluator):
    """The loss alone. Targets are the images."""

    header = f"{'':22}{'Images':>11}{'loss':>11}"
    loss_names = ("loss",)

    def step(self, batch_i, images, targets, paths, shapes) -> None:
        pre_process, inference, _ = self.timers
        with pre_process:
            inputs = self.to_input(images)
        with inference, self.precision():
            maps = self.model(inputs)
        self.add_losses(maps, targets.to(self.device))

    def compute(self, losses: tuple, speed_ms: tuple) -> PretrainResult:
        return PretrainResult(self.images, losses, speed_ms)

    def report(self, result: PretrainResult) -> None:
        LOGGER.info(f"{'all':>22}{result.images:>11}{result.losses[0]:>11.4g}")

    def plot(self, result: PretrainResult) -> None:
        """There is nothing that the curves of the training do not show."""


class PretrainLoss:
    """The mean correlation loss over the strides: (student's maps, targets) -> (loss, items [1], detached)."""

    def __init__(self, teacher: torch.nn.Module):
        self.teacher = teacher

    def __call__(self, maps: list[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """maps: [B, C, h, w] for each of the teacher's strides; targets: the images, uint8 [B, 3, H, W] RGB."""
        loss = correlation_loss(maps, self.teacher(targets.float() / 255))
        return loss, loss.detach()[None]


class Pretraining(Task):
    """One for each run, as it holds the teacher."""

    name = "pretrain"
    script = "pretrain.py"
    model_class = Student
    evaluator = PretrainEvaluator
    defaults = PRETRAIN_DEFAULTS

    def read_data(self, opt, required=("train",)) -> dict:
        return read_source(opt.data)

    def read_hyp(self, opt, source=None) -> dict:
        given = {"lr0": opt.lr0, "nominal_batch": opt.batch_size}
        if opt.batch_size < 1:
            raise ValueError(f"--batch-size: expected at least 1, found {opt.batch_size}")
        return load_pretrain_hyp(source or {key: value for key, value in given.items() if value is not None})

    def load_start(self, opt):
        """None: what --weights names need be no checkpoint."""

    def build_model(self, opt, hyp, data, start=None, resumed=None):
        self.teacher = Pixels()
        if opt.teacher:
            self.teacher = Together(open_teacher(opt.teacher, opt.teacher_weights, opt.download), self.teacher)
        else:
            LOGGER.info("no teacher: the backbone learns the images' own patches alone; a --teacher is usually better")
        if resumed is not None:
            if resumed.yaml["description"] != self.teacher.description:
                raise ValueError(f"--resume: the teacher {opt.teacher} is not the one that the training started with")
            return Student(resumed.yaml)
        model = Student.of(opt.backbone, self.teacher)
        if opt.weights:
            load_backbone_weights(model, opt.weights)
        return model

    def build_loaders(self, opt, hyp, data, stride):
        per_rank = opt.batch_size // dist.world_size()
        files, sizes_wh = scan_images(data["train"], progress=dist.is_main())
        shared = {"imgsz": opt.imgsz, "hyp": hyp, "cache_images": opt.cache, "seed": opt.seed}
        with dist.main_first():
            dataset = PretrainDataset(files, sizes_wh, augment=True, rank=dist.rank(), **shared)
        options = {"workers": opt.workers, "seed": opt.seed}
        loader = epoch_loader(dataset, per_rank, shuffle=True, rank=dist.rank(), **options)
        if not dist.is_main():
            return loader, None
        every = -(-len(files) // VAL_IMAGES)
        seen = PretrainDataset(files[::every], sizes_wh[::every], **shared)
        return loader, epoch_loader(seen, per_rank * 2, **options)

    def criterion(self, model, hyp, imgsz):
        return PretrainLoss(self.teacher.to(next(model.parameters()).device))

    def figures(self, result) -> list:
        return []

    def plot_batch(self, images, targets, paths, file, names) -> None:
        from utils.plots.pictures import plot_images

        plot_images(images, torch.zeros(0, 6), paths, file, names)


def pretrain(opt: argparse.Namespace, callbacks=None) -> argparse.Namespace:
    """Train with the options of pretrain.py and write backbone.pt; returns them with `save_dir`, the run folder."""
    task = Pretraining()
    opt = train(opt, callbacks, task)
    if dist.is_main():
        file = write_backbone(RunFolder(Path(opt.save_dir), task))
        LOGGER.info(f"The backbone alone: {file}\n    python train.py --cfg ... --backbone-weights {file}")
    return opt


def write_backbone(run: RunFolder) -> Path:
    """Write weights/backbone.pt of a finished run: {"model": name -> tensor, "meta": what it was taught by}."""
    ckpt = load_checkpoint(run.best if run.best.is_file() else run.last)
    tensors = {
        name.removeprefix(BACKBONE): value for name, value in ckpt.state_dict.items() if name.startswith(BACKBONE)
    }
    options = {key: ckpt.opt[key] for key in ("backbone", "epochs", "batch_size", "imgsz")}
    meta = without_folders({"version": VERSION, **ckpt.yaml["description"], "data": ckpt.meta["data"], **options})
    buffer, file = io.BytesIO(), run.weights / "backbone.pt"
    torch.save({"model": tensors, "meta": meta}, buffer)
    write_atomic(file, buffer.getvalue())
    return file
