"""Validation: run a model over a loader, score it, write what was asked for. The loop of val.py and the trainer.

Evaluator is the loop that all tasks share, DetectionEvaluator what detection adds to it.
"""

import json
import random
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.boxes import scale_boxes, xywh2xyxy, xyxy2xywh, xyxy2xywhn
from utils.extras import has_extra, load_extra
from utils.general import coco80_to_coco91_class
from utils.logger import LOGGER
from utils.metrics import ConfusionMatrix, DetectionMetrics, DetectionResult
from utils.nms import final_boxes
from utils.text import progress_bar
from utils.timing import UNTIMED, Profile, Untimed

PLOTTED_BATCHES = 3
HEADER = ("%22s" + "%11s" * 6) % ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
ROW = "%22s" + "%11i" * 2 + "%11.3g" * 4


@dataclass(frozen=True)
class EvalOptions:
    """How to validate; the fields are val.py's flags of the same names."""

    half: bool = False  # fp16 autocast for a model on CUDA; a DetectMultiBackend has its own precision
    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    single_cls: bool = False
    augment: bool = False
    plots: bool = False
    save_dir: Path | None = None  # folder of every file below; must exist if one is asked for
    save_txt: bool = False
    save_hybrid: bool = False
    save_conf: bool = False
    save_json: bool = False
    verbose: bool = False
    v5_map: bool = False  # also print YOLOv5's own figures
    evidence: str = ""  # the dataset file, to write evidence.npz and print the intervals of a detector's mAP
    progress: bool = True  # a progress bar, on a terminal

    def __post_init__(self):
        if self.save_dir is None and (self.plots or self.save_txt or self.save_json or self.evidence):
            raise ValueError("plots, save_txt, save_json and evidence need a save_dir, found None")


@dataclass
class EvalResult(DetectionResult):
    """The scores, the losses and the times of one validation."""

    losses: tuple = (0.0, 0.0, 0.0)  # mean of box, objectness and class loss over the batches
    speed_ms: tuple = (0.0, 0.0, 0.0)  # per image: pre-process, inference, NMS


def evaluate(
    model, loader, *, names, device, evaluator=None, compute_loss=None, callbacks=None, times=UNTIMED, **options
):
    """Validate a model or DetectMultiBackend and print YOLOv5's table; returns the result of the `evaluator`'s kind.

    loader yields (images uint8 [B, 3, H, W] RGB, targets, paths, shapes), names is {number: name}. evaluator: a kind of
    Evaluator, by default that of detection (EvalResult). compute_loss(outputs, targets) -> (loss, items) adds the
    validation losses. times: a StageTimes of --profile. options: the fields of EvalOptions. The model, its mode and
    every random state are left as they were.
    """
    options = EvalOptions(**options)
    names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names
    run = (evaluator or DetectionEvaluator)(model, names, torch.device(device), options, compute_loss, callbacks, times)
    with undisturbed(model), torch.no_grad():
        return run.run(loader)


