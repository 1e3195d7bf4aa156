"""The hyperparameters of a classifier's training: one table, as engine/hyperparameters.py has it for detectors."""

from engine.hyperparameters import TABLE as DETECTION
from engine.hyperparameters import Hyperparameter, load_hyp

TABLE = {
    "lr0": DETECTION["lr0"]._replace(default=0.001),
    "lrf": DETECTION["lrf"],
    "momentum": DETECTION["momentum"]._replace(default=0.9),
    "weight_decay": DETECTION["weight_decay"]._replace(default=5e-5),
    "warmup_epochs": DETECTION["warmup_epochs"]._replace(default=1.0),
    "warmup_least": DETECTION["warmup_least"],
    "warmup_momentum": DETECTION["warmup_momentum"],
    "warmup_bias_lr": DETECTION["warmup_bias_lr"]._replace(default=0.001),
    "crop_scale": Hyperparameter(0.5, 0.08, 1.0, 1.0, "least part of an image's area in a random crop; 1 none", 1.0),
    "flipud": DETECTION["flipud"],
    "fliplr": DETECTION["fliplr"],
    "hsv_h": DETECTION["hsv_h"],
    "hsv_s": DETECTION["hsv_s"]._replace(default=0.4),
    "hsv_v": DETECTION["hsv_v"],
    "randaugment": Hyperparameter(0, 0, 4, 0.0, "random operations on each image (arXiv 1909.13719)", 14),
    "magnitude": Hyperparameter(9, 0, 30, 1.0, "strength of these operations", 30),
    "mixup": Hyperparameter(0.0, 0.0, 1.0, 1.0, "probability of blending a batch's images (arXiv 1710.09412)", 1.0),
    "cutmix": Hyperparameter(0.0, 0.0, 1.0, 1.0, "probability of pasting parts of others (arXiv 1905.04899)", 1.0),
    "label_smoothing": DETECTION["label_smoothing"]._replace(default=0.1),
    "nominal_batch": DETECTION["nominal_batch"],
    "ema_decay": DETECTION["ema_decay"],
    "ema_tau": DETECTION["ema_tau"],
}


def load_classify_hyp(source=None) -> dict:
    """Return every hyperparameter: those of a YAML file or mapping, then the defaults. ValueError as load_hyp."""
    return load_hyp(source or {}, TABLE)
