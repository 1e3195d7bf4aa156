"""A process of the benchmark: python -m extras.benchmark.worker JOB ANSWER exports or measures one file.

JOB is a JSON object made by extras/benchmark/run.py; the result is written as JSON into the file ANSWER.
"""

import sys

import numpy as np

from utils.console.processes import answer_job, peak_memory_mb
from utils.timing import Profile

TIMED_IMAGES = 50
WARMUP_PASSES = 3


def export(job: dict) -> dict:
    """Write the checkpoint job["file"] in the format job["format"]: file, parity, runs_here, error."""
    from engine import options
    from extras.export.exporter import can_run, export_formats

    same = ("imgsz", "batch_size", "half", "int8", "data", "device", "threads", "workers")
    kwargs = {"weights": job["file"], "include": [job["format"]], **{key: job[key] for key in same}}
    (result,) = export_formats(options.from_kwargs("export", kwargs))
    runs_here = can_run(result.format)
    return {"file": str(result.file), "parity": result.parity, "runs_here": runs_here, "error": result.error}


def measure(job: dict) -> dict:
    """Time and memory of single images, then the accuracy on the val split, of the model file job["file"].

    The first part loads nothing but the runtime: what the validation needs besides must not count as its memory.
    """
    from engine.predict.run import inference_size_hw
    from models.backends import DetectMultiBackend

    model = DetectMultiBackend(job["file"], job["device"], fp16=job["half"], threads=job["threads"])
    imgsz = max(model.fixed_hw or inference_size_hw(job["imgsz"], model))
    ms = milliseconds(model, pictures(job["data"], imgsz, job["batch_size"]))
    memory_mb = peak_memory_mb()
    result = validate(model, job, imgsz)
    precision = "fp16" if model.fp16 else ""  # PyTorch's; of an exported file it is known
    figures = {"map": float(result.map), "map50": float(result.map50), "ms": ms, "memory_mb": memory_mb}
    return {**figures, "imgsz": imgsz, "precision": precision}


def pictures(data, imgsz: int, batch: int) -> list:
    """Up to TIMED_IMAGES batches, uint8 RGB [batch, imgsz, imgsz, 3], of the val split's images."""
    from utils.augmentations import letterboxed_rgb
    from utils.data.config import check_dataset
    from utils.data.images import find_images, read_image

    files = find_images(check_dataset(data, required=("val",))["val"])
    files = (files * (batch // len(files) + 1))[: max(TIMED_IMAGES, batch)]
    images = [letterboxed_rgb(read_image(file), imgsz)[0] for file in files]
    return [np.stack(images[i : i + batch]) for i in range(0, len(images) - batch + 1, batch)]


def milliseconds(model, batches: list) -> float:
    """For an image: the median over the batches."""
    for _ in range(WARMUP_PASSES):
        model.predict(batches[0])
    seconds = []
    for batch in batches:
        with Profile(device=model.device) as profile:
            model.predict(batch)
        seconds.append(profile.dt / len(batch))
    return float(np.median(seconds)) * 1e3


def validate(model, job: dict, imgsz: int):
    """Return the EvalResult on the val split, images padded to squares, for files of one size."""
    import torch

    from engine import options
    from engine.val import run as validation
    from utils.data.config import check_dataset

    same = ("data", "batch_size", "workers", "threads")
    opt = options.from_kwargs("val", {"weights": [job["file"]], "imgsz": imgsz, **{key: job[key] for key in same}})
    opt.split = "val"
    opt.device = model.device if isinstance(model.device, torch.device) else torch.device("cpu")
    model.require_task("detect")
    data = check_dataset(opt.data, required=("val",))
    validation.check_classes(opt, model, data)
    return validation.measure(opt, model, data, rect=False)


TASKS = {"export": export, "measure": measure}


if __name__ == "__main__":
    answer_job(TASKS, sys.argv)
