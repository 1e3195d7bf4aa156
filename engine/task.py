"""What differs between tasks, as one object each. The engine knows no more of a task than the methods of Task."""

from __future__ import annotations

import argparse

import numpy as np
import torch

from engine.options import apply_data_defaults
from engine.train import build, pictures
from engine.train.recipe import AUTO
from engine.train.schedule import scaled_loss_gains
from engine.val.evaluator import DetectionEvaluator, evaluate
from models.yolo import DetectionModel
from utils import dist
from utils.autoanchor import check_anchors
from utils.data.config import check_dataset
from utils.dataloaders import create_dataloader
from utils.extras import load_extra
from utils.general import labels_to_class_weights, labels_to_image_weights
from utils.hyperparameters import load_hyp
from utils.logger import LOGGER
from utils.loss import ComputeLoss
from utils.metrics import fitness


class Task:
    """A kind of model with its data, loss and scores.

    `opt` are always the options of the task's scripts, `data` is what read_data() gives.

    A loader yields (images uint8 [B, 3, H, W] RGB, targets with len() and to(device), paths, shapes).
    """

    name = ""  # as in Checkpoint.task
    scripts = ""  # the folder of its scripts: "" or "segment/"
    model_class = None  # has from_checkpoint()
    evaluator = None  # an engine.val.evaluator.Evaluator
    metric_names = ()  # of results.csv
    defaults = None  # of options that neither the user nor the data file gives, where they are not DATA_DEFAULTS'

    @property
    def loss_names(self) -> tuple:
        """Of the items of the criterion, as in results.csv."""
        return self.evaluator.loss_names

    def read_data(self, opt: argparse.Namespace, required: tuple = ("train", "val")) -> dict:
        """The checked data: names {int: str}, nc, the splits, and optional defaults for options."""
        raise NotImplementedError

    def read_hyp(self, opt: argparse.Namespace, source=None) -> dict:
        """The hyperparameters of `source` (file or mapping), else those of the options. ValueError for a wrong one."""
        raise NotImplementedError

    def load_start(self, opt: argparse.Namespace):
        """The checkpoint that a training starts from, or None. ValueError if the options name nothing to train."""
        raise NotImplementedError

    def build_model(self, opt, hyp: dict, data: dict, start=None, resumed=None):
        """The model to train, on the CPU, with the tensors of `start`; `resumed` gives its description alone."""
        raise NotImplementedError

    def load_teacher(self, trainer):
        """The extras.teach.answers.Answers of --teacher, None without; what it labels goes into trainer.data."""
        return None

    def build_loaders(self, opt, hyp: dict, data: dict, stride: int) -> tuple:
        """(training loader, validation loader); the latter is None in all but the main process."""
        raise NotImplementedError

    def eval_loader(self, opt, data: dict, model, rect: bool):
        """The loader of data[opt.split] for val.py and a DetectMultiBackend; rect: batches of like shape."""
        raise NotImplementedError

    def prepare(self, trainer) -> None:
        """What the model and the run folder need from the data, before the first epoch."""

    def set_close_mosaic(self, trainer) -> None:
        """Tell the data set from which epoch on there is no mosaic, where there is any."""

    def criterion(self, model):
        """A callable (outputs, targets) -> (loss, items [len(loss_names)], detached)."""
        raise NotImplementedError

    def figures(self, result) -> list:
        """The values of metric_names."""
        raise NotImplementedError

    def fitness(self, figures: list) -> float:
        """One number to compare trainings by, from figures() (and what may follow)."""
        raise NotImplementedError

    def image_weights(self, trainer):
        """The chance [n] of each image in the next epoch, None for equal ones."""

    def class_scores(self, result) -> list:
        """A score for each class that image_weights() looks at."""
        return []

    def plot_batch(self, images, targets, paths, file, names) -> None:
        """A picture of a batch with its targets."""
        raise NotImplementedError

    def report(self, result, opt) -> None:
        """What val.py prints below the table."""

    def evaluate(self, model, loader, **options):
        """engine.val.evaluator.evaluate with the task's evaluator."""
        return evaluate(model, loader, evaluator=self.evaluator, **options)


