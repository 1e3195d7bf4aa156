"""This project as a package: `from yolov5.utils.general import LOGGER` is `from utils.general import LOGGER`.

Scripts that were written for YOLOv5 as a package, or with its folder called yolov5, import it so. The project's root
must be on the import path. `yolov5.load("best.pt")` opens a model as torch.hub.load(..., "custom") does.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

__version__ = "7.0.0"  # of YOLOv5's interface
PREFIX = f"{__name__}."


class _SameModule(MetaPathFinder, Loader):
    """An import hook by which yolov5.X is the module X, not a second copy of it with classes of its own."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if not name.startswith(PREFIX):
            return None
        found = find_spec(name.removeprefix(PREFIX))
        return found and ModuleSpec(name, self, is_package=found.submodule_search_locations is not None)

    def create_module(self, spec):
        module = importlib.import_module(spec.name.removeprefix(PREFIX))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module) -> None:
        module.__spec__ = module.__spec__.loader_state  # The import has put that of the other name there.


sys.meta_path.insert(0, _SameModule())


def load(weights, device=None, autoshape: bool = True, verbose: bool = False):
    """Open a model file; see hubconf.custom."""
    return importlib.import_module("hubconf").custom(weights, autoshape, verbose, device)
