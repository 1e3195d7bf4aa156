"""YOLOv5's functions for AP, in the form in which its val.py calls them; the figures are of utils/plots/curves.py."""

from pathlib import Path

import numpy as np

from extras.segment.task import SEGMENT
from utils.metrics import fitness
from utils.plots.curves import SMOOTHING, average_precision, precision_envelope, precision_recall_curves, smooth

LOSSES = ("box_loss", "seg_loss", "obj_loss", "cls_loss")
KEYS = [f"train/{name}" for name in LOSSES] + [f"metrics/{name}" for name in SEGMENT.metric_names]
KEYS += [f"val/{name}" for name in LOSSES] + ["x/lr0", "x/lr1", "x/lr2"]
BEST_KEYS = ["best/epoch"] + [f"best/{name}" for name in SEGMENT.metric_names]


def ap_per_class(
    tp, conf, pred_cls, target_cls, plot: bool = False, save_dir=".", names=(), eps: float = 1e-16, prefix: str = ""
) -> tuple:
    """Return (tp, fp, p, r, f1 [k] at the best mean F1, ap [k, n], classes int [k]) of the k classes with targets.

    tp: bool [N, n], which predictions are true positives at each of n IoU thresholds; conf, pred_cls [N]; target_cls
    [M]. plot: also draw SAVE_DIR/PREFIX..._curve.png. names: {class number: name}.
    """
    tp, conf, pred_cls, target_cls = (np.asarray(x) for x in (tp, conf, pred_cls, target_cls))
    classes, counts = np.unique(target_cls, return_counts=True)
    found = precision_recall_curves(tp, conf, pred_cls, classes, counts)
    if plot:
        _plot(found, Path(save_dir), names, prefix, classes)
    best = smooth(found.f1.mean(0), SMOOTHING).argmax() if len(classes) else 0
    p, r, f1 = found.precision[:, best], found.recall[:, best], found.f1[:, best]
    true = (r * counts).round()
    return true, (true / (p + eps) - true).round(), p, r, f1, found.ap[:, : tp.shape[1]], classes.astype(int)


def _plot(found, folder: Path, names, prefix: str, classes) -> None:
    from utils.plots.charts import plot_mc_curve, plot_pr_curve

    names = dict(names if isinstance(names, dict) else enumerate(names))
    shown = [names.get(int(cls), str(int(cls))) for cls in classes]
    plot_pr_curve(found.x, found.precision_at_recall, found.ap, folder / f"{prefix}PR_curve.png", shown)
    for name, curve in (("F1", found.f1), ("P", found.precision), ("R", found.recall)):
        plot_mc_curve(found.x, curve, folder / f"{prefix}{name}_curve.png", shown, ylabel=name)


def compute_ap(recall, precision) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the AP of a curve [n], and the points (precision, recall) of its envelope."""
    mrec, mpre = precision_envelope(recall, precision)
    return average_precision(recall, precision), mpre, mrec


def ap_per_class_box_and_mask(
    tp_m, tp_b, conf, pred_cls, target_cls, plot: bool = False, save_dir=".", names=()
) -> dict[str, dict]:
    """Return {"boxes", "masks"}: the figures of ap_per_class() for each, as {"p", "r", "ap", "f1", "ap_class"}."""
    results = {}
    for key, tp, prefix in (("boxes", tp_b, "Box"), ("masks", tp_m, "Mask")):
        _, _, p, r, f1, ap, classes = ap_per_class(tp, conf, pred_cls, target_cls, plot, save_dir, names, prefix=prefix)
        results[key] = {"p": p, "r": r, "ap": ap, "f1": f1, "ap_class": classes}
    return results


def segment_fitness(x) -> np.ndarray:
    """Return the number to compare models by, from [..., 8+]: four figures of boxes, four of masks."""
    return fitness(x) + fitness(np.asarray(x)[..., 4:])
