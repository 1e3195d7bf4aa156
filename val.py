"""Validate a detector: COCO-protocol AP, precision, recall, curves, confusion matrix.

    python val.py                                              the newest training run, else the embedded weights
    python val.py --weights best.pt --data my.yaml --img 640   a checkpoint on a data set
    python val.py --weights a.pt b.pt                          an ensemble
    python val.py --weights best.pt --task test --verbose      another split, a row for each class
    python val.py --weights best.pt --save-json --save-txt     also write the boxes
    python val.py --weights best.pt --v5-map                   also YOLOv5's own recipe for P, R and mAP
    python val.py --weights a.pt b.pt --task speed             time each model
    python val.py --weights a.pt b.pt --task study             mAP and time of each model at image sizes 256 to 1536

Results go to runs/val/exp.
"""

import sys

from engine import options


def run(callbacks=None, **kwargs):
    """Validate from Python: run(weights="best.pt", data="my.yaml"); the options are those of val.py.

    Returns an engine.val.evaluator.EvalResult; with task speed or study a list of one for each model (and size).
    callbacks: a utils.callbacks.Callbacks whose on_val_... hooks are fired.
    """
    return _validate(options.from_kwargs("val", kwargs), callbacks)


def main(opt) -> None:
    from utils.logger import setup_logging

    setup_logging()
    _validate(opt)


def _validate(opt, callbacks=None):
    from utils.general import collecting_later

    with collecting_later():
        from engine.val import run as validation

    tasks = {"speed": validation.speed, "study": validation.study}
    return tasks.get(opt.task, validation.validate)(opt, callbacks)


if __name__ == "__main__":
    opt = options.parse("val")
    from utils.general import main_guard

    sys.exit(main_guard(main, opt))
