"""`--teacher PATH`: a trained detector helps a training by its detections and by the features of its neck.

Nothing of it enters the model or its checkpoints but the training state: the convolutions that compare features belong
to the Distiller. An augmented picture depends on (seed, epoch, index) alone, so with a teacher the pictures come again
every `distill_views` epochs, and it has to look at each of them once: its answers are kept on disk.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed

from engine.train.progress import MeanLosses
from extras.teach.cache import TeacherCache, picture_checksum
from extras.teach.distill_loss import FeatureAdapters, SoftBoxes, detections_loss
from extras.teach.pseudo_labels import Detected, label_images, new_files
from models.experimental import attempt_load
from utils import dist
from utils.boxes import xyxy2xywhn
from utils.checkpoint import state_sha256
from utils.data.scan import files_digest
from utils.data.store import LabelScan
from utils.logger import LOGGER
from utils.nms import non_max_suppression

LEAST_CONFIDENCE = 0.1  # a teacher's box that is less sure says nothing
SOFT_IOU = 0.7  # boxes of a teacher that overlap more are one
MAX_BOXES = 100  # of a picture, the surest
LABEL_CONFIDENCE, LABEL_IOU = 0.5, 0.5  # of a box that becomes the label of an image without labels
LEVELS = 2  # whose features are compared: the coarsest, as all of them would take much more space on the disk
ADAPTER_LR = 1e-3  # of AdamW
WITHOUT_MOSAIC = 1_000_000  # added to the epoch in the keys of pictures after --close-mosaic; beyond any real epoch
CACHE_FOLDER = "teacher-cache"  # in --project
# what of hyp the pictures do not depend on; every other key makes a new cache
NOT_OF_PICTURES = set(
    "lr0 lrf momentum weight_decay warmup_epochs warmup_least warmup_momentum warmup_bias_lr lr_backbone drop_path "
    "box cls cls_pw obj obj_pw iou_t anchor_t anchors fl_gamma label_smoothing nominal_batch ema_decay ema_tau "
    "assigner distill distill_features distill_views".split()
)


class Teacher:
    """A frozen detector, and what of its answers the `student` can use.

    Args:
        path: a checkpoint that attempt_load reads.
        student: the DetectionModel to be trained, with its class names.
        gains: the hyperparameters distill and distill_features; 0 leaves the detections or the features out.
        imgsz: largest side of a picture in px.

    ValueError if the file holds no detector, or nothing that the student could learn.
    """

    def __init__(self, path, student, gains: tuple, imgsz: int):
        model = attempt_load(str(path))
        if model.task != "detect":
            raise ValueError(f"--teacher {path}: expected a detection model, found one for '{model.task}'")
        self.path = path
        self.sha256 = state_sha256(model.state_dict())
        self.model = model.requires_grad_(False)
        self.stride = int(model.stride.max())
        self.one_class = student.head.nc == 1
        own = {name.strip().casefold(): number for number, name in reversed(model.names.items())}
        shared = {number: own[key] for number, name in student.names.items() if (key := name.strip().casefold()) in own}
        self.student_classes, self.classes = list(shared), list(shared.values())  # numbers of the shared classes
        self.names = [student.names[number] for number in shared]
        self.has_boxes = bool(shared) and gains[0] > 0
        self.pairs = shared_levels(student, model)[-LEVELS:] if gains[1] > 0 else []
        self.channels = [(student.head.m[i].in_channels, model.head.m[j].in_channels) for i, j in self.pairs]
        self.cells = [round(imgsz / float(model.stride[j])) ** 2 for _, j in self.pairs]
        self.features = []
        model.head.register_forward_pre_hook(self._keep_features)
        names = ", ".join(self.names[:10]) + (" ..." if len(shared) > 10 else "")
        strides = ", ".join(f"{float(student.stride[i]):g}" for i, _ in self.pairs) or "none"
        LOGGER.info(
            f"teacher {path}: {len(shared)} of {student.head.nc} classes matched{f': {names}' if names else ''}; "
            f"features compared at strides: {strides}"
        )
        if not self.has_boxes and not self.pairs:
            raise ValueError(
                f"--teacher {path}: nothing to learn from it: {len(shared)} classes and {len(self.pairs)} map strides "
                f"are shared, distill is {gains[0]:g} and distill_features {gains[1]:g}"
            )

    def to(self, device, memory_format) -> Teacher:
        self.model.to(device, memory_format=memory_format)
        return self

    @property
    def dtype(self) -> np.dtype:
        """Of an answer: boxes xywh normalised; scores confidence, objectness, shared classes; feature maps, flat.

        A row of confidence 0 is none. Of a picture that is smaller than imgsz x imgsz the maps' end stays empty.
        """
        fields = []
        if self.has_boxes:
            fields = [("boxes", "<f4", (MAX_BOXES, 4)), ("scores", "<f2", (MAX_BOXES, 2 + len(self.classes)))]
        for number, ((_, channels), cells) in enumerate(zip(self.channels, self.cells)):
            fields.append((f"features{number}", "<f2", (channels * cells,)))
        return np.dtype(fields)

    def _keep_features(self, _head, inputs) -> None:
        self.features = [inputs[0][j] for _, j in self.pairs]

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> boxes [B, N, no] as the Detect head gives them; sets self.features."""
        weight = next(self.model.parameters())
        return self.model(images.to(weight.device).to(weight.dtype).div_(255))[0]

    def answers(self, images: torch.Tensor) -> np.ndarray:
        """Records [B] of self.dtype for images uint8 [B, 3, H, W]."""
        predictions = self.forward(images)
        records = np.zeros(len(images), self.dtype)
        if self.has_boxes:
            for record, rows in zip(records, predictions):
                found = self._soft_rows(rows)
                record["boxes"][: len(found)] = xyxy2xywhn(found[:, :4], images.shape[3], images.shape[2])
                record["scores"][: len(found)] = found[:, [4, *range(6, found.shape[1])]]
        for number, maps in enumerate(self.features):
            flat = maps.flatten(1).cpu().numpy()
            records[f"features{number}"][:, : flat.shape[1]] = flat
        return records

    def _soft_rows(self, rows: torch.Tensor) -> np.ndarray:
        """Boxes [N, no] of a picture -> [n, 7 + shared]: xyxy px, confidence, class, objectness, shared classes.

        Objectness is reduced where the box is rather one of a class that the student does not know. A student of one
        class does not learn class scores, so its objectness follows the whole confidence.
        """
        rows = rows[rows[:, 4] > LEAST_CONFIDENCE]
        scores = rows[:, 5:]
        shared = scores[:, self.classes]
        best = shared.amax(1, keepdim=True)
        objectness = rows[:, 4:5] * (best if self.one_class else best / scores.amax(1, keepdim=True))
        candidates = torch.cat([rows[:, :5], shared, objectness, shared], 1).cpu().numpy()
        return non_max_suppression(
            candidates[None], LEAST_CONFIDENCE, SOFT_IOU, agnostic=True, max_det=MAX_BOXES, nm=1 + len(self.classes)
        )[0]

    def detect(self, images: torch.Tensor) -> list:
        """The sure boxes of images uint8 [B, 3, H, W]: for each [n, 5] class number of the student, xyxy px."""
        numbers = np.array(self.student_classes, np.float32)
        predictions = self.forward(images)
        shared = torch.cat([predictions[..., :5], predictions[..., 5:][..., self.classes]], -1).cpu().numpy()
        found = non_max_suppression(shared, LABEL_CONFIDENCE, LABEL_IOU, max_det=MAX_BOXES)
        return [np.concatenate([numbers[boxes[:, 5].astype(int)][:, None], boxes[:, :4]], 1) for boxes in found]

    def soft_boxes(self, records: np.ndarray, device) -> SoftBoxes:
        scores = records["scores"].astype(np.float32)
        image, row = np.nonzero(scores[..., 0])
        tensors = (torch.from_numpy(x).to(device) for x in (image, records["boxes"][image, row], scores[image, row]))
        image, boxes, scores = tensors
        return SoftBoxes(image, boxes, scores[:, 0], scores[:, 1], scores[:, 2:])

    def feature_maps(self, records: np.ndarray, image_hw, device) -> list:
        """float32 [B, C, h, w] of each compared level, for pictures of image_hw px."""
        maps = []
        for number, (_, j) in enumerate(self.pairs):
            h, w = (round(side / float(self.model.stride[j])) for side in image_hw)
            channels = self.channels[number][1]
            values = records[f"features{number}"][:, : channels * h * w].reshape(-1, channels, h, w)
            maps.append(torch.from_numpy(values).to(device).float())
        return maps


