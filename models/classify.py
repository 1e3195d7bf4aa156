"""Classifiers, as `python -m models.classify best.pt edgevit.pth` names them; the code is in extras/classify."""

import sys

from utils.console.guard import main_guard
from utils.extras import lazy, load_extra

NAMES = ("ClassificationModel", "export_weights", "load_classifier")
__getattr__ = lazy(dict.fromkeys(NAMES, "extras.classify.model"), __name__)

if __name__ == "__main__":
    model = load_extra("classify.model")
    sys.exit(main_guard(model.main, model.parse_opt()))
