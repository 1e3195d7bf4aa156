"""`train.py --teacher PATH`: a trained detector helps a training by its detections and by the features of its neck.

Nothing of it enters the model or its checkpoints but the training state: the convolutions that compare features belong
to the Distiller. An augmented picture depends on (seed, epoch, index) alone, so with a teacher the pictures come again
every `distill_views` epochs, and it has to look at each of them once: its answers are kept on disk.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from engine.hooks import TrainHook
from engine.train.progress import MeanLosses
from extras.teach.answers import LABEL_CONFIDENCE, LABEL_IOU, MAX_BOXES, Answers
from extras.teach.cache import TeacherCache, picture_checksum
from extras.teach.loss import FeatureAdapters, correlation_loss, detections_loss
from extras.teach.pseudo_labels import label_images, new_files, record_dtype
from models.yolo import DetectionModel
from utils import dist
from utils.data.scan import files_digest
from utils.data.store import LabelScan
from utils.logger import LOGGER

ADAPTER_LR = 1e-3  # AdamW's
WITHOUT_MOSAIC = 1_000_000  # added to the epoch in the keys of pictures after --close-mosaic; beyond any real epoch
CACHE_FOLDER = "teacher-cache"  # in --project
# The hyperparameters that the pictures do not depend on; every other key makes a new cache.
NOT_OF_PICTURES = set(
    "lr0 lrf momentum weight_decay warmup_epochs warmup_least warmup_momentum warmup_bias_lr lr_backbone drop_path "
    "box cls cls_pw obj obj_pw iou_t anchor_t anchors fl_gamma label_smoothing nominal_batch ema_decay ema_tau "
    "assigner distill distill_features distill_views".split()
)


def load_teacher(
    opt: argparse.Namespace, hyp: dict, model: DetectionModel, names: dict[int, str], stride: int, device, memory_format
) -> Answers:
    """Return the answers of --teacher for the student `model`. ValueError where it cannot be used with the options.

    names: the data set's classes; stride: the multiple in px of every side of a picture with --rect.
    """
    path, unlabeled = opt.teacher, opt.unlabeled
    if not path:
        raise ValueError(
            f"--unlabeled {unlabeled}: the labels come from a teacher: give --teacher CHECKPOINT; "
            "pretrain.py learns from images alone"
        )
    if opt.quad:
        raise ValueError("--teacher: expected no --quad, whose pictures are four joined anew in every epoch")
    answers = Answers(path, model, (hyp["distill"], hyp["distill_features"]), opt.imgsz)
    if unlabeled and not answers.classes:
        raise ValueError(
            f"--unlabeled {unlabeled}: expected a teacher that knows a class of the data set "
            f"({', '.join(names.values())}), found none in {path}; pretrain.py learns from images alone"
        )
    largest, sides = int(answers.detector.strides[-1]), stride if opt.rect else opt.imgsz
    if sides % largest:
        raise ValueError(
            f"--teacher {path}: expected pictures whose sides are multiples of its largest stride, {largest}, "
            f"found {f'--rect with multiples of {sides}' if opt.rect else f'--imgsz {sides}'}"
        )
    answers.detector.to(device, memory_format=memory_format)
    return answers


def label_unlabeled(opt: argparse.Namespace, data: dict, teacher: Answers) -> LabelScan | None:
    """Return the images of --unlabeled with the teacher's sure boxes as their labels, None without such images.

    Images that the training or the validation set has already are left out. Under DDP the main process finds the
    boxes, and the others read them. FileNotFoundError or ValueError if nothing is there, or nothing new.
    """
    if not opt.unlabeled:
        return None
    files = new_files(opt.unlabeled, [data["train"], data["val"]])
    about = {"teacher": teacher.sha256, "classes": teacher.names, "files": files_digest(files), "imgsz": opt.imgsz}
    about["labels"] = [LABEL_CONFIDENCE, LABEL_IOU]
    cache = TeacherCache(Path(opt.project) / CACHE_FOLDER, about, record_dtype(MAX_BOXES))
    with dist.main_first():
        return label_images(files, teacher.labels, opt.imgsz, cache, progress=dist.is_main())


class Distiller(TrainHook):
    """The teacher's part of a training: its answers for each batch, the loss from them, and the adapters' optimizer.

    Every rank of DDP asks the teacher about its own pictures; all share one cache.

    Args:
        teacher: as load_teacher() gives it.
        model: the student, on its device.
        loader: the training batches.
        hyp: the hyperparameters, the loss gains scaled for the model.
    """

    name = "distiller"
    loss_names = ("detections", "features")

    def __init__(self, teacher: Answers, model: DetectionModel, loader, hyp: dict, opt: argparse.Namespace, device):
        self.teacher, self.model, self.loader, self.hyp, self.device = teacher, model, loader, hyp, device
        self.gains = hyp["distill"], hyp["distill_features"]
        self.views = max(round(hyp["distill_views"]), 1)
        self.adapters = FeatureAdapters(teacher.channels, opt.seed).to(device)
        self.optimizer = torch.optim.AdamW(self.adapters.parameters(), ADAPTER_LR) if teacher.pairs else None
        self.classes = torch.tensor(teacher.student_classes, device=device)
        self.keys, self.records, self.image_hw, self.features = [], None, None, []
        self.losses = MeanLosses(self.loss_names, device)
        model.head.register_forward_pre_hook(self._keep_features)
        self.cache = None
        if opt.evolve:
            LOGGER.info("teacher: its answers are not kept, as every trial of --evolve makes other pictures")
        else:
            self.cache = self._make_cache(opt)

    def _make_cache(self, opt: argparse.Namespace) -> TeacherCache:
        dataset = self.loader.dataset
        about = {
            "teacher": self.teacher.sha256,
            "classes": self.teacher.names,
            "one class": self.teacher.one_class,
            "images": len(dataset),
            "files": files_digest(dataset.im_files),
            "imgsz": opt.imgsz,
            "batch": self.loader.batch_size if dataset.rect else None,  # gives the shapes of --rect
            "seed": opt.seed,
            "hyp": {key: value for key, value in dataset.hyp.items() if key not in NOT_OF_PICTURES},
        }
        cache = TeacherCache(Path(opt.project) / CACHE_FOLDER, about, self.teacher.dtype)
        if dist.is_main():
            views = len({self.before_epoch(epoch) for epoch in range(opt.epochs)})
            cache.reserve(views * len(dataset), f"teacher: answers for {views} views of {len(dataset)} images")
        cache.writable = dist.broadcast_object(cache.writable)
        return cache

    def before_epoch(self, epoch: int) -> int:
        """Return the view: what its pictures' keys have for the epoch. Their order follows the epoch itself."""
        is_plain = epoch >= self.loader.dataset.mosaic_until
        return epoch % self.views + (WITHOUT_MOSAIC if is_plain else 0)

    def before_batch(self, images: torch.Tensor, batch_index: int) -> None:
        """Get the teacher's answers for a batch of the epoch, images uint8 [B, 3, H, W] as the loader gave them.

        If the cache lacks one, the teacher looks at the whole batch: its answer for a picture then does not depend on
        which of the others a killed run had asked about.
        """
        if batch_index == 0:
            self.keys = list(self.loader.sampler)
        first = batch_index * self.loader.batch_size
        keys = self.keys[first : first + self.loader.batch_size]
        pictures = [picture_checksum(image.numpy()) for image in images]
        records = [self.cache and self.cache.read(f"view{v}", i, p) for (v, i), p in zip(keys, pictures)]
        if any(record is None for record in records):
            made = self.teacher.records(images)
            for k, ((view, index), picture) in enumerate(zip(keys, pictures)):
                if records[k] is None:
                    records[k] = made[k]
                    if self.cache:
                        self.cache.write(f"view{view}", index, picture, made[k])
        self.records, self.image_hw = np.array(records, self.teacher.dtype), images.shape[2:]

    def _keep_features(self, _head, inputs) -> None:
        self.features = [inputs[0][i] for i, _ in self.teacher.pairs]

    def loss(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of the terms times B, for the student's raw maps of the newest batch."""
        zero = torch.zeros((), device=self.device)
        terms = [zero, zero]
        with torch.autocast(self.device.type, enabled=False):
            if self.teacher.has_boxes:
                soft = self.teacher.soft_boxes(self.records, self.device)
                anchors = self.model.head.anchors.float()
                terms[0] = self.gains[0] * detections_loss(outputs, anchors, self.hyp, soft, self.classes)
            if self.teacher.pairs:
                theirs = self.teacher.feature_maps(self.records, self.image_hw, self.device)
                terms[1] = self.gains[1] * correlation_loss(self.adapters(self.features), theirs)
        self.features = []
        self.losses.add(torch.stack(terms).detach())
        return sum(terms) * len(self.records)

    def optimizer_step(self, scaler: torch.amp.GradScaler) -> None:
        """Make a step of the adapters, with the scaler of the model's own optimizer."""
        if self.optimizer is None:
            return
        if dist.is_distributed():
            for parameter in self.adapters.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= dist.world_size()
        scaler.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)

    def after_epoch(self, epoch: int) -> None:
        """Log the epoch's mean losses. NonFiniteLossError if one is not finite."""
        values = self.losses.values(f"the teacher's part of epoch {epoch}")
        means = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.loss_names, values))
        LOGGER.info(f"teacher: mean losses: {means}")
        self.losses = MeanLosses(self.loss_names, self.device)

    def state_dict(self) -> dict:
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"teacher": self.teacher.sha256, "adapters": self.adapters.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict) -> None:
        """Take back the adapters. ValueError if the state is one with another teacher."""
        if state["teacher"] != self.teacher.sha256:
            raise ValueError(f"--teacher {self.teacher.path}: the file has other weights than when the run was started")
        self.adapters.load_state_dict(state["adapters"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
