"""A model with random weights, and its export for a runtime: how long it takes does not depend on the weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from extras.latency.runtimes import QUANTIZED_APART, Runtime
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from models.yolo import model_class
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.extras import load_extra
from utils.general import VERSION

CALIBRATION_IMAGES = 8
NORMED_PX = 128  # side of the noise that batch-norm statistics are taken from


def random_model(cfg, nc: int | None = None) -> nn.Module:
    """Return the model of a model file in eval mode, with random weights and the statistics of noise.

    Without these the values would fall below what a float can hold normally, and CPUs are slow there.
    """
    torch.manual_seed(0)
    model = model_class(cfg)(cfg, nc=nc)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(2, model.yaml["ch"], NORMED_PX, NORMED_PX))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return model.eval()


def export(model: nn.Module, size_px: int, runtime: Runtime, file: Path) -> None:
    """Write the model for images of size_px x size_px, one at a time, as `file`."""
    metadata = describe(model, size_px, runtime.file_precision)
    spec = ExportSpec(imgsz=(size_px, size_px), int8=runtime.precision == "int8", calibration=lambda: noise(size_px))
    module = runtime.format.module
    if runtime.format_key == "pt":
        save_checkpoint(file, checkpoint(model))
    elif runtime.key in QUANTIZED_APART:
        quantize(model, file, spec, metadata, runtime)
    else:
        module.export(exportable(model), file, spec, metadata)
        module.write_metadata(file, metadata)


def quantize(model: nn.Module, file: Path, spec: ExportSpec, metadata: Metadata, runtime: Runtime) -> None:
    """Write the file with everything in int8 that its quantiser can: what a budget of accuracy keeps in float is not
    known for random weights."""
    fp32 = file.with_name(f"fp32{runtime.format.suffixes[0]}")
    runtime.format.module.export(exportable(model), fp32, replace(spec, int8=False), metadata)
    quantizer = load_extra("export.quantization").QUANTIZERS[runtime.format_key]
    quantizer(fp32, spec.calibration).write(file, (), draft=True)


def describe(model: nn.Module, size_px: int, precision: str) -> Metadata:
    """Return the metadata of a written file."""
    return Metadata(
        names=model.names,
        strides=[int(stride) for stride in model.stride],
        stride=int(model.stride.max()),
        imgsz=[size_px, size_px],
        precision=precision,
        task=model.task,
        model=model.yaml,
        version=VERSION,
    )


def checkpoint(model: nn.Module) -> Checkpoint:
    strides = [float(stride) for stride in model.stride]
    return Checkpoint(model.yaml, model.names, model.nc, strides, model.state_dict())


def noise(size_px: int) -> Iterator[np.ndarray]:
    """Yield images of noise [1, 3, size_px, size_px], float32."""
    for seed in range(CALIBRATION_IMAGES):
        yield example_images(1, (size_px, size_px), seed).numpy()
