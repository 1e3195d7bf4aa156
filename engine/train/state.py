"""The state from which a training goes on exactly where it was, and its way into a checkpoint and back."""

from dataclasses import asdict, dataclass, field, fields

import torch

from engine.train.folder import plain_options
from engine.train.loop import Learner
from utils.checkpoint import Checkpoint
from utils.general import VERSION
from utils.logger import LOGGER
from utils.torch_utils import de_parallel


@dataclass
class TrainState:
    """The state that outlives an epoch, apart from tensors. `epoch` is the next one to train.

    There are no generators' states: the sampler, the augmentation and every other random thing start each epoch from
    (seed, epoch).
    """

    epoch: int = 0
    stopped: bool = False
    best_fitness: float | None = None
    has_best: bool = False  # best.pt is of this run
    maps: list = field(default_factory=list)  # [nc] AP of each class at the newest validation
    rows: list = field(default_factory=list)  # rows of results.csv
    images: int = 0  # in the training set
    ranks: int = 1
    plan: dict = field(default_factory=dict)  # the extras.budget.plan.Plan of --budget


def pack(learner: Learner, state: TrainState, stopper, opt, hyp: dict, task, data: dict) -> Checkpoint:
    """Return the checkpoint of a run between two epochs: averaged weights for use, everything else in train_state.

    ValueError if a weight is not finite: such a checkpoint is of no use, and the one before it is.
    """
    model, ema = de_parallel(learner.model), learner.ema.ema
    broken = [name for name, value in ema.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"{len(broken)} weights are not finite ({broken[0]} ...); the checkpoint before this epoch is kept"
        )
    return Checkpoint(
        yaml=model.yaml,
        names=data["names"],
        nc=len(data["names"]),
        stride=[float(stride) for stride in model.stride],
        state_dict=ema.state_dict(),
        imgsz=opt.imgsz,
        hyp=hyp,
        opt=plain_options(opt),
        task=task.name,
        epoch=state.epoch - 1,
        best_fitness=state.best_fitness,
        train_state={
            **asdict(state),
            "model": model.state_dict(),
            "ema_updates": learner.ema.updates,
            "batches": learner.batches,
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.scaler.state_dict(),
            "stopper": stopper.state_dict(),
            **{hook.name: hook.state_dict() for hook in learner.hooks},
        },
        meta={"version": VERSION, "licence": "Apache-2.0", "data": str(data.get("yaml_file") or "")},
    )


def restore(checkpoint: Checkpoint, learner: Learner, stopper, fresh: TrainState) -> TrainState:
    """Put a packed run back into a learner built from its options; return its state. `fresh` is that of a new run."""
    saved = checkpoint.train_state
    learner.model.load_state_dict(saved["model"])
    learner.ema.ema.load_state_dict(checkpoint.state_dict)
    learner.ema.updates = saved["ema_updates"]
    learner.batches = saved.get("batches", saved["epoch"] * learner.schedule.batches_per_epoch)
    learner.optimizer.load_state_dict(saved["optimizer"])
    match_memory_formats(learner.optimizer)
    learner.scaler.load_state_dict(saved["scaler"])
    stopper.load_state_dict(saved["stopper"])
    for hook in learner.hooks:
        hook.load_state_dict(saved[hook.name])
    state = TrainState(**{f.name: saved[f.name] for f in fields(TrainState) if f.name in saved})
    for what, before, now in (("images", state.images, fresh.images), ("processes", state.ranks, fresh.ranks)):
        if before != now:
            LOGGER.warning(
                f"this training began with {before} {what} and goes on with {now}, "
                "so the result will not be exactly that of an uninterrupted run"
            )
    return state


def match_memory_formats(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's tensors out like their parameters, as they were before they were saved."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
