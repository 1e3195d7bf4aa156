"""An epoch of training on bccd, against a plain trainer with the same model, pictures and losses."""

import contextlib
import copy
import io
from pathlib import Path

import torch

from bench.harness import Call, Comparison
from bench.inputs import DATASETS, shared_file
from bench.plain.data import PlainDataset
from bench.plain.trainer import PlainTrainer
from bench.rows.backbone_train import SHARED
from bench.rows.detector import contiguous, with_plain_backbone
from engine import options
from engine.train.device import repeatable
from engine.train.loop import train_one_epoch
from engine.train.schedule import scaled_weight_decay
from engine.train.setup import Training, set_up
from utils.loss import ComputeLoss

SIZE_PX, BATCH, WORKERS = 320, 16, 2
EPOCHS = 100  # of the schedule
QUICK_PICTURES = 32
TOLERANCE = 0.01  # of a mean loss: the project decodes large JPEGs at half their size, so pixels differ a little
MARK = 0.65


def comparisons(settings) -> list:
    data = bccd(settings)
    models = {
        "yolov5n": ("yolov5n.yaml", contiguous, "plain trainer"),
        "EdgeViT-XXS": ("yolov5_edgevit.yaml", with_plain_backbone, "plain trainer, plain EdgeViT"),
    }
    return [
        Comparison(
            what=f"{title}, an epoch of bccd{' (part)' * settings.quick}, {SIZE_PX} px, batch {BATCH}",
            reference=reference,
            ours=Call(lambda cfg=cfg: product_epoch(product_trainer(cfg, data, settings)), keeps_memory=True),
            theirs=Call(lambda cfg=cfg, make=make: plain_epoch(product_trainer(cfg, data, settings), make)),
            differ=losses_differ,
            mark=MARK,
            why=f"an epoch is mostly training steps, and there {SHARED}",
        )
        for title, (cfg, make, reference) in models.items()
    ]


def bccd(settings) -> Path:
    """Write a dataset YAML of bccd, of the first pictures alone for a quick run."""
    yaml_file = shared_file(DATASETS / "bccd.yaml")
    if not settings.quick:
        return yaml_file
    files = sorted((DATASETS / "bccd" / "images" / "train").glob("*.jpg"))[:QUICK_PICTURES]
    list_file, part = Path(settings.folder, "bccd.txt"), Path(settings.folder, "bccd.yaml")
    list_file.write_text("".join(f"{file}\n" for file in files))
    part.write_text(f"train: {list_file}\nval: {list_file}\nnames: [RBC, WBC, Platelets]\n")
    return part


def product_trainer(cfg, data, settings, size_px: int = SIZE_PX, batch: int = BATCH) -> Training:
    """Set up a Training just before its first epoch."""
    kwargs = {"cfg": cfg, "data": str(data), "imgsz": size_px, "batch_size": batch, "epochs": EPOCHS, "device": "cpu"}
    kwargs |= {"workers": min(WORKERS, settings.threads), "noplots": True, "nosave": True, "noautoanchor": True}
    kwargs |= {"project": settings.folder, "hyp": "hyp.scratch-low.yaml", "optimizer": "SGD", "weights": "none"}
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        return set_up(options.from_kwargs("train", kwargs))


def product_epoch(trainer: Training):
    """Return a function that trains one epoch and returns the mean losses [3]."""

    def run():
        epoch = trainer.state.epoch
        with repeatable(), contextlib.redirect_stderr(io.StringIO()):
            losses = train_one_epoch(trainer.learner, trainer.loader, epoch, trainer.opt.seed)
            trainer.state.epoch += 1
        return torch.as_tensor(losses)

    return run


def plain_epoch(trainer: Training, make):
    """Return the same by a PlainTrainer that starts with the model of `trainer`, made plain by `make`."""
    model = make(copy.deepcopy(trainer.learner.model).to(memory_format=torch.contiguous_format))
    dataset = PlainDataset(trainer.loader.dataset.im_files, trainer.opt.imgsz, trainer.hyp)
    decay = scaled_weight_decay(trainer.hyp, trainer.opt.batch_size)
    return PlainTrainer(
        model,
        ComputeLoss(model, trainer.learner.criterion.hyp),
        trainer.learner.schedule,
        dataset,
        trainer.opt.batch_size,
        trainer.hyp,
        decay,
        trainer.loader.num_workers,
    ).epoch


def losses_differ(ours, theirs, tolerance: float = TOLERANCE) -> str:
    worst = ((ours - theirs).abs() / theirs.abs()).max().item()
    return "" if worst <= tolerance else f"mean losses {ours.tolist()} and {theirs.tolist()}"
