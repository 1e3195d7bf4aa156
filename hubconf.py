"""PyTorch Hub: a detector, segmentation model or classifier in one line, from any folder.

Usage:
    model = torch.hub.load("path/to/this/folder", "custom", path="best.pt", source="local")
    model = torch.hub.load("path/to/this/folder", "yolov5_edgevit", source="local")
    results = model("image.jpg")    # a path, URL, PIL image, array, tensor, or a list of them
    results.print()                 # also save, show, crop, render, tolist, pandas().xyxy[0]
    model = torch.hub.load("path/to/this/folder", "yolov5n_seg", source="local")    # the plain model: no AutoShape

    python hubconf.py --model yolov5_edgevit    detects in the pictures of data/images
"""

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "yaml", "tqdm"]

_EMBEDDED = "weights/edgevit_xxs_things.pt"
# hub name: that of the model file, with _ for - -> (weights that pretrained=True loads, or None; what it is)
_MODELS = {f"yolov5{size}": (f"yolov5{size}.pt", f"YOLOv5{size} for images of 640 px") for size in "nsmlx"}
_MODELS |= {f"yolov5{size}6": (f"yolov5{size}6.pt", f"YOLOv5{size}6 for images of 1280 px") for size in "nsmlx"}
_MODELS |= {
    "yolov5_edgevit": (_EMBEDDED, "YOLOv5 on EdgeViT-XXS; its weights know the things of docs/weights.md"),
    "yolov5_edgevit_n": (None, "YOLOv5 on EdgeViT-N"),
    "yolov5_edgevit_t": (None, "YOLOv5 on EdgeViT-T"),
    "yolov5_edgevit_xs": (None, "YOLOv5 on EdgeViT-XS"),
    "yolov5_edgevit_s": (None, "YOLOv5 on EdgeViT-S"),
}
_MODELS |= {f"yolov5{size}_seg": (f"yolov5{size}-seg.pt", f"YOLOv5{size} for segmentation") for size in "nsmlx"}
_MODELS |= {
    f"yolov5_edgevit{size}_seg": (None, f"YOLOv5 on EdgeViT{size.upper().replace('_', '-') or '-XXS'} for segmentation")
    for size in ("", "_n", "_t", "_xs", "_s")
}


def custom(path, autoshape=True, _verbose=True, device=None):
    """Load a model from a file of any format of export.py, or an ensemble from a list of checkpoints.

    autoshape: take images of any kind, give Detections, or of a classifier Classifications; else the plain model, not
    fused, for training. A segmentation model comes plain in any case.
    """
    from models.backends import DetectMultiBackend
    from utils.logger import setup_logging

    if _verbose:
        setup_logging()
    runtime = DetectMultiBackend(path, device=device or "", fuse=autoshape)
    model = runtime.model if runtime.pt else runtime
    return _autoshape(model) if autoshape else model


def _autoshape(model):
    """AutoShape of a detector or classifier; another model as it is, with a warning."""
    from extras.hub.autoshape import AutoShape
    from utils.logger import LOGGER

    task = getattr(model, "task", "detect")
    if task == "detect":
        return AutoShape(model)
    if task == "classify":
        from extras.hub.classifications import ClassifyShape

        return ClassifyShape(model)
    LOGGER.warning(f"AutoShape is for detection: this is the plain model, for the task '{task}'")
    return model


def _entry(name):
    """Return the hub function for the model file `name`."""
    weights, title = _MODELS[name]
    detects = not name.endswith("_seg")

    def create(pretrained=weights is not None, channels=3, classes=None, autoshape=detects, _verbose=True, device=None):
        return _create(name, pretrained, channels, classes, autoshape, _verbose, device)

    shaped = "take images of any kind, give Detections (3 channels only); else the plain model, to be trained"
    if not detects:
        shaped = "is for detection; this is the plain model in any case: batches in, predictions, prototypes, maps out"
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""{title}.

    pretrained: with weights{" (downloaded on first use)" if weights and weights != _EMBEDDED else ""}.
    channels: of the images. classes: their number; None for that of the weights, or of the model file.
    autoshape: {shaped}.
    device: cpu, 0, ...; None chooses. _verbose: print what is loaded.
    """
    return create


def _create(name, pretrained, channels, classes, autoshape, verbose, device):
    from models.yolo import model_class
    from utils.checkpoint import intersect_dicts, load_checkpoint
    from utils.files import naming
    from utils.general import ROOT
    from utils.logger import LOGGER, setup_logging
    from utils.torch_utils import select_device

    if verbose:
        setup_logging()
    autoshape = autoshape and channels == 3
    cfg = next((ROOT / "models").rglob(f"{name.replace('_seg', '-seg')}.yaml"))
    cls = model_class(cfg)
    ckpt = load_checkpoint(_weights(name)) if pretrained else None
    if ckpt and channels == 3 and classes in (None, ckpt.nc):
        with naming(_weights(name)):
            model = cls.from_checkpoint(ckpt, fuse=autoshape)
    else:
        model = cls(cfg, ch=channels, nc=classes)
        if ckpt:
            matching = intersect_dicts(ckpt.state_dict, model.state_dict())
            model.load_state_dict(matching, strict=False)
            model.names = ckpt.names if model.nc == ckpt.nc else model.names
            LOGGER.info(f"{len(matching)} of {len(model.state_dict())} tensors from {_weights(name)}")
    model = model.to(select_device(device or ""))
    return _autoshape(model) if autoshape else model


def _weights(name):
    from utils.general import ROOT

    file, _ = _MODELS[name]
    if file is None:
        raise ValueError(f"there are no weights for {name} yet: use pretrained=False, or custom(path=...) for your own")
    return ROOT / file if "/" in file else file


for _name in _MODELS:
    globals()[_name] = _entry(_name)


def _main(opt):
    from utils.data.images import IMG_FORMATS
    from utils.general import ROOT

    files = sorted(file for file in (ROOT / "data" / "images").iterdir() if file.suffix[1:].lower() in IMG_FORMATS)
    results = globals()[opt.model]()(files)
    results.print()
    results.save(save_dir="runs/hub/exp")


if __name__ == "__main__":
    import argparse
    import sys

    from utils.console.guard import main_guard

    _parser = argparse.ArgumentParser(description="Detect in data/images with a hub model.")
    _names = [_name for _name in _MODELS if not _name.endswith("_seg")]
    _parser.add_argument("--model", default="yolov5_edgevit", choices=_names, help="model name")
    sys.exit(main_guard(_main, _parser.parse_args()))
