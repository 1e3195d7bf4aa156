"""The hyperparameters of training: one table with meaning, default, allowed range and search range of each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from utils.console.text import brief, did_you_mean
from utils.files.yaml import load_yaml
from utils.general import find_file


class Hyperparameter(NamedTuple):
    """`lower` and `upper` bound the search of --evolve; `gain` scales its mutations, 0 keeps the value."""

    default: float | str
    lower: float
    upper: float
    gain: float
    meaning: str
    limit: float = math.inf  # largest value that makes sense at all; the smallest is 0
    choices: tuple = ()  # the words that the value may be; empty: it is a number


def choice(choices: str, meaning: str) -> Hyperparameter:
    """Return an entry whose value is one of these words, the first by default; the search keeps it."""
    words = tuple(choices.split())
    return Hyperparameter(words[0], 0, 0, 0.0, meaning, choices=words)


TABLE = {
    "lr0": Hyperparameter(0.01, 1e-5, 0.1, 1.0, "learning rate after warm-up"),
    "lrf": Hyperparameter(0.01, 0.01, 1.0, 1.0, "last learning rate, as a part of lr0"),
    "momentum": Hyperparameter(0.937, 0.6, 0.98, 0.3, "SGD momentum, Adam beta1", 1.0),
    "weight_decay": Hyperparameter(0.0005, 0.0, 0.1, 1.0, "weight decay for the nominal batch; much larger with Muon"),
    "warmup_epochs": Hyperparameter(3.0, 0.0, 5.0, 1.0, "length of the warm-up"),
    "warmup_least": Hyperparameter(100, 0, 1000, 0.0, "fewest batches of the warm-up, while that is a third of all"),
    "warmup_momentum": Hyperparameter(0.8, 0.0, 0.95, 1.0, "momentum at its start (SGD)", 1.0),
    "warmup_bias_lr": Hyperparameter(0.1, 0.0, 0.2, 1.0, "learning rate of the biases at its start"),
    "lr_backbone": Hyperparameter(1.0, 0.01, 1.0, 0.0, "learning rate of the backbone, as a part of lr0", 10.0),
    "drop_path": Hyperparameter(0.0, 0.0, 0.5, 0.0, "stochastic depth of the last block (EdgeViT)", 0.9),
    "box": Hyperparameter(0.05, 0.02, 0.2, 1.0, "gain of the box loss"),
    "cls": Hyperparameter(0.5, 0.2, 4.0, 1.0, "gain of the class loss"),
    "cls_pw": Hyperparameter(1.0, 0.5, 2.0, 1.0, "weight of positives in the class loss"),
    "obj": Hyperparameter(1.0, 0.2, 4.0, 1.0, "gain of the objectness loss"),
    "obj_pw": Hyperparameter(1.0, 0.5, 2.0, 1.0, "weight of positives in the objectness loss"),
    "iou_t": Hyperparameter(0.2, 0.1, 0.7, 0.0, "not used; kept so that files stay exchangeable", 1.0),
    "anchor_t": Hyperparameter(4.0, 2.0, 8.0, 1.0, "largest side ratio of object and anchor that match"),
    "anchors": Hyperparameter(
        0.0, 2.0, 10.0, 2.0, "anchors per output map, found by k-means; 0 keeps the model file's"
    ),
    "assigner": choice("ratio simota aligned", "which anchors learn which object: by shape (YOLOv5), or by prediction"),
    "fl_gamma": Hyperparameter(0.0, 0.0, 2.0, 0.0, "focal loss gamma; 0 is plain cross-entropy"),
    "hsv_h": Hyperparameter(0.015, 0.0, 0.1, 1.0, "largest change of hue, as a part", 1.0),
    "hsv_s": Hyperparameter(0.7, 0.0, 0.9, 1.0, "largest change of saturation, as a part", 1.0),
    "hsv_v": Hyperparameter(0.4, 0.0, 0.9, 1.0, "largest change of brightness, as a part", 1.0),
    "degrees": Hyperparameter(0.0, 0.0, 45.0, 1.0, "largest rotation, degrees", 180.0),
    "translate": Hyperparameter(0.1, 0.0, 0.9, 1.0, "largest shift, as a part of the image", 1.0),
    "scale": Hyperparameter(0.5, 0.0, 0.9, 1.0, "largest change of size, as a part", 1.0),
    "shear": Hyperparameter(0.0, 0.0, 10.0, 1.0, "largest shear, degrees", 89.0),
    "perspective": Hyperparameter(0.0, 0.0, 0.001, 0.0, "largest perspective coefficient per pixel", 0.01),
    "flipud": Hyperparameter(0.0, 0.0, 1.0, 1.0, "probability of an upside-down flip", 1.0),
    "fliplr": Hyperparameter(0.5, 0.0, 1.0, 0.0, "probability of a left-right flip", 1.0),
    "mosaic": Hyperparameter(1.0, 0.0, 1.0, 1.0, "probability of a mosaic of four images", 1.0),
    "mixup": Hyperparameter(0.0, 0.0, 1.0, 1.0, "probability of blending two mosaics", 1.0),
    "copy_paste": Hyperparameter(0.0, 0.0, 1.0, 1.0, "probability of pasting an object (polygon labels)", 1.0),
    "label_smoothing": Hyperparameter(0.0, 0.0, 0.2, 0.0, "label smoothing epsilon", 1.0),
    "distill": Hyperparameter(0.5, 0.1, 10.0, 0.0, "gain of the loss from a --teacher's detections"),
    "distill_features": Hyperparameter(0.5, 0.1, 10.0, 0.0, "gain of the loss from a --teacher's features"),
    "distill_views": Hyperparameter(8, 1, 100, 0.0, "epochs after which pictures come again, with a --teacher"),
    "nominal_batch": Hyperparameter(64, 1, 1024, 0.0, "images per optimizer step that gradients are gathered for"),
    "ema_decay": Hyperparameter(0.9999, 0.9, 0.99999, 0.0, "decay of the averaged weights", 1.0),
    "ema_tau": Hyperparameter(2000, 1, 10000, 0.0, "steps over which that decay builds up"),
    "bn_momentum": Hyperparameter(0.03, 0.001, 0.3, 0.0, "part of a batch in the averages of batch-norm", 1.0),
}
FAR = 1e300  # Beyond are infinities, and whole numbers that do not fit into a float.
POSITIVE = ("lr0", "anchor_t", "nominal_batch", "ema_tau", "crop_scale", "distill_views")  # 0 makes no sense for these


def default_hyp() -> dict:
    """Return every hyperparameter at its default, the values of hyp.scratch-low.yaml."""
    return {key: entry.default for key, entry in TABLE.items()}


def load_hyp(source: str | Path | dict, table: dict = TABLE) -> dict:
    """Return the hyperparameters of a YAML file (or a mapping), in the table's order, with defaults for other keys.

    ValueError with the file and the key for an unknown key (naming the nearest), a value that is no number, or one
    outside its range, or one that is none of its choices.
    """
    if isinstance(source, dict):
        given, where = source, "hyp"
    else:
        path = find_file(source, folders=("data",))
        given, where = load_yaml(path), str(path)
    for key, value in given.items():
        _check(where, key, value, table)
    return {key: given.get(key, entry.default) for key, entry in table.items()}


def _check(where: str, key: str, value, table: dict) -> None:
    if key not in table:
        raise ValueError(f"{where}: unknown hyperparameter {brief(key)}{did_you_mean(str(key)[:100], table, ' ({})')}")
    choices = table[key].choices
    if choices:
        if value not in choices:
            raise ValueError(f"{where}: {key}: expected one of {', '.join(choices)}, found {brief(value)}")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -FAR < value < FAR:
        raise ValueError(f"{where}: {key}: expected a number, found {brief(value)}")
    limit = table[key].limit
    if not 0 <= value <= limit or (value == 0 and key in POSITIVE):
        least = "above 0" if key in POSITIVE else "of at least 0"
        most = "" if limit == math.inf else f" and at most {limit:g}"
        raise ValueError(f"{where}: {key}: expected a number {least}{most}, found {brief(value)}")


def clip_to_search_range(key: str, value: float) -> float:
    """Return `value` within the table's search range, to five significant digits so that files read back the same."""
    entry = TABLE[key]
    return float(f"{min(max(value, entry.lower), entry.upper):.5g}")
