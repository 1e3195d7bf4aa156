"""Names of YOLOv5's utils.torch_utils and utils.autobatch that this project does not need itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from utils import dist
from utils.autobatch import check_train_batch_size
from utils.general import init_seeds
from utils.logger import LOGGER
from utils.torch_utils import de_parallel


def smartCrossEntropyLoss(label_smoothing: float = 0.0) -> nn.CrossEntropyLoss:
    """Return a cross-entropy with label smoothing."""
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def smart_DDP(model: nn.Module) -> nn.Module:
    """Return the model inside a DistributedDataParallel for this process's GPU, where it is on one."""
    index = dist.local_rank()
    ids = [index] if next(model.parameters()).device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the main process run the block first, then the others."""
    if local_rank not in (-1, 0):
        dist.barrier()
    yield
    if local_rank == 0:
        dist.barrier()


def device_count() -> int:
    """Return the number of CUDA GPUs."""
    return torch.cuda.device_count()


def is_parallel(model: nn.Module) -> bool:
    """Tell whether a model is in a DataParallel or DistributedDataParallel wrapper."""
    return isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))


def find_modules(model: nn.Module, mclass: type = nn.Conv2d) -> list[int]:
    """Return the positions in model.modules() of those of a class."""
    return [i for i, module in enumerate(model.modules()) if isinstance(module, mclass)]


def sparsity(model: nn.Module) -> float:
    """Return the share of a model's parameters that are 0."""
    parameters = list(model.parameters())
    return sum(int((p == 0).sum()) for p in parameters) / max(sum(p.numel() for p in parameters), 1)


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set this share of each convolution's weights, the smallest ones, to 0, in place."""
    from torch.nn.utils import prune as pruning

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            pruning.l1_unstructured(module, name="weight", amount=amount)
            pruning.remove(module, "weight")
    LOGGER.info(f"pruned: {sparsity(model):.3g} of the parameters are 0")


def load_classifier(name: str = "resnet101", n: int = 2) -> nn.Module:
    """Return a classifier of torchvision with its published weights (downloaded) and `n` outputs."""
    from extras.classify import model

    return model.load_classifier(name, n, pretrained=True)


def init_torch_seeds(seed: int = 0) -> None:
    """Seed Python's, NumPy's and torch's generators; 0 also chooses repeatable kernels."""
    init_seeds(seed, deterministic=seed == 0)


def autobatch(model: nn.Module, imgsz: int = 640, fraction: float = 0.8, batch_size: int = 16) -> int:
    """Return the number of images of a training batch that fits the model's GPU; `batch_size` where it is on none."""
    if next(model.parameters()).device.type != "cuda":
        LOGGER.info(f"autobatch: memory cannot be measured here, using batch size {batch_size}")
        return batch_size
    return check_train_batch_size(model, imgsz)


def log_tensorboard_graph(tb, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
    """Add the model's graph to a torch.utils.tensorboard.SummaryWriter.

    It is traced on an empty picture; imgsz in pixels, the side or (height, width).
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    images = next(model.parameters()).new_zeros(1, 3, height, width)
    tb.add_graph(torch.jit.trace(de_parallel(model), images, strict=False), [])
