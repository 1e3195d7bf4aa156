"""Validation as val.py does it: open model and data, let the evaluator measure, say what came out."""

import argparse
from copy import copy
from pathlib import Path

import torch

from engine.options import apply_data_defaults
from engine.options.flags import TRAIN_PROJECTS
from engine.task import DETECT, Task
from models.backends import DetectMultiBackend
from utils.extras import load_extra
from utils.files import write_whole
from utils.general import SHAPES_WEIGHTS, check_img_size, chosen_weights, increment_path
from utils.logger import LOGGER, colorize, setup_logging
from utils.timing import UNTIMED, StageTimes
from utils.torch_utils import device_summary, keep_freed_memory

STUDY_SIZES = range(256, 1536 + 1, 128)  # pixels
STUDY_COLUMNS = ("imgsz", "P", "R", "mAP50", "mAP50-95", "pre_ms", "inference_ms", "nms_ms")
SPEED_THRESHOLDS = {"conf_thres": 0.25, "iou_thres": 0.45}  # as in use, not as for AP


def run_script(opt: argparse.Namespace, task: Task = DETECT) -> None:
    """Validate as the scripts do: the figures are printed and written."""
    setup_logging()
    validate(opt, task=task)


def validate(opt: argparse.Namespace, callbacks=None, task: Task = DETECT):
    """Do what --task names: measure one model (or ensemble) on a split with all files and pictures, or speed or study.

    Returns the result of the task's evaluator, of speed and study a list of them.
    """
    if opt.task in ("speed", "study"):
        return {"speed": speed, "study": study}[opt.task](opt, callbacks)
    times = StageTimes() if opt.profile else UNTIMED
    with times("model"):
        opt, model, data = open_all(opt, opt.task, task)
    save_dir = make_folder(opt)
    extras = {"hooks": threshold_hooks(opt, model), "predictor": tiled_predictor(opt, model)}
    opt.save_txt |= opt.save_hybrid
    if opt.save_hybrid:
        LOGGER.warning("--save-hybrid puts true boxes among the predictions: the figures below say nothing")
    files = {key: getattr(opt, key) for key in ("save_txt", "save_hybrid", "save_conf", "save_json")}
    files |= {
        "save_dir": save_dir,
        **extras,
        "plots": True,
        "evidence": str(opt.data),
        "times": times.on(opt.device),
    }
    result = measure(opt, model, data, callbacks, task=task, **files)
    print_report(result, opt, save_dir, task)
    times.report(save_dir)
    return result


def wants_thresholds(opt) -> bool:
    """Tell whether a flag asks for the choice of thresholds."""
    return opt.thresholds or opt.write_thresholds or opt.precision is not None or opt.recall is not None


def threshold_hooks(opt, model) -> tuple:
    """Return the hook that chooses confidence thresholds, where a flag asks for them."""
    if not wants_thresholds(opt):
        return ()
    return (load_extra("thresholds.hook").ThresholdHook(opt, model.names, model.thresholds),)


def tiled_predictor(opt, model):
    """Return what predicts in the place of the model with --tile, else None."""
    if not opt.tile:
        return None
    if wants_thresholds(opt):
        raise ValueError("--tile: thresholds are worked out on whole pictures so far: leave one of both away")
    nms = {"conf_thres": opt.conf_thres, "iou_thres": opt.iou_thres, "max_det": opt.max_det, "multi_label": True}
    size_hw = tuple(model.fixed_hw or (opt.imgsz, opt.imgsz))
    tiling = load_extra("tile.tiler")
    tiler = tiling.Tiler(model, size_hw, opt.tile, opt.overlap, nms, opt.augment, tiling.may_join(model))
    return load_extra("tile.validation").TiledPredictions(tiler)


def speed(opt, callbacks=None) -> list:
    """Measure the time of each model on square images, with the thresholds of detect.py."""
    results = []
    for weights in chosen_weights(opt.weights, embedded=SHAPES_WEIGHTS):
        one, model, data = open_all(opt, "val", weights=[weights])
        one.__dict__.update(SPEED_THRESHOLDS)
        results.append(measure(one, model, data, callbacks, rect=False))
        LOGGER.info(f"{weights}: {speed_line(results[-1], one)}")
    return results


def study(opt, callbacks=None) -> list:
    """Measure mAP and time of each model at STUDY_SIZES, as a table and a picture."""
    results, save_dir = [], make_folder(opt)
    for weights in chosen_weights(opt.weights, embedded=SHAPES_WEIGHTS):
        one, model, data = open_all(opt, "val", weights=[weights])
        rows = []
        for size in STUDY_SIZES:
            one.imgsz = check_img_size(size, model.stride)
            LOGGER.info(f"\n{weights} at image size {one.imgsz}")
            result = measure(one, model, data, callbacks)
            rows.append((one.imgsz, result.precision, result.recall, result.map50, result.map, *result.speed_ms))
            results.append(result)
        save_study(rows, save_dir / f"study_{Path(opt.data).stem}_{Path(weights).stem}", str(weights))
    LOGGER.info(f"Results saved to {colorize(str(save_dir), 'good')}")
    return results


