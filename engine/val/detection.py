"""The validation of boxes: COCO-protocol AP, curves, confusion matrix."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.val.evaluator import PLOTTED_BATCHES, EvalOptions, Evaluator, undisturbed
from engine.val.files import PredictionFiles
from utils.boxes import scale_boxes, xywh2xyxy
from utils.extras import has_extra, load_extra
from utils.logger import LOGGER
from utils.metrics import ConfusionMatrix, DetectionMetrics, DetectionResult
from utils.nms import final_boxes
from utils.timing import UNTIMED, Untimed

HEADER = ("%22s" + "%11s" * 6) % ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
ROW = "%22s" + "%11i" * 2 + "%11.3g" * 4


@dataclass
class EvalResult(DetectionResult):
    """The scores, the losses and the times of one validation."""

    losses: tuple = (0.0, 0.0, 0.0)  # mean of box, objectness and class loss over the batches
    speed_ms: tuple = (0.0, 0.0, 0.0)  # per image: pre-process, inference, NMS


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
        self.end2end = self.options.predictor is not None or getattr(self.model, "end2end", False)
        self.observers = []  # have add(path, boxes [n, 6], truth [m, 5] class, xyxy) and close(options)
        if self.options.evidence and has_extra("compare"):
            self.observers.append(load_extra("compare.summary").EvidenceObserver(self.names, self.options.evidence))

    def step(self, batch_i, images, targets, paths, shapes) -> None:
        options, (pre_process, inference, suppression) = self.options, self.timers
        with self.times("inference", pre_process):
            inputs = self.to_input(images)
            targets = targets.to(self.device)
            if options.single_cls:
                targets = self.one_class(targets)
            true_boxes = self.true_boxes(targets)
            known = None if self.known is None or options.single_cls else self.known.of(paths).to(self.device)
        with self.times("inference", inference), self.precision():
            output = options.predictor(paths, shapes) if options.predictor else self.model(inputs, options.augment)
        predictions, trainable = self.split(output)
        with self.times("loss"):
            self.add_losses(trainable, targets, known)

        height, width = images.shape[2:]
        targets_px = true_boxes * true_boxes.new_tensor([1, 1, width, height, width, height])
        with self.times("NMS", suppression):
            found = answered(self.suppress(predictions, targets_px), known)
            found_for = [
                answered(self.suppress_for(hook, predictions), known) if hook.nms else found for hook in options.hooks
            ]
        targets_px = targets_px.cpu()
        for i, boxes in enumerate(found):
            truth = targets_px[targets_px[:, 0] == i, 1:]
            with self.times("metrics"):
                native = self.record(i, boxes.cpu(), truth, (height, width), paths[i], shapes[i], targets)
                for hook, theirs in zip(options.hooks, found_for):
                    pair = to_original(theirs[i].cpu(), truth, (height, width), shapes[i])
                    hook.add(str(paths[i]), *(boxes.numpy() for boxes in pair))
            self.fire("on_val_image_end", boxes, native, Path(paths[i]), self.names, images[i])
        if options.plots and batch_i < PLOTTED_BATCHES:
            with self.times("plots"):
                self.plot_batch(batch_i, images, targets, found, paths)
        self.fire("on_val_batch_end", batch_i, images, targets_px, paths, shapes, found)

    def true_boxes(self, targets) -> torch.Tensor:
        """Return the boxes [n, 6] of the loader's targets."""
        return targets

    def one_class(self, targets):
        """Return the targets with class 0 everywhere, in a copy."""
        return targets * targets.new_tensor([1, 0, 1, 1, 1, 1])

    def split(self, output) -> Sequence:
        """Return the model's output as predictions [B, N, ...], and what the loss takes, or None."""
        return output if isinstance(output, (tuple, list)) else (output, None)

    def suppress(self, predictions, targets_px, nm: int = 0) -> list:
        """Return the boxes that NMS keeps; with save_hybrid the true boxes take part.

        nm: mask coefficients of a prediction, kept behind it.
        """
        options = self.options
        labels = [targets_px[targets_px[:, 0] == i, 1:] for i in range(len(predictions))] if options.save_hybrid else ()
        found = final_boxes(
            predictions,
            self.end2end,
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

    def suppress_for(self, hook, predictions) -> list:
        """Return the boxes that a hook's own NMS keeps."""
        return final_boxes(predictions, self.end2end, **hook.nms)

    def record(self, i, boxes, targets_px, shape_hw, path, shape, targets):
        """Score image i of the batch: boxes [n, 6] and its true ones [m, 5] (class, xywh) in input pixels.

        Returns the boxes in pixels of the original image.
        """
        native, truth = to_original(boxes, targets_px, shape_hw, shape)
        self.metrics.update(native.numpy(), truth.numpy())
        self.confusion_matrix.process_batch(native.numpy(), truth.numpy())
        for observer in self.observers:
            observer.add(path, native.numpy(), truth.numpy())
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
        with self.times("evidence"):
            for observer in self.observers:
                observer.close(self.options)
            for hook in self.options.hooks:
                hook.close(self.options.save_dir)
        counts = result.n_targets, result.true_positives, result.false_positives
        scores = result.p, result.r, result.f1_per_class, result.ap, result.ap50, result.classes
        self.fire("on_val_end", *counts, *scores, self.confusion_matrix)


def answered(found: list, known) -> list:
    """Return the boxes [n, 6] of each image whose class it answers for (known: bool [B, nc], None for all classes).

    A class that a picture does not answer for is neither right nor wrong.
    """
    return found if known is None else [boxes[of_image[boxes[:, 5].long()]] for boxes, of_image in zip(found, known)]


def to_original(boxes, targets_px, shape_hw, shape) -> tuple:
    """Return boxes [n, 6] and targets [m, 5] (class, xywh) in input pixels in the original's, the targets as xyxy."""
    native_hw, ratio_pad = shape
    native, truth = boxes.clone(), targets_px.clone()
    scale_boxes(shape_hw, native, native_hw, ratio_pad)
    truth[:, 1:] = scale_boxes(shape_hw, xywh2xyxy(truth[:, 1:]), native_hw, ratio_pad)
    return native, truth


def plot_batch(batch_i, images, targets, found, paths, names, save_dir) -> None:
    """Draw val_batchN_labels.jpg and val_batchN_pred.jpg."""
    from utils.plots.pictures import output_to_targets, plot_images

    predictions = output_to_targets(found, images.shape[2:])
    for boxes, kind in ((targets, "labels"), (predictions, "pred")):
        plot_images(images, boxes, paths, Path(save_dir) / f"val_batch{batch_i}_{kind}.jpg", names)


def plot_curves(result: DetectionResult, names, save_dir, prefix: str = "") -> None:
    """Draw the curves PR, F1, P and R over all images, as PREFIX..._curve.png."""
    from utils.plots.charts import plot_mc_curve, plot_pr_curve

    folder, curves = Path(save_dir), result.curves
    if len(result.classes) == 0:
        return
    shown = {i: names[int(cls)] for i, cls in enumerate(result.classes)}
    plot_pr_curve(curves.x, curves.precision_at_recall, result.ap50, folder / f"{prefix}PR_curve.png", shown)
    for title, values in (("F1", curves.f1), ("Precision", curves.precision), ("Recall", curves.recall)):
        file = folder / f"{prefix}{title if title == 'F1' else title[0]}_curve.png"
        plot_mc_curve(curves.x, values, file, shown, ylabel=title)


def evaluate(
    model,
    loader: Iterable,
    *,
    names: dict[int, str] | Sequence[str],
    device: torch.device | str,
    evaluator: type[Evaluator] = DetectionEvaluator,
    compute_loss: Callable | None = None,
    callbacks=None,
    times: Untimed = UNTIMED,
    **options,
):
    """Validate a model or DetectMultiBackend, print YOLOv5's table, and return the result of the `evaluator`'s kind.

    loader yields (images uint8 [B, 3, H, W] RGB, targets, paths, shapes). compute_loss(outputs, targets) ->
    (loss, items) adds the validation losses. times: a StageTimes of --profile. options: the fields of EvalOptions.
    The model, its mode and every random state are left as they were.
    """
    names = names if isinstance(names, dict) else dict(enumerate(names))
    chosen = EvalOptions(**options)
    with undisturbed(model), torch.no_grad():
        return evaluator(model, names, torch.device(device), chosen, compute_loss, callbacks, times).run(loader)
