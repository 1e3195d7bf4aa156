"""What a training run must remember to go on exactly where it was, and its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

import torch

from engine.train.folder import plain_options
from utils import dist
from utils.checkpoint import Checkpoint
from utils.general import VERSION
from utils.logger import LOGGER
from utils.torch_utils import de_parallel


@dataclass
class TrainState:
    """What outlives an epoch, apart from tensors. `epoch` is the next one to train.

    There are no generators' states: the sampler, the augmentation and every other random thing start each epoch from
    (seed, epoch).
    """

    epoch: int = 0
    stopped: bool = False
    best_fitness: float | None = None
    has_best: bool = False  # best.pt is of this run
    maps: list = field(default_factory=list)  # [nc] AP of each class at the newest validation
    rows: list = field(default_factory=list)  # of results.csv
    images: int = 0  # in the training set
    ranks: int = 1
    plan: dict = field(default_factory=dict)  # of --budget, a extras.budget.plan.Plan


def pack(trainer) -> Checkpoint:
    """The checkpoint of a run between two epochs: averaged weights for use, everything else in train_state.

    ValueError if a weight is not finite: such a checkpoint is of no use, and the one before it is.
    """
    model, ema = de_parallel(trainer.model), trainer.ema.ema
    broken = [name for name, value in ema.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"{len(broken)} weights are not finite ({broken[0]} ...); the checkpoint before this epoch is kept"
        )
    return Checkpoint(
        yaml=model.yaml,
        names=trainer.names,
        nc=len(trainer.names),
        stride=[float(stride) for stride in model.stride],
        state_dict=ema.state_dict(),
        imgsz=trainer.opt.imgsz,
        hyp=trainer.hyp,
        opt=plain_options(trainer.opt),
        task=trainer.task.name,
        epoch=trainer.state.epoch - 1,
        best_fitness=trainer.state.best_fitness,
        train_state={
            **asdict(trainer.state),
            "model": model.state_dict(),
            "ema_updates": trainer.ema.updates,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "balance": list(getattr(trainer.criterion, "balance", ())),  # of a detection loss
            "stopper": trainer.stopper.state_dict(),
            **({"distiller": trainer.distiller.state_dict()} if trainer.distiller else {}),
        },
        meta={"version": VERSION, "licence": "Apache-2.0", "data": str(trainer.data.get("yaml_file") or "")},
    )


def restore(trainer, checkpoint: Checkpoint) -> None:
    """Put a packed run back into a trainer that was built from the checkpoint's options."""
    saved = checkpoint.train_state
    trainer.model.load_state_dict(saved["model"])
    trainer.ema.ema.load_state_dict(checkpoint.state_dict)
    trainer.ema.updates = saved["ema_updates"]
    trainer.optimizer.load_state_dict(saved["optimizer"])
    match_memory_formats(trainer.optimizer)
    trainer.scaler.load_state_dict(saved["scaler"])
    if saved["balance"]:
        trainer.criterion.balance = list(saved["balance"])
    trainer.stopper.load_state_dict(saved["stopper"])
    if trainer.distiller:
        trainer.distiller.load_state_dict(saved["distiller"])
    images = trainer.state.images
    trainer.state = TrainState(**{f.name: saved[f.name] for f in fields(TrainState) if f.name in saved})
    if trainer.state.images != images:
        LOGGER.warning(
            f"the training set had {trainer.state.images} images and has {images} now, "
            "so the result will not be exactly that of an uninterrupted run"
        )
    if trainer.state.ranks != dist.world_size():
        LOGGER.warning(
            f"started with {trainer.state.ranks} processes, resumed with {dist.world_size()}, "
            "so the result will not be exactly that of an uninterrupted run"
        )


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's tensors out like their parameters, as they were before they were saved."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