def save_study(rows, stem: Path, label: str) -> None:
    """Write STEM.txt, a table with STUDY_COLUMNS, and STEM.png."""
    from utils.plots.charts import plot_val_study

    lines = ["%14s" * len(STUDY_COLUMNS) % STUDY_COLUMNS, *("%14.5g" * len(row) % row for row in rows)]
    write_whole(f"{stem}.txt", "\n".join(lines) + "\n")
    plot_val_study([(row[0], row[3], row[4], sum(row[5:])) for row in rows], f"{stem}.png", label)


def open_all(opt, split: str, task=DETECT, weights=None):
    """Return (completed options, model, data file); ValueError if the classes of model and data do not fit."""
    keep_freed_memory()
    if opt.batch_size < 1:
        raise ValueError(f"--batch-size: expected a whole number from 1, found {opt.batch_size}")
    opt = copy(opt)
    opt.weights = weights or chosen_weights(opt.weights, TRAIN_PROJECTS[task.name], SHAPES_WEIGHTS)
    data = task.read_data(opt, required=(split,))
    options = {"dnn": opt.dnn, "fp16": opt.half, "threads": opt.threads, "trust_torchscript": opt.trust_torchscript}
    model = DetectMultiBackend(opt.weights, opt.device, data=opt.data, **options)
    opt.device = model.device if isinstance(model.device, torch.device) else torch.device("cpu")
    model.require_task(task.name)
    check_classes(opt, model, data)
    choose_size(opt, model, data, task)
    opt.split = split
    device = device_summary(opt.device) if model.device == opt.device else f"{model.format.title} on {model.device}"
    precision = "float16" if model.fp16 else "bfloat16" if model.bf16 else "float32"
    LOGGER.info(f"{device}, {precision}, image size {opt.imgsz}")
    return opt, model, data


def check_classes(opt, model, data) -> None:
    names, expected = model.names, data["names"]
    if opt.single_cls or names == expected:
        return
    if len(names) != len(expected):
        raise ValueError(
            f"{', '.join(map(str, opt.weights))} has {len(names)} classes, {opt.data} has {len(expected)}: they must "
            "be the same; give the data file that the model was trained on, or --single-cls"
        )
    number = next(i for i in expected if names.get(i) != expected[i])
    found = f"class {number} is '{names.get(number)}' in the model"
    LOGGER.warning(f"{found} and '{expected[number]}' in {opt.data}")


def choose_size(opt, model, data, task=DETECT) -> None:
    """Set opt.imgsz to the flag, else the checkpoint's, else the data file's, else the default; print the choice."""
    if model.fixed_hw and opt.imgsz not in (None, max(model.fixed_hw)):
        raise ValueError(f"--imgsz {opt.imgsz}: the model file was exported for {list(model.fixed_hw)} px alone")
    if opt.imgsz is None and model.imgsz:
        opt.imgsz = max(model.imgsz) if isinstance(model.imgsz, list) else int(model.imgsz)
        LOGGER.info(f"image size {opt.imgsz} (from the model file)")
    for line in apply_data_defaults(opt, data, task.defaults):
        LOGGER.info(line)
    opt.imgsz = check_img_size(opt.imgsz, model.stride)


def make_folder(opt) -> Path:
    return increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)


def measure(opt, model, data, callbacks=None, rect=True, task=DETECT, times=UNTIMED, **options):
    """Evaluate on data[opt.split] at opt.imgsz; rect: batches of like shape, where the model takes any, not squares."""
    rect = rect and not opt.square and model.fixed_hw is None
    with times("labels"):
        loader = task.eval_loader(opt, data, model, rect)
    loader.dataset.times = times
    model.warmup(imgsz=(opt.batch_size, 3, *(model.fixed_hw or (opt.imgsz, opt.imgsz))))
    same = ("conf_thres", "iou_thres", "max_det", "single_cls", "augment", "verbose", "v5_map")
    options |= {key: getattr(opt, key) for key in same}
    options |= {"names": data["names"], "device": opt.device, "callbacks": callbacks, "times": times}
    return task.evaluate(model, loader, **options)


def print_report(result, opt, save_dir: Path, task) -> None:
    """Log what is not in the table: the task's lines, speed, and where the files are."""
    task.report(result, opt)
    LOGGER.info(speed_line(result, opt, task))
    if opt.save_txt:
        LOGGER.info(f"{len(list((save_dir / 'labels').glob('*.txt')))} label files in {save_dir / 'labels'}")
    LOGGER.info(f"Results saved to {colorize(str(save_dir), 'good')}")


def speed_line(result, opt, task=DETECT) -> str:
    times = ", ".join(f"{ms:.1f} ms {name}" for ms, name in zip(result.speed_ms, task.evaluator.timed))
    return f"{times} per image, batch {opt.batch_size}, image size {opt.imgsz}"