def shared_levels(student, teacher) -> list:
    """(level of the student, level of the teacher) of each stride that both have, finest first."""
    theirs = {float(stride): j for j, stride in enumerate(teacher.stride)}
    pairs = [
        (float(stride), i, theirs[float(stride)]) for i, stride in enumerate(student.stride) if float(stride) in theirs
    ]
    return [(i, j) for _, i, j in sorted(pairs)]


def load_teacher(trainer) -> Teacher | None:
    """The teacher of --teacher, None without. ValueError where it cannot be used with the other options."""
    opt = trainer.opt
    path, unlabeled = (getattr(opt, option, "") for option in ("teacher", "unlabeled"))  # segmentation has neither
    if not path:
        if unlabeled:
            raise ValueError(
                f"--unlabeled {unlabeled}: the labels come from a teacher: give --teacher CHECKPOINT; "
                "pretrain.py learns from images alone"
            )
        return None
    if opt.quad:
        raise ValueError("--teacher: expected no --quad, whose pictures are four joined anew in every epoch")
    gains = trainer.hyp["distill"], trainer.hyp["distill_features"]
    teacher = Teacher(path, trainer.model, gains, opt.imgsz)
    if unlabeled and not teacher.classes:
        wanted = ", ".join(trainer.names.values())
        raise ValueError(
            f"--unlabeled {unlabeled}: expected a teacher that knows a class of the data set ({wanted}), "
            f"found none in {path}; pretrain.py learns from images alone"
        )
    sides = trainer.stride if opt.rect else opt.imgsz  # px; what every side of a picture is a multiple of
    if sides % teacher.stride:
        raise ValueError(
            f"--teacher {path}: expected pictures whose sides are multiples of its largest stride, {teacher.stride}, "
            f"found {f'--rect with multiples of {sides}' if opt.rect else f'--imgsz {sides}'}"
        )
    return teacher.to(trainer.device, trainer.memory_format)


