"""The differences between tasks, one object for each. The engine knows no more of a task than the methods of Task."""

import argparse
from pathlib import Path

import numpy as np

from engine.hyperparameters import load_hyp
from engine.options import apply_data_defaults
from engine.train import start as starts
from engine.train.recipe import AUTO
from engine.train.schedule import scaled_loss_gains
from engine.val.detection import DetectionEvaluator, evaluate
from models.yolo import DetectionModel
from utils import dist
from utils.autoanchor import are_placeholders, check_anchors
from utils.data.config import check_dataset
from utils.data.label_files import labels_elsewhere
from utils.dataloaders import LoadImagesAndLabels, create_dataloader
from utils.general import labels_to_class_weights, labels_to_image_weights
from utils.logger import LOGGER
from utils.loss import ComputeLoss
from utils.metrics import fitness


class Task:
    """A kind of model with its data, loss and scores.

    `opt` are always the options of the task's scripts, `data` is what read_data() gives.

    A loader yields (images uint8 [B, 3, H, W] RGB, targets with len() and to(device), paths, shapes).
    """

    name = ""  # as in Checkpoint.task
    script = "train.py"  # as the user types it
    model_class = None  # has from_checkpoint()
    evaluator = None  # an engine.val.evaluator.Evaluator
    metric_names = ()  # columns of results.csv
    has_teacher = False  # whether --teacher and --unlabeled are among its options
    defaults = None  # for options that neither the user nor the data file gives, where they differ from DATA_DEFAULTS

    @property
    def loss_names(self) -> tuple:
        """Names of the criterion's items, as in results.csv."""
        return self.evaluator.loss_names

    def read_data(self, opt: argparse.Namespace, required: tuple = ("train", "val")) -> dict:
        """Return the checked data: names {int: str}, nc, the splits, and optional defaults for options."""
        raise NotImplementedError

    def read_hyp(self, opt: argparse.Namespace, source=None) -> dict:
        """Return the hyperparameters of `source` (file or mapping), else of the options. ValueError for wrong ones."""
        raise NotImplementedError

    def load_start(self, opt: argparse.Namespace):
        """Return the checkpoint to start a training from, or None. ValueError if the options name nothing to train."""
        raise NotImplementedError

    def build_model(self, opt, hyp: dict, data: dict, start=None, resumed=None):
        """Build the model on the CPU, with the tensors of `start`; `resumed` gives its description alone."""
        raise NotImplementedError

    def start_kind(self, opt, start, model) -> str:
        """Return what the training starts from, a key of engine.train.recipe.STARTS."""
        return "nothing"

    def build_loaders(self, opt, hyp: dict, data: dict, stride: int) -> tuple:
        """Return (training loader, validation loader); the latter is None in all but the main process."""
        raise NotImplementedError

    def eval_loader(self, opt, data: dict, model, rect: bool):
        """Return the loader of data[opt.split] for val.py and a DetectMultiBackend; rect: batches of like shape."""
        raise NotImplementedError

    def labels(self, dataset) -> np.ndarray:
        """Return the labels [n, 5] of a training set, class and xywh (normalised), for the users' hooks."""
        return np.zeros((0, 5))

    def fit_to_data(self, model, dataset, opt, hyp: dict) -> None:
        """Fit what the model takes from the data, such as anchors, before the first epoch; in the main process."""

    def plot_labels(self, dataset, names: dict[int, str], folder: Path) -> None:
        """Draw the labels of a training set into the run folder."""

    def criterion(self, model, hyp: dict, imgsz: int):
        """Return a callable (outputs, targets) -> (loss, items [len(loss_names)], detached)."""
        raise NotImplementedError

    def figures(self, result) -> list:
        """Return the values of metric_names."""
        raise NotImplementedError

    def fitness(self, figures: list) -> float:
        """Return one number to compare trainings by, from figures() (and what may follow)."""
        raise NotImplementedError

    def image_chances(self, dataset, scores: list[float]) -> np.ndarray | None:
        """Return the chance [n] of each image in the next epoch of --image-weights, by the classes' newest scores."""

    def class_scores(self, result) -> list:
        """Return a score for each class that image_chances() looks at."""
        return []

    def plot_batch(self, images, targets, paths, file, names) -> None:
        """Draw a batch with its targets."""
        raise NotImplementedError

    def report(self, result, opt) -> None:
        """Log the lines that val.py adds below the table."""

    def evaluate(self, model, loader, **options):
        """Call engine.val.detection.evaluate with the task's evaluator."""
        return evaluate(model, loader, evaluator=self.evaluator, **options)


class Detection(Task):
    name = "detect"
    has_teacher = True
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
        return starts.load_start(opt)

    def build_model(self, opt, hyp, data, start=None, resumed=None):
        model = starts.build_model(opt, hyp, data["names"], self, start, resumed)
        if opt.noautoanchor and resumed is None and are_placeholders(model.model[-1]):
            raise ValueError(
                "--noautoanchor: the model file (or --hyp) has the number of anchors alone, whose sizes come from the "
                "data: leave the flag away, or list the sizes"
            )
        return model

    def start_kind(self, opt, start, model):
        return starts.start_kind(opt, start, model)

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
        _check_labels(loader.dataset)
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

    def labels(self, dataset) -> np.ndarray:
        return np.concatenate(list(dataset.labels))

    def fit_to_data(self, model, dataset, opt, hyp) -> None:
        if not opt.noautoanchor:
            check_anchors(dataset, model=model, thr=hyp["anchor_t"], imgsz=opt.imgsz)

    def plot_labels(self, dataset, names, folder) -> None:
        from utils.plots.charts import plot_labels  # The drawing libraries load when something is drawn.

        plot_labels(self.labels(dataset), names, folder)

    def criterion(self, model, hyp, imgsz):
        return self.loss(model, scaled_loss_gains(hyp, model.head.nl, model.head.nc, imgsz))

    def figures(self, result) -> list:
        return [float(value) for value in (result.precision, result.recall, result.map50, result.map)]

    def fitness(self, figures) -> float:
        return float(fitness(figures[:4]))

    def image_chances(self, dataset, scores) -> np.ndarray:
        """Return more for images with rare classes, and with classes of low AP."""
        nc = len(scores)
        missing = np.clip(1 - np.array(scores), 1e-3, None) ** 2
        return labels_to_image_weights(dataset.labels, nc, labels_to_class_weights(dataset.labels, nc) * missing)

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


def _check_labels(dataset: LoadImagesAndLabels) -> None:
    """Raise ValueError for a training set without any label."""
    if not len(dataset.labels.values):
        first = dataset.label_files[0]
        raise ValueError(
            f"nothing to train: none of the {len(dataset)} images has a label; looked for {first} and so on"
            f"{labels_elsewhere(dataset.im_files)}"
        )


DETECT = Detection()


def apply_defaults(opt: argparse.Namespace, data: dict, task: Task) -> None:
    """Fill the options that were not given from the data file, and say which."""
    for line in apply_data_defaults(opt, data, task.defaults):
        LOGGER.info(f"data default: {line}")
