"""Hooks of training and validation that users can attach functions to; names and arguments are YOLOv5's."""

from __future__ import annotations

import threading

from utils.console.text import did_you_mean

# hook -> positional arguments that it is fired with
HOOKS = {
    "on_pretrain_routine_start": "",
    "on_pretrain_routine_end": "labels, names",
    "on_train_start": "",
    "on_train_epoch_start": "",
    "on_train_batch_start": "",
    "optimizer_step": "",
    "on_before_zero_grad": "",
    "on_train_batch_end": "model, iteration, images, targets, paths, mean_losses",
    "on_train_epoch_end": "epoch",
    "on_val_start": "",
    "on_val_batch_start": "",
    "on_val_image_end": "predictions, predictions_native, path, names, image",
    "on_val_batch_end": "batch_i, images, targets, paths, shapes, predictions",
    "on_val_end": "n_targets, tp, fp, p, r, f1, ap, ap50, ap_class, confusion_matrix",
    "on_fit_epoch_end": "log_values, epoch, best_fitness, fitness",
    "on_model_save": "last, epoch, final_epoch, best_fitness, fitness",
    "on_train_end": "last, best, epoch, results",
    "on_params_update": "params",
    "teardown": "",
}


class Callbacks:
    """Registered functions per hook. A function may set `stop_training = True` to end the training after this batch."""

    def __init__(self):
        self._callbacks = {hook: [] for hook in HOOKS}
        self.stop_training = False

    def register_action(self, hook: str, name: str = "", callback=None) -> None:
        """Call `callback` each time that `hook` fires; `name` is for get_registered_actions."""
        self._check(hook)
        if not callable(callback):
            raise TypeError(f"callback '{name}' of {hook}: expected a function, found {callback!r}")
        self._callbacks[hook].append({"name": name, "callback": callback})

    def get_registered_actions(self, hook: str | None = None):
        """Return the list of {"name", "callback"} of one hook, or the dict of all hooks' lists."""
        if hook is None:
            return self._callbacks
        self._check(hook)
        return self._callbacks[hook]

    def run(self, hook: str, *args, thread: bool = False, **kwargs) -> None:
        """Call the functions registered for `hook` in their order; each in a thread of its own if `thread`."""
        self._check(hook)
        for action in [*self._callbacks[hook]]:  # A function may take itself out.
            if thread:
                threading.Thread(target=action["callback"], args=args, kwargs=kwargs, daemon=True).start()
            else:
                action["callback"](*args, **kwargs)

    @staticmethod
    def _check(hook: str) -> None:
        if hook not in HOOKS:
            raise ValueError(f"unknown callback hook '{hook}'{did_you_mean(hook, HOOKS, ' ({})')}")