def label_unlabeled(trainer, teacher: Teacher | None) -> LabelScan | None:
    """The images of --unlabeled with the teacher's sure boxes as their labels, None without such images.

    Images that the training or the validation set has already are left out. Under DDP the main process finds the
    boxes, and the others read them. FileNotFoundError or ValueError if nothing is there, or nothing new.
    """
    opt = trainer.opt
    if teacher is None or not opt.unlabeled:
        return None
    files = new_files(opt.unlabeled, [trainer.data["train"], trainer.data["val"]])
    about = {"teacher": teacher.sha256, "classes": teacher.names, "files": files_digest(files), "imgsz": opt.imgsz}
    about["labels"] = [LABEL_CONFIDENCE, LABEL_IOU]
    cache = TeacherCache(Path(opt.project) / CACHE_FOLDER, about, Detected.dtype(MAX_BOXES))
    with dist.main_first():
        return label_images(files, teacher.detect, opt.imgsz, cache, progress=dist.is_main())


class Distiller:
    """The teacher's part of a training: its answers for each batch, the loss from them, and the adapters' optimizer.

    Every rank of DDP asks the teacher about its own pictures; all share one cache.
    """

    names = ("detections", "features")  # of the loss's terms

    def __init__(self, trainer):
        hyp, opt = trainer.hyp, trainer.opt
        self.teacher, self.loader, self.model, self.device = (
            trainer.teacher,
            trainer.loader,
            trainer.model,
            trainer.device,
        )
        self.gains = hyp["distill"], hyp["distill_features"]
        self.views = max(round(hyp["distill_views"]), 1)
        self.adapters = FeatureAdapters(self.teacher.channels, opt.seed).to(self.device)
        self.optimizer = torch.optim.AdamW(self.adapters.parameters(), ADAPTER_LR) if self.teacher.pairs else None
        self.classes = torch.tensor(self.teacher.student_classes, device=self.device)
        self.keys, self.records, self.image_hw, self.features = [], None, None, []
        self.losses = MeanLosses(self.names, self.device)
        self.model.head.register_forward_pre_hook(self._keep_features)
        self.cache = None
        if opt.evolve:
            LOGGER.info("teacher: its answers are not kept, as every trial of --evolve makes other pictures")
        else:
            self.cache = self._make_cache(opt)

    def _make_cache(self, opt) -> TeacherCache:
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
            views = len({self.view(epoch) for epoch in range(opt.epochs)})
            cache.reserve(views * len(dataset), f"teacher: answers for {views} views of {len(dataset)} images")
        cache.writable = dist.broadcast_object(cache.writable)
        return cache

    def view(self, epoch: int) -> int:
        """What stands for the epoch in the keys of its pictures; their order follows the epoch itself."""
        is_plain = epoch >= self.loader.dataset.mosaic_until
        return epoch % self.views + (WITHOUT_MOSAIC if is_plain else 0)

    def look_at(self, images: torch.Tensor, number: int) -> None:
        """Get the teacher's answers for batch `number` of the epoch, images uint8 [B, 3, H, W] as the loader gave them.

        If the cache lacks one, the teacher looks at the whole batch: what it says about a picture then does not depend
        on which of the others a killed run had asked about.
        """
        if number == 0:
            self.keys = list(self.loader.sampler)
        size = self.loader.batch_size
        keys = self.keys[number * size : (number + 1) * size]
        pictures = [picture_checksum(image.numpy()) for image in images]
        records = [self.cache and self.cache.read(f"view{v}", i, p) for (v, i), p in zip(keys, pictures)]
        if any(record is None for record in records):
            made = self.teacher.answers(images)
            for k, ((view, index), picture) in enumerate(zip(keys, pictures)):
                if records[k] is None:
                    records[k] = made[k]
                    if self.cache:
                        self.cache.write(f"view{view}", index, picture, made[k])
        self.records, self.image_hw = np.array(records, self.teacher.dtype), images.shape[2:]

    def _keep_features(self, _head, inputs) -> None:
        self.features = [inputs[0][i] for i, _ in self.teacher.pairs]

    def loss(self, maps: list) -> torch.Tensor:
        """The weighted sum of the terms times B, for the student's raw outputs of the batch that it was given last."""
        zero = torch.zeros((), device=self.device)
        terms = [zero, zero]
        with torch.autocast(self.device.type, enabled=False):
            if self.teacher.has_boxes:
                head = self.model.head
                soft = self.teacher.soft_boxes(self.records, self.device)
                anchors = head.anchors.float()
                terms[0] = self.gains[0] * detections_loss(maps, anchors, self.model.hyp, soft, self.classes)
            if self.teacher.pairs:
                theirs = self.teacher.feature_maps(self.records, self.image_hw, self.device)
                terms[1] = self.gains[1] * self.adapters(self.features, theirs)
        self.features = []
        self.losses.add(torch.stack(terms).detach())
        return sum(terms) * len(self.records)

    def optimizer_step(self, scaler) -> None:
        """A step of the adapters, with the scaler of the model's own optimizer."""
        if self.optimizer is None:
            return
        if dist.is_distributed():
            for parameter in self.adapters.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= dist.world_size()
        scaler.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)

    def end_epoch(self, epoch: int) -> None:
        """Log the epoch's mean losses. NonFiniteLossError if one is not finite."""
        values = self.losses.values(f"the teacher's part of epoch {epoch}")
        LOGGER.info("teacher: mean losses: " + ", ".join(f"{name} {v:.4g}" for name, v in zip(self.names, values)))
        self.losses = MeanLosses(self.names, self.device)

    def state_dict(self) -> dict:
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"teacher": self.teacher.sha256, "adapters": self.adapters.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict) -> None:
        """ValueError if the state is one with another teacher."""
        if state["teacher"] != self.teacher.sha256:
            raise ValueError(f"--teacher {self.teacher.path}: the file has other weights than when the run was started")
        self.adapters.load_state_dict(state["adapters"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