class Detection(Task):
    name = "detect"
    model_class = DetectionModel
    evaluator = DetectionEvaluator
    metric_names = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
    loss = ComputeLoss

    def read_data(self, opt, required=("train", "val")) -> dict:
        return check_dataset(opt.data, required=required)

    def read_hyp(self, opt, source=None) -> dict:
        hyp = load_hyp(source or ({} if opt.hyp == AUTO else opt.hyp))
        if opt.label_smoothing:
            hyp["label_smoothing"] = opt.label_smoothing
        return hyp

    def load_start(self, opt):
        return build.load_start(opt)

    def build_model(self, opt, hyp, data, start=None, resumed=None):
        return build.build_model(opt, hyp, data["nc"], self, start, resumed)

    def load_teacher(self, trainer):
        if not (trainer.opt.teacher or trainer.opt.unlabeled):
            return None
        distillation = load_extra("teach.distillation")
        student = trainer.model, trainer.names, trainer.stride, trainer.device, trainer.memory_format
        teacher = distillation.load_teacher(trainer.opt, trainer.hyp, *student)
        trainer.data["unlabeled"] = distillation.label_unlabeled(trainer.opt, trainer.data, teacher)
        return teacher

    def loader_options(self, opt) -> dict:
        """Further keywords for create_dataloader."""
        return {}

    def build_loaders(self, opt, hyp, data, stride):
        same = {key: getattr(opt, key) for key in ("single_cls", "workers", "seed")}
        same |= {"hyp": hyp, "nc": data["nc"], "names": data["names"], "stride": stride, **self.loader_options(opt)}
        per_rank = opt.batch_size // dist.world_size()
        with dist.main_first():
            loader, _ = create_dataloader(
                data["train"],
                opt.imgsz,
                per_rank,
                augment=True,
                cache=opt.cache,
                rect=opt.rect,
                rank=dist.rank(),
                image_weights=opt.image_weights,
                quad=opt.quad,
                prefix="train: ",
                shuffle=True,
                extra=data.get("unlabeled"),
                **same,
            )
        if not dist.is_main():
            return loader, None
        cache = None if opt.noval else opt.cache
        val_loader, _ = create_dataloader(
            data["val"], opt.imgsz, per_rank * 2, cache=cache, rect=True, pad=0.5, prefix="val: ", **same
        )
        return loader, val_loader

    def eval_loader(self, opt, data, model, rect):
        loader, _ = create_dataloader(
            data[opt.split],
            opt.imgsz,
            opt.batch_size,
            model.stride,
            single_cls=opt.single_cls,
            pad=0.5 if rect else 0.0,
            rect=rect,
            workers=opt.workers,
            prefix=f"{opt.split}: ",
            nc=data["nc"],
            names=data["names"],
            fixed_hw=model.fixed_hw,
            **self.loader_options(opt),
        )
        return loader

    def prepare(self, trainer) -> None:
        model, opt, labels = trainer.model, trainer.opt, trainer.loader.dataset.labels
        self.set_close_mosaic(trainer)
        model.hyp = scaled_loss_gains(trainer.hyp, model.head.nl, trainer.data["nc"], opt.imgsz)
        weights = labels_to_class_weights(labels, trainer.data["nc"])
        model.class_weights = torch.from_numpy(weights).to(trainer.device)
        trainer.state.maps = [0.0] * trainer.data["nc"]
        if trainer.resumed is None and dist.is_main():
            if not opt.noautoanchor:
                check_anchors(trainer.loader.dataset, model=model, thr=trainer.hyp["anchor_t"], imgsz=opt.imgsz)
            if not opt.noplots:
                pictures.draw_labels(labels, trainer.names, trainer.run.folder)
        trainer.callbacks.run("on_pretrain_routine_end", np.concatenate(list(labels)), trainer.names)

    def set_close_mosaic(self, trainer) -> None:
        if trainer.opt.close_mosaic:
            trainer.loader.dataset.mosaic_until = max(trainer.opt.epochs - trainer.opt.close_mosaic, 0)

    def criterion(self, model):
        return self.loss(model)

    def figures(self, result) -> list:
        return [float(value) for value in (result.precision, result.recall, result.map50, result.map)]

    def fitness(self, figures) -> float:
        return float(fitness(figures[:4]))

    def image_weights(self, trainer):
        """With --image-weights more where classes are rare or their AP is low."""
        if not trainer.opt.image_weights:
            return None
        missing = np.clip(1 - np.array(trainer.state.maps), 1e-3, None) ** 2
        weights = trainer.model.class_weights.cpu().numpy() * missing
        return labels_to_image_weights(trainer.loader.dataset.labels, trainer.data["nc"], weights)

    def class_scores(self, result) -> list:
        return [float(value) for value in result.maps]

    def plot_batch(self, images, targets, paths, file, names) -> None:
        from utils.plots.pictures import plot_images  # drawing libraries load when something is drawn

        plot_images(images, targets, paths, file, names)

    def report(self, result, opt) -> None:
        sizes = {"small": result.ap_small, "medium": result.ap_medium, "large": result.ap_large}
        by_size = ", ".join(f"{size} {'-' if ap != ap else f'{ap:.3g}'}" for size, ap in sizes.items())
        LOGGER.info(f"mAP50-95 by size (area to 32^2, to 96^2, above): {by_size}")
        LOGGER.info(f"P and R are those of the best mean F1, {result.f1:.3g} at confidence {result.confidence:.3g}")


DETECT = Detection()


def apply_defaults(opt: argparse.Namespace, data: dict, task: Task) -> None:
    """Fill the options that were not given from the data file, and say which."""
    for line in apply_data_defaults(opt, data, task.defaults):
        LOGGER.info(f"data default: {line}")
