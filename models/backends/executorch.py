"""ExecuTorch (.pte) with XNNPACK: PyTorch's runtime for Android, iOS and small boards. Running a file needs torch.

The metadata is an archive behind the program, see metadata.py.
"""

import threading
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models.backbone.export import MapNorm
from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import Metadata, read_appended, write_appended
from models.backends.quiet import quiet
from models.exportable import example_images

__all__ = ["ExecuTorchBackend", "export", "write_metadata"]

write_metadata = write_appended


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write `model`, as models.exportable gives it, to `file`: float32, for a fixed batch and size."""
    with quiet(spec.verbose):
        require("executorch", "executorch", f"{file}:")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        images = example_images(spec.batch, spec.imgsz)
        program = torch.export.export(xnnpack_form(model), (images,))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        content = lowered.to_executorch().buffer
    Path(file).write_bytes(content)
    write_appended(file, metadata)


def xnnpack_form(model: nn.Module) -> nn.Module:
    """Return the model with its layer norms as XNNPACK's operators alone, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MapNorm):
                setattr(module, name, ConvolvedNorm(child))
    return model


class ConvolvedNorm(nn.Module):
    """MapNorm whose means are 1x1 convolutions: XNNPACK takes no means over channels.

    With them it would hand every map to and fro between XNNPACK and the slow reference operators.
    """

    def __init__(self, norm: MapNorm):
        super().__init__()
        channels = norm.shape[0]
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias
        self.register_buffer("average", torch.full((1, channels, 1, 1), 1 / channels))

    def forward(self, x):
        centred = x - F.conv2d(x, self.average)
        x = centred / torch.sqrt(F.conv2d(centred * centred, self.average) + self.eps)
        return x if self.weight is None else x * self.weight + self.bias


class ExecuTorchBackend(ExportedBackend):
    """A .pte file on the CPU. run() may be called by several threads, one waits for the other.

    threads are those of every ExecuTorch file in this process; 0 leaves them as they are, which is all cores.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        with open(path, "rb") as file:
            if file.read(6)[4:] != b"ET":  # on other content the runtime may end the process
                raise ValueError(f"{path}: not an ExecuTorch program: it does not begin as one")
        try:
            with quiet():
                runtime = require("executorch.runtime", "executorch", f"{path}:").Runtime.get()
                if threads:
                    set_threads(threads)
                self._program = runtime.load_program(str(path))
                self._forward = self._program.load_method("forward")
                inputs, outputs = self._shapes()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not an ExecuTorch program, or one that cannot be run: {reason}") from None
        if list(map(len, inputs)) != [4]:
            raise ValueError(f"{path}: expected one input [B, 3, H, W], found {inputs}")
        self._lock = threading.Lock()
        batch, _, *imgsz = inputs[0]
        super().__init__(path, read_appended(path) or Metadata({}, [], 32, imgsz, batch))
        self.check_outputs(outputs)
        self.warn_of_unused(device, fp16, dnn)

    def _shapes(self) -> tuple:
        """Return the shapes of all inputs, and of all outputs, of the program."""
        about = self._forward.metadata
        inputs = [about.input_tensor_meta(i) for i in range(about.num_inputs())]
        outputs = [about.output_tensor_meta(i) for i in range(about.num_outputs())]
        return tuple([list(tensor.sizes()) for tensor in tensors] for tensors in (inputs, outputs))

    def run(self, images: np.ndarray):
        with self._lock:
            return one_or_tuple([output.numpy() for output in self._forward.execute([torch.from_numpy(images)])])


def set_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
