"""The functions of the scripts in segment/ and classify/. They load their task when they are called: --help is instant.

Each gives (main, run): main(opt) is what the command line does, run(**options) the same from Python.
"""

from __future__ import annotations

from importlib import import_module

from engine import options

TASKS = {"segment": ("extras.segment.task", "SEGMENT"), "classify": ("extras.classify.task", "CLASSIFY")}
PREDICTORS = {
    "segment": ("extras.segment.segmenter", "Segmenter"),
    "classify": ("extras.classify.classifier", "Classifier"),
}


def _load(place: tuple):
    module, name = place
    return getattr(import_module(module), name)


def train_script(task: str) -> tuple:
    def main(opt, callbacks=None):
        """Train (or search hyperparameters) with `opt`; returns it with `save_dir`, the run folder."""
        from utils.general import collecting_later

        with collecting_later():
            from engine.train.run import train

            loaded = _load(TASKS[task])
        return train(opt, callbacks, loaded)

    def run(callbacks=None, **kwargs):
        """Train from Python with options as keywords; returns them, with `save_dir`."""
        return main(options.from_kwargs(f"{task}/train", kwargs), callbacks)

    return main, run


def val_script(task: str) -> tuple:
    def validate(opt, callbacks=None):
        from utils.general import collecting_later

        with collecting_later():
            from engine.val.run import validate

            loaded = _load(TASKS[task])
        return validate(opt, callbacks, loaded)

    def main(opt) -> None:
        from utils.logger import setup_logging

        setup_logging()
        validate(opt)

    def run(callbacks=None, **kwargs):
        """Validate from Python with options as keywords; returns the result of the task's evaluator."""
        return validate(options.from_kwargs(f"{task}/val", kwargs), callbacks)

    return main, run


def predict_script(task: str) -> tuple:
    def main(opt) -> int:
        """Predict, print, write; returns the exit code."""
        from engine.predict.detector import run_script

        return run_script(opt, _load(PREDICTORS[task]))

    def run(**kwargs) -> list:
        """Predict from Python with options as keywords; returns an engine.predict.detector.Result for every picture."""
        from engine.predict.detector import collect

        return collect(options.from_kwargs(f"{task}/predict", kwargs), _load(PREDICTORS[task]))

    return main, run


def start(name: str, main) -> int:
    """Run main() with the command line of the script `name`; returns the exit code."""
    opt = options.parse(name)
    from utils.general import main_guard  # only now, as --help needs none of it

    return main_guard(main, opt)
