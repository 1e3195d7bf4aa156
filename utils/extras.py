"""The way from the core to the extras: by name, when one is used, so that each folder of extras/ can be deleted."""

from importlib import import_module
from types import ModuleType

# The features that need each folder of extras/, as error messages name them.
EXTRAS = {
    "benchmark": "benchmarks.py",
    "budget": "--budget",
    "classify": "classifiers",
    "clients": "--layout, --box-unit and --for",
    "compat": "names that only scripts for YOLOv5 use",
    "compare": "compare.py, the evidence that val.py writes for it, and export.py --int8",
    "download": "downloads",
    "evolve": "--evolve",
    "export": "export.py",
    "hub": "torch.hub and AutoShape",
    "latency": "--latency and python -m bench latency",
    "loggers": "--logger",
    "official": "checkpoints pickled by YOLOv5",
    "provenance": "--card, --sbom and --sign",
    "segment": "segmentation",
    "serve": "serve.py",
    "shapes": "the drawn data sets",
    "teach": "--teacher, --unlabeled and pretrain.py",
    "thresholds": "--thresholds, --precision, --recall and --write-thresholds",
    "tile": "--tile",
    "track": "--track",
}


def load_extra(module: str) -> ModuleType:
    """Import `extras.MODULE` ("budget.plan"); ImportError that names the folder and its use if it was deleted."""
    folder = module.split(".")[0]
    try:
        return import_module(f"extras.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("extras", f"extras.{folder}"):
            raise
        raise ImportError(missing_extra(folder)) from None


def missing_extra(folder: str) -> str:
    """Return what is said of a folder of extras/ that is not there."""
    return f"the folder extras/{folder} is not here: it is needed for {EXTRAS[folder]}"


def has_extra(folder: str) -> bool:
    """Tell whether the folder extras/FOLDER is there."""
    try:
        load_extra(folder)
    except ImportError:
        return False
    return True


def lazy(owners: dict[str, str], module: str, old: bool = True):
    """Return a module's `__getattr__` that fetches each name of `owners` from its module when it is first used.

    For names that YOLOv5's users import from `module` and that live elsewhere here. `old`: extras/compat finds
    others, which only scripts for YOLOv5 use.
    """

    def __getattr__(name: str):
        if name not in owners:
            return _find_old(module, name, owners if old else None)
        owner = owners[name]
        source = load_extra(owner.removeprefix("extras.")) if owner.startswith("extras.") else import_module(owner)
        return getattr(source, name)

    return __getattr__


def _find_old(module: str, name: str, owners: dict[str, str] | None):
    """Return what extras/compat has for a name of a module with these lazy names. AttributeError if it has nothing."""
    missing = f"module '{module}' has no attribute '{name}'"
    if owners is None or (name.startswith("__") and name != "__all__"):
        raise AttributeError(missing)
    if not has_extra("compat"):
        raise AttributeError(f"{missing} ({missing_extra('compat')})")
    return load_extra("compat.names").find(module, name, owners)
