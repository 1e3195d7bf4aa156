"""Constants of YOLOv5's modules that say where a process runs."""

import os

from extras.compat.checks import check_git_info
from utils import dist

RANK, LOCAL_RANK, WORLD_SIZE = dist.rank(), dist.local_rank(), dist.world_size()
PIN_MEMORY = os.environ.get("PIN_MEMORY", "true").lower() == "true"


def __getattr__(name: str) -> dict[str, str | None]:
    if name == "GIT_INFO":  # It asks git, which an import must not do.
        return check_git_info()
    raise AttributeError(name)