@contextmanager
def undisturbed(model):
    """Evaluation mode inside; afterwards every module's mode and all random states are as before."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, torch.nn.Module) else []
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else None
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)


class Evaluator:
    """The loop over a loader, its times, losses and hooks. A task's evaluator adds what is not implemented here."""

    header = ""  # of the table
    loss_names = ()  # as the task has them
    timed = ("pre-process", "inference", "post-process")

    def __init__(self, model, names, device, options, compute_loss=None, callbacks=None, times: Untimed = UNTIMED):
        self.model, self.device, self.options, self.compute_loss = model, device, options, compute_loss
        self.names = {0: names[0] if len(names) == 1 else "object"} if options.single_cls else names
        self.fire = callbacks.run if callbacks is not None else lambda *args: None
        self.times = times
        self.timers = [Profile(device=device) for _ in self.timed]
        self.losses = torch.zeros(len(self.loss_names), device=device)
        self.images = 0

    def run(self, loader):
        self.fire("on_val_start")
        LOGGER.info(self.header)
        batches = self.times.each("waiting", progress_bar(loader, "validating", self.options.progress))
        for i, batch in enumerate(batches):
            self.fire("on_val_batch_start")
            self.images += len(batch[0])
            self.step(i, *batch)
        self.times.count(self.images)
        with self.times("metrics"):
            result = self.compute(
                losses=tuple((self.losses / max(len(loader), 1)).tolist()),
                speed_ms=tuple(timer.t * 1000 / max(self.images, 1) for timer in self.timers),
            )
        self.report(result)
        if self.options.plots:
            with self.times("plots"):
                self.plot(result)
        self.close(result)
        return result

    def step(self, batch_i, images, targets, paths, shapes) -> None:
        """Predict one batch and record every image of it."""
        raise NotImplementedError

    def compute(self, losses: tuple, speed_ms: tuple):
        """The result; losses are the means over the batches, speed_ms the milliseconds per image of `timed`."""
        raise NotImplementedError

    def report(self, result) -> None:
        """Print the rows of the table."""
        raise NotImplementedError

    def plot(self, result) -> None:
        """Draw the curves and matrices of the result."""
        raise NotImplementedError

    def close(self, result) -> None:
        """Finish files, fire the last hook."""

    def to_input(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 -> 0 to 1 on the device, in the model's precision."""
        images = images.to(self.device, non_blocking=True)
        return images.half() / 255 if getattr(self.model, "fp16", False) else images.float() / 255

    def precision(self):
        """float16 autocast with the option half, on CUDA alone."""
        return torch.autocast(self.device.type, torch.float16, enabled=self.options.half and self.device.type == "cuda")

    def add_losses(self, outputs, targets) -> None:
        if self.compute_loss is not None and outputs is not None:
            self.losses += self.compute_loss(outputs, targets)[1]


class DetectionEvaluator(Evaluator):
    """Boxes: COCO-protocol AP, curves, confusion matrix. Targets are [n, 6]: image, class, xywh normalised."""

    header = HEADER
    loss_names = ("box_loss", "obj_loss", "cls_loss")
    timed = ("pre-process", "inference", "NMS")

    def __init__(self, *args):
        super().__init__(*args)
        self.metrics = DetectionMetrics(len(self.names))
        self.confusion_matrix = ConfusionMatrix(len(self.names))
        self.files = PredictionFiles(self.options, self.names)
        self.evidence = None
        if self.options.evidence and has_extra("compare"):
            self.evidence = load_extra("compare.records").Evidence(self.names, self.options.evidence)

    def step(self, batch_i, images, targets, paths, shapes) -> None:
        options, (pre_process, inference, suppression) = self.options, self.timers
        with self.times("inference", pre_process):
            inputs = self.to_input(images)
            targets = targets.to(self.device)
            if options.single_cls:
                targets = self.one_class(targets)
            true_boxes = self.true_boxes(targets)
        with self.times("inference", inference), self.precision():
            output = self.model(inputs, augment=options.augment)
        predictions, trainable = self.split(output)
        with self.times("loss"):
            self.add_losses(trainable, targets)

        height, width = images.shape[2:]
        targets_px = true_boxes * true_boxes.new_tensor([1, 1, width, height, width, height])
        with self.times("NMS", suppression):
            found = self.suppress(predictions, targets_px)
        targets_px = targets_px.cpu()
        for i, boxes in enumerate(found):
            truth = targets_px[targets_px[:, 0] == i, 1:]
            with self.times("metrics"):
                native = self.record(i, boxes.cpu(), truth, (height, width), paths[i], shapes[i], targets)
            self.fire("on_val_image_end", boxes, native, Path(paths[i]), self.names, images[i])
        if options.plots and batch_i < PLOTTED_BATCHES:
            with self.times("plots"):
                self.plot_batch(batch_i, images, targets, found, paths)
        self.fire("on_val_batch_end", batch_i, images, targets_px, paths, shapes, found)

    def true_boxes(self, targets) -> torch.Tensor:
        """[n, 6] of the loader's targets."""
        return targets

    def one_class(self, targets):
        """The targets with class 0 everywhere, in a copy."""
        return targets * targets.new_tensor([1, 0, 1, 1, 1, 1])

    def split(self, output) -> tuple:
        """The model's output as predictions [B, N, ...], and what the loss takes, or None."""
        return output if isinstance(output, (tuple, list)) else (output, None)

    def suppress(self, predictions, targets_px, nm: int = 0) -> list:
        """NMS; with save_hybrid the true boxes take part. nm: mask coefficients of a prediction, kept behind it."""
        options = self.options
        labels = [targets_px[targets_px[:, 0] == i, 1:] for i in range(len(predictions))] if options.save_hybrid else ()
        found = final_boxes(
            predictions,
            getattr(self.model, "end2end", False),
            options.conf_thres,
            options.iou_thres,
            agnostic=options.single_cls,
            multi_label=True,
            labels=labels,
            max_det=options.max_det,
            nm=nm,
        )
        if options.single_cls:
            for boxes in found:
                boxes[:, 5] = 0
        return found

    def record(self, i, boxes, targets_px, shape_hw, path, shape, targets):
        """Score image i of the batch: boxes [n, 6] and its true ones [m, 5] (class, xywh) in input pixels.

        Returns the boxes in pixels of the original image.
        """
        native, truth = to_original(boxes, targets_px, shape_hw, shape)
        self.metrics.update(native.numpy(), truth.numpy())
        self.confusion_matrix.process_batch(native.numpy(), truth.numpy())
        if self.evidence:
            self.evidence.add(path, native.numpy(), truth.numpy())
        self.files.write(native.numpy(), shape[0], Path(path))
        return native

    def compute(self, losses: tuple, speed_ms: tuple) -> EvalResult:
        return EvalResult(**vars(self.metrics.compute()), losses=losses, speed_ms=speed_ms)

    def report(self, result: EvalResult) -> None:
        if result.targets == 0:
            LOGGER.warning("the images have no labels, so nothing can be measured")
        means = result.precision, result.recall, result.map50, result.map
        LOGGER.info(ROW % ("all", result.images, result.targets, *means))
        if self.options.v5_map:
            LOGGER.info(ROW % ("all (YOLOv5's recipe)", result.images, result.targets, *result.v5))
        if self.options.verbose and len(self.names) > 1:
            columns = result.classes, result.n_images, result.n_targets, result.p, result.r, result.ap50, result.ap
            for cls, *row in zip(*columns):
                LOGGER.info(ROW % (self.names[int(cls)], *row))

    def plot_batch(self, batch_i, images, targets, found, paths) -> None:
        plot_batch(batch_i, images, targets, found, paths, self.names, self.options.save_dir)

    def plot(self, result: EvalResult) -> None:
        self.confusion_matrix.plot(save_dir=self.options.save_dir, names=self.names)
        plot_curves(result, self.names, self.options.save_dir)

    def close(self, result: EvalResult) -> None:
        self.files.close()
        if self.evidence and self.evidence.images:
            with self.times("evidence"):
                load_extra("compare.summary").conclude(
                    self.evidence, self.options.save_dir, self.options.verbose, self.options.plots
                )
        counts = result.n_targets, result.true_positives, result.false_positives
        scores = result.p, result.r, result.f1_per_class, result.ap, result.ap50, result.classes
        self.fire("on_val_end", *counts, *scores, self.confusion_matrix)


def to_original(boxes, targets_px, shape_hw, shape) -> tuple:
    """Boxes [n, 6] and targets [m, 5] (class, xywh) in input pixels -> both in the original's, the targets as xyxy."""
    native_hw, ratio_pad = shape
    native, truth = boxes.clone(), targets_px.clone()
    scale_boxes(shape_hw, native, native_hw, ratio_pad)
    truth[:, 1:] = scale_boxes(shape_hw, xywh2xyxy(truth[:, 1:]), native_hw, ratio_pad)
    return native, truth


class PredictionFiles:
    """Writes labels/NAME.txt for each image and, at the end, predictions.json, as far as asked for."""

    def __init__(self, options: EvalOptions, names):
        self.options = options
        self.category_ids = coco80_to_coco91_class() if is_coco(names) else list(range(len(names)))
        self.results = []
        self.written = set()
        if options.save_txt:
            (Path(options.save_dir) / "labels").mkdir(parents=True, exist_ok=True)

    def write(self, boxes, shape_hw, path: Path, masks=(), polygons=()) -> None:
        """boxes [n, 6] of the image `path`, in its pixels; an image without boxes gets no text file, as with YOLOv5.

        Of segmentation also, for each box, the mask's run lengths and its polygon [k, 2] in pixels.
        """
        if self.options.save_txt and len(boxes):
            self.write_txt(boxes, shape_hw, path, polygons)
        if self.options.save_json:
            results = coco_results(boxes, path, self.category_ids)
            for result, code in zip(results, masks):
                result["segmentation"] = code
            self.results += results

    def write_txt(self, boxes, shape_hw, path: Path, polygons) -> None:
        """A row for each box: class, xywh or, where there is one, the polygon, normalised, and the confidence."""
        size_wh = np.float32([shape_hw[1], shape_hw[0]])
        places = list(xyxy2xywhn(boxes[:, :4], *size_wh))
        for i, polygon in enumerate(polygons):
            places[i] = (polygon / size_wh).ravel() if len(polygon) else places[i]
        rows = [[cls, *place, conf] for place, (conf, cls) in zip(places, boxes[:, 4:6])]
        rows = rows if self.options.save_conf else [row[:-1] for row in rows]
        name, number = path.stem, 2
        while name in self.written:  # images of one name in two folders
            name, number = f"{path.stem}_{number}", number + 1
        self.written.add(name)
        file = Path(self.options.save_dir) / "labels" / f"{name}.txt"
        file.write_text("".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows))

    def close(self) -> None:
        if self.options.save_json:
            file = Path(self.options.save_dir) / "predictions.json"
            file.write_text(json.dumps(self.results))
            LOGGER.info(f"{len(self.results)} boxes in COCO's results format: {file}")


