"""The hook of val.py that chooses thresholds: it collects boxes as detect.py finds them, and concludes at the end."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engine.hooks import ValHook
from engine.options import from_kwargs
from extras.thresholds.checkpoint import check_writable, write_thresholds
from extras.thresholds.choice import Aim
from extras.thresholds.report import own_lines, report_lines
from extras.thresholds.study import Study, study_of
from models.backends.thresholds import Thresholds
from utils.files import write_whole
from utils.logger import LOGGER

LEAST_CONFIDENCE = 0.001  # boxes below it are not looked at
FILE_NAME, CHART = "thresholds.json", "thresholds.png"


class ThresholdHook(ValHook):
    """The collector of a validation's boxes, and the choice of thresholds from them."""

    def __init__(self, opt, names: dict, own: Thresholds | None = None):
        """opt: the options of val.py; own: the model's thresholds, if it has any.

        ValueError if the options exclude each other, or the thresholds cannot be written.
        """
        self.aim, self.names = aim_of(opt), {0: names[0]} if opt.single_cls else names
        self.own = None if opt.single_cls else own
        self.target = check_writable(opt) if opt.write_thresholds else None
        self.where = {"data": Path(str(opt.data)).name, "split": opt.split, "imgsz": opt.imgsz}
        detection = from_kwargs("detect", {})
        self.nms = {"conf_thres": LEAST_CONFIDENCE, "iou_thres": detection.iou_thres, "max_det": detection.max_det}
        self.predictions: list = []
        self.truths: list = []

    def add(self, path, boxes, truth) -> None:
        boxes = np.array(boxes, np.float32)
        boxes[:, 5] *= len(self.names) > 1
        self.predictions.append(boxes)
        self.truths.append(np.array(truth, np.float32))

    def close(self, save_dir) -> None:
        study = study_of(self.predictions, self.truths, self.names, self.aim, self.own)
        lines = [] if self.own is None else own_lines(study, self.own, self.names)
        LOGGER.info("\n".join(lines + report_lines(study, self.names)))
        write_files(study, self.names, self.where, Path(save_dir))
        if self.target is not None:
            write_thresholds(self.target, study.thresholds(self.where), self.names)


def aim_of(opt) -> Aim:
    """Return the aim that --precision or --recall give, else the best F1."""
    if opt.precision is not None and opt.recall is not None:
        raise ValueError(f"expected --precision or --recall, found both: {opt.precision:g} and {opt.recall:g}")
    for figure, least in (("precision", opt.precision), ("recall", opt.recall)):
        if least is not None:
            return Aim(figure, least)
    return Aim()


def write_files(study: Study, names: dict, where: dict, folder: Path) -> None:
    """Write thresholds.json, what --write-thresholds puts into a checkpoint, and thresholds.png."""
    from extras.thresholds.charts import plot_study

    write_whole(folder / FILE_NAME, json.dumps(asdict(study.thresholds(where)), indent=1) + "\n")
    plot_study(study, names, folder / CHART)
