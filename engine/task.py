"""What differs between tasks, as one small object each. The trainer knows no more of a task than this."""

from dataclasses import dataclass
from typing import Callable

from engine.evaluator import evaluate
from models.yolo import DetectionModel
from utils.loss import ComputeLoss


@dataclass(frozen=True)
class Task:
    name: str  # as in Checkpoint.task
    model_class: Callable  # (cfg, ch=3, nc=None, anchors=None) -> model
    criterion: Callable  # (model, autobalance=False) -> callable (maps, targets) -> (loss, items [len(loss_names)])
    loss_names: tuple  # of the items, as in results.csv
    evaluate: Callable  # (model, loader, *, names, device, **options) -> EvalResult
    plot_batch: Callable  # (images, targets, paths, file, names): a picture of a batch with its targets


def plot_boxes(images, targets, paths, file, names) -> None:
    from utils.plots import plot_images  # drawing libraries load when something is drawn

    plot_images(images, targets, paths, file, names)


DETECT = Task(
    name="detect",
    model_class=DetectionModel,
    criterion=ComputeLoss,
    loss_names=("box_loss", "obj_loss", "cls_loss"),
    evaluate=evaluate,
    plot_batch=plot_boxes,
)