def is_coco(names) -> bool:
    """True for the 80 class names of COCO, whose published category ids have gaps."""
    return len(names) == 80 and [names[i] for i in (0, 1, 79)] == ["person", "bicycle", "toothbrush"]


def coco_results(boxes, path: Path, category_ids) -> list:
    """Boxes [n, 6] of an image in COCO's results format; image_id is the file's stem, as int if it is digits."""
    image_id = int(path.stem) if path.stem.isdecimal() else path.stem
    xywh = xyxy2xywh(boxes[:, :4].astype(np.float64))
    xywh[:, :2] -= xywh[:, 2:] / 2  # COCO's xy is the top-left corner
    columns = zip(xywh.round(3).tolist(), boxes[:, 4].tolist(), boxes[:, 5].tolist())
    return [
        {"image_id": image_id, "category_id": category_ids[int(cls)], "bbox": xywh, "score": round(score, 5)}
        for xywh, score, cls in columns
    ]


def plot_batch(batch_i, images, targets, found, paths, names, save_dir) -> None:
    """val_batchN_labels.jpg and val_batchN_pred.jpg."""
    from utils.plots.pictures import output_to_targets, plot_images

    predictions = output_to_targets(found, images.shape[2:])
    for boxes, kind in ((targets, "labels"), (predictions, "pred")):
        plot_images(images, boxes, paths, Path(save_dir) / f"val_batch{batch_i}_{kind}.jpg", names)


def plot_curves(result: DetectionResult, names, save_dir, prefix: str = "") -> None:
    """The curves PR, F1, P and R over all images, as PREFIX..._curve.png."""
    from utils.plots.charts import plot_mc_curve, plot_pr_curve

    folder, curves = Path(save_dir), result.curves
    if len(result.classes) == 0:
        return
    shown = {i: names[int(cls)] for i, cls in enumerate(result.classes)}
    plot_pr_curve(curves.x, curves.precision_at_recall, result.ap50, folder / f"{prefix}PR_curve.png", shown)
    for title, values in (("F1", curves.f1), ("Precision", curves.precision), ("Recall", curves.recall)):
        file = folder / f"{prefix}{title if title == 'F1' else title[0]}_curve.png"
        plot_mc_curve(curves.x, values, file, shown, ylabel=title)
