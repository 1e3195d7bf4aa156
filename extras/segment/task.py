"""Instance segmentation as a task: what it adds to detection in training and validation."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engine.task import Detection
from engine.val.detection import DetectionEvaluator, plot_curves, to_original
from extras.segment.crops import PIXELS_AT_A_TIME
from extras.segment.loss import ComputeSegmentLoss
from extras.segment.masks import encode_rle, masks_to_polygons, polygons_to_rle, process_mask, process_mask_native
from extras.segment.metrics import SegmentMetrics, SegmentResult
from extras.segment.targets import MaskTargets
from models.yolo import SegmentationModel
from utils.dataloaders import LoadImagesAndLabels
from utils.logger import LOGGER
from utils.metrics import fitness
from utils.nms import as_float32

ROW = "%22s" + "%11i" * 2 + "%11.3g" * 8


@dataclass
class SegmentEvalResult(SegmentResult):
    """The scores, the losses and the times of one validation."""

    losses: tuple = (0.0, 0.0, 0.0, 0.0)  # mean of box, mask, objectness and class loss over the batches
    speed_ms: tuple = (0.0, 0.0, 0.0)  # per image: pre-process, inference, NMS


class SegmentEvaluator(DetectionEvaluator):
    """Boxes as in detection, and the AP of masks at the original images' size."""

    header = ("%22s" + "%11s" * 10) % (
        "Class", "Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)", "Mask(P", "R", "mAP50", "mAP50-95)",
    )  # fmt: skip
    loss_names = ("box_loss", "seg_loss", "obj_loss", "cls_loss")

    def __init__(self, *args):
        super().__init__(*args)
        self.metrics = SegmentMetrics(len(self.names))
        self.protos = None  # the current batch's

    def true_boxes(self, targets: MaskTargets) -> torch.Tensor:
        return targets.boxes

    def one_class(self, targets: MaskTargets) -> MaskTargets:
        return replace(targets, boxes=super().one_class(targets.boxes))

    def split(self, output) -> tuple:
        predictions, self.protos, *maps = output
        return predictions, (maps[0], self.protos) if maps else None

    def suppress(self, predictions, targets_px) -> list:
        return super().suppress(predictions, targets_px, nm=self.protos.shape[1])

    def record(self, i, boxes, targets_px, shape_hw, path, shape, targets):
        native, truth = to_original(boxes[:, :6], targets_px, shape_hw, shape)
        coefficients = as_float32(boxes[:, 6:])
        codes, polygons = self.native_masks(as_float32(self.protos[i]), coefficients, native.numpy(), shape)
        outlines = targets.polygons[i].to_list()
        true_codes = [_code(outline, shape[0]) for outline in outlines] or [_code((), shape[0])] * len(truth)
        has_mask = targets.has_mask[targets.boxes[:, 0] == i].cpu().numpy()
        self.metrics.update(native.numpy(), codes, truth.numpy(), true_codes, has_mask)
        self.confusion_matrix.process_batch(native.numpy(), truth.numpy())
        self.files.write(native.numpy(), shape[0], Path(path), codes, polygons)
        return native

    def native_masks(self, protos, coefficients, boxes_xyxy, shape) -> tuple:
        """Return the run lengths of boxes' masks [n, 6] in pixels of the original, and their polygons for save_txt."""
        codes, polygons = [], []
        chunk = max(PIXELS_AT_A_TIME // int(np.prod(shape[0])), 1)
        for start in range(0, len(boxes_xyxy), chunk):
            part = slice(start, start + chunk)
            masks = process_mask_native(protos, coefficients[part], boxes_xyxy[part, :4], *shape)
            codes += encode_rle(masks)
            polygons += masks_to_polygons(masks) if self.options.save_txt else []
        return codes, polygons

    def compute(self, losses: tuple, speed_ms: tuple) -> SegmentEvalResult:
        return SegmentEvalResult(**vars(self.metrics.compute()), losses=losses, speed_ms=speed_ms)

    def report(self, result: SegmentEvalResult) -> None:
        boxes, masks = result.boxes, result.masks
        if boxes.targets == 0:
            LOGGER.warning("the images have no labels, so nothing can be measured")
        elif masks.targets == 0:
            LOGGER.warning("the labels have boxes but no polygon, so no mask can be measured")
        LOGGER.info(ROW % ("all", boxes.images, boxes.targets, *result.means))
        if not self.options.verbose or len(self.names) < 2:
            return
        row_of_mask = {int(cls): k for k, cls in enumerate(masks.classes)}
        for k, cls in enumerate(boxes.classes.astype(int)):
            of_masks = [np.nan] * 4
            if cls in row_of_mask:
                of_masks = [column[row_of_mask[cls]] for column in (masks.p, masks.r, masks.ap50, masks.ap)]
            of_boxes = [column[k] for column in (boxes.p, boxes.r, boxes.ap50, boxes.ap)]
            LOGGER.info(ROW % (self.names[cls], boxes.n_images[k], boxes.n_targets[k], *of_boxes, *of_masks))

    def plot_batch(self, batch_i, images, targets, found, paths) -> None:
        """Draw val_batchN_labels.jpg and val_batchN_pred.jpg."""
        from utils.plots.pictures import plot_images

        predicted = predictions_as_targets(found, self.protos, images.shape[2:])
        for objects, kind in ((targets, "labels"), (predicted, "pred")):
            plot_images(images, objects, paths, self.options.save_dir / f"val_batch{batch_i}_{kind}.jpg", self.names)

    def plot(self, result: SegmentEvalResult) -> None:
        self.confusion_matrix.plot(save_dir=self.options.save_dir, names=self.names)
        plot_curves(result.boxes, self.names, self.options.save_dir, "Box")
        plot_curves(result.masks, self.names, self.options.save_dir, "Mask")

    def close(self, result: SegmentEvalResult) -> None:
        super().close(result.boxes)


def _check_polygons(dataset: LoadImagesAndLabels) -> None:
    """Raise ValueError for a data set that has labels, all of which are boxes."""
    rows, folder = len(dataset.labels.values), Path(dataset.label_files[0]).parent
    if rows and not len(dataset.segments.points):
        raise ValueError(
            f"no polygon in {folder}: all of the {rows} rows are boxes, and masks need "
            "class x1 y1 x2 y2 x3 y3 ...; with boxes alone, a detector can be trained: train.py"
        )


def _code(outline, shape_hw) -> dict:
    """Return the run lengths of a polygon [k, 2] in pixels; without one, nothing that would be looked at."""
    return polygons_to_rle([outline], shape_hw)[0] if len(outline) else {"size": list(shape_hw), "counts": ""}


def predictions_as_targets(found, protos, shape_hw) -> MaskTargets:
    """Return boxes [n, 6 + nm] of each image, in input pixels, as MaskTargets with the confidence behind the boxes."""
    from utils.plots.pictures import output_to_targets

    masks = [
        process_mask(proto, boxes[:, 6:], boxes[:, :4], shape_hw).astype(np.uint8)
        for proto, boxes in zip(protos, found)
    ]
    most = max(map(len, found), default=0)
    boxes = torch.as_tensor(output_to_targets([rows[:, :6] for rows in found], shape_hw, max_det=most))
    has_mask = torch.ones(len(boxes), dtype=torch.bool)
    return MaskTargets(boxes, torch.from_numpy(np.concatenate(masks)), overlap=False, has_mask=has_mask)


class Segmentation(Detection):
    name = "segment"
    script = "segment/train.py"
    has_teacher = False
    model_class = SegmentationModel
    evaluator = SegmentEvaluator
    metric_names = tuple(f"{name}({kind})" for kind in "BM" for name in Detection.metric_names)  # boxes, masks
    loss = ComputeSegmentLoss

    def loader_options(self, opt) -> dict:
        return {"masks": True, "mask_ratio": opt.mask_ratio, "overlap": not opt.no_overlap}

    def build_loaders(self, opt, hyp: dict, data: dict, stride: int) -> tuple:
        loader, val_loader = super().build_loaders(opt, hyp, data, stride)
        _check_polygons(loader.dataset)
        if val_loader is not None and not opt.noval:  # The best model is chosen by its masks.
            _check_polygons(val_loader.dataset)
        return loader, val_loader

    def figures(self, result) -> list:
        return [float(value) for value in result.means]

    def fitness(self, figures) -> float:
        return float(fitness(figures[:4]) + fitness(figures[4:8]))

    def report(self, result, opt) -> None:
        super().report(result.masks, opt)


SEGMENT = Segmentation()
