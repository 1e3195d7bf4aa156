"""Official YOLOv5 checkpoints as checkpoints of this project: the model's tensors, YAML, names and figures."""

import torch

from extras.official.pickle_reader import Shell, plain, read_pickle
from utils.checkpoint import Checkpoint

__all__ = ["from_yolov5", "read_pickle", "without_shells"]

MAX_MODULES = 100_000  # in one model: stops a file whose modules contain themselves
TASKS = {"SegmentationModel": "segment", "ClassificationModel": "classify"}  # other classes of YOLOv5 detect


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
    if not model.name.startswith("models."):
        raise ValueError(f"expected a YOLOv5 model, found {model.name}")
    attributes = {key: plain(model.state.get(key)) for key in ("yaml", "names", "stride", "nc", "hyp")}
    yaml = attributes["yaml"] or {}
    names = attributes["names"] or {}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(yaml, dict) or not isinstance(names, dict):
        raise ValueError(f"expected a model YAML and class names, found {yaml!r} and {names!r}")
    nc = attributes["nc"] or yaml.get("nc") or len(names)
    stride = attributes["stride"]
    opt = plain(content.get("opt"))
    epoch, fitness = _number(content.get("epoch")), _number(content.get("best_fitness"))
    return Checkpoint(
        yaml=yaml,
        names={int(k): str(v) for k, v in names.items()} or {i: f"class{i}" for i in range(nc)},
        nc=int(nc),
        stride=stride.flatten().tolist() if isinstance(stride, torch.Tensor) else [],
        # older files keep the anchors in pixels too: they follow from anchors and stride
        state_dict={k: v for k, v in module_state_dict(model).items() if not k.endswith(".anchor_grid")},
        imgsz=opt.get("imgsz") if isinstance(opt, dict) else None,
        hyp=attributes["hyp"],
        opt=opt if isinstance(opt, dict) else None,
        task=TASKS.get(model.name.split(".")[-1], "detect"),
        epoch=-1 if epoch is None else int(epoch),
        best_fitness=fitness,
        meta={"source": f"YOLOv5 checkpoint {source}", "licence": "that of the YOLOv5 weights"},
    )


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
