"""The hyperparameters of pretraining: one table, as utils/hyperparameters.py has it for detectors."""

from extras.classify.hyp import TABLE as CLASSIFICATION
from utils.hyperparameters import TABLE as DETECTION
from utils.hyperparameters import load_hyp

NOT_USED = ("mixup", "cutmix", "label_smoothing")
TABLE = {
    **{key: entry for key, entry in CLASSIFICATION.items() if key not in NOT_USED},
    "lr0": DETECTION["lr0"]._replace(default=0.003),
    "weight_decay": DETECTION["weight_decay"]._replace(default=0.05),
    "warmup_least": DETECTION["warmup_least"]._replace(default=0),
    "warmup_bias_lr": DETECTION["warmup_bias_lr"]._replace(default=0.0),
}


def load_pretrain_hyp(source=None) -> dict:
    """Every hyperparameter: those of a YAML file or a mapping, the others at their defaults. ValueError as load_hyp."""
    return load_hyp(source or {}, TABLE)
