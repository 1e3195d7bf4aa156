"""Official YOLOv5 checkpoints as checkpoints of this project: the model's tensors, YAML, names and figures."""

from typing import Any

import torch

from extras.official.pickle_reader import Shell, plain, read_pickle
from utils.checkpoint import Checkpoint
from utils.console.text import brief

__all__ = ["from_yolov5", "read_pickle", "without_shells"]

MAX_MODULES = 100_000  # in one model: stops a file whose modules contain themselves
TASKS = {"SegmentationModel": "segment", "ClassificationModel": "classify"}  # other classes of YOLOv5 detect
CLASSIFIER_IMGSZ_PX = 224  # the default of YOLOv5's classify/train.py
NETWORKS = "torchvision.models."  # classify/train.py stores torchvision's networks as they are


def module_state_dict(module: Shell) -> dict[str, torch.Tensor]:
    """Return the module's parameters and persistent buffers, named as nn.Module.state_dict() names them."""
    state_dict, todo, visits = {}, [("", module)], 0
    while todo:
        prefix, shell = todo.pop()
        visits += 1
        if visits > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES} modules in one model")
        state = shell.state
        skipped = state.get("_non_persistent_buffers_set") or ()
        tensors = {**(state.get("_parameters") or {}), **(state.get("_buffers") or {})}
        for name, value in tensors.items():
            if name not in skipped and isinstance(plain(value), torch.Tensor):
                state_dict[prefix + name] = plain(value)
        children = [(f"{prefix}{k}.", v) for k, v in (state.get("_modules") or {}).items() if isinstance(v, Shell)]
        todo.extend(reversed(children))
    return state_dict


def from_yolov5(content: dict, source: str) -> Checkpoint:
    """Return the Checkpoint for the dict of an official file: its EMA model if it has one, else its model."""
    model = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), Shell)), None)
    if model is None:
        found = ", ".join(str(key) for key in content)
        raise ValueError(f"expected a pickled YOLOv5 model under 'ema' or 'model', found {found}")
    attributes = {key: plain(model.state.get(key)) for key in ("yaml", "names", "stride", "nc", "hyp")}
    stride, opt = attributes["stride"], plain(content.get("opt"))
    # older files keep the anchors in pixels too: they follow from anchors and stride
    tensors = {k: v for k, v in module_state_dict(model).items() if not k.endswith(".anchor_grid")}
    yaml = attributes["yaml"] or {}
    if model.name.startswith(NETWORKS):
        yaml = {"model": _network(opt, model.name), "normalize": "imagenet"}
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    elif not model.name.startswith("models."):
        raise ValueError(f"expected a YOLOv5 model, found {model.name}")
    task = "classify" if model.name.startswith(NETWORKS) else TASKS.get(model.name.split(".")[-1], "detect")
    nc, names = _classes(task, attributes, yaml, tensors)
    imgsz = opt.get("imgsz") if isinstance(opt, dict) else None
    epoch, fitness = _number(content.get("epoch")), _number(content.get("best_fitness"))
    return Checkpoint(
        yaml=yaml,
        names=names,
        nc=nc,
        stride=stride.flatten().tolist() if isinstance(stride, torch.Tensor) else [],
        state_dict=tensors,
        imgsz=imgsz or (CLASSIFIER_IMGSZ_PX if task == "classify" else None),
        hyp=attributes["hyp"],
        opt=opt if isinstance(opt, dict) else None,
        task=task,
        epoch=-1 if epoch is None else int(epoch),
        best_fitness=fitness,
        meta={"source": f"YOLOv5 checkpoint {source}", "licence": "that of the YOLOv5 weights"},
    )


def _network(opt: Any, class_name: str) -> str:
    """Return what classify/train.py's --model named; of a network of torchvision the file has nothing but its class."""
    name = opt.get("model") if isinstance(opt, dict) else None
    if not isinstance(name, str) or name.endswith(".pt"):
        raise ValueError(f"expected a name for {class_name} as 'model' in 'opt', found {brief(name)}")
    return f"torchvision/{name}"


def _classes(task: str, attributes: dict, yaml: dict, tensors: dict[str, torch.Tensor]) -> tuple[int, dict[int, str]]:
    """Return the number of classes and their names. ValueError for names or a YAML of another kind.

    A classifier's tensors decide: its number, and perhaps its names, may still be those of the model it started from.
    """
    names = attributes["names"] or {}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(yaml, dict) or not isinstance(names, dict):
        raise ValueError(f"expected a model YAML and class names, found {brief(yaml)} and {brief(names)}")
    nc = int(attributes["nc"] or yaml.get("nc") or len(names))
    if task == "classify":
        weights = [tensor for name, tensor in tensors.items() if name.endswith("weight") and tensor.ndim > 1]
        if not weights:
            raise ValueError(f"expected a classifier, found no layer in {', '.join(list(tensors)[:3]) or 'it'}")
        nc = len(weights[-1])
        names = names if len(names) == nc else {}
    return nc, {int(k): str(v) for k, v in names.items()} or {i: f"class{i}" for i in range(nc)}


def _number(value) -> float | None:
    """Return a number that may be stored as an array or tensor of one element; None for anything else."""
    value = plain(value)
    if isinstance(value, torch.Tensor):
        value = value.flatten().tolist()
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, (int, float)) else None


def without_shells(content: dict, wrappers: tuple) -> dict:
    """Return `content` as plain data, with the tensors of a module that one of the keys `wrappers` holds."""
    for key in wrappers:
        if isinstance(content.get(key), Shell):
            return module_state_dict(content[key])
    return {key: plain(value) for key, value in content.items()}
