"""ncnn: a folder NAME_ncnn_model with the layers, the weights and metadata.yaml. Running it needs no torch."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import OUTPUT_DIMS, Metadata
from utils.logger import LOGGER

LAYERS, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
INPUT, OUTPUTS = "in0", ("out0", "out1")  # pnnx's names
# ncnn computes in half precision, with other numbers than the model's, unless it is told not to
REDUCED_PRECISION = "use_fp16_packed use_fp16_storage use_fp16_arithmetic use_bf16_packed use_bf16_storage".split()


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write the folder `file` from an exportable() model, with weights of 16 bits if spec.half.

    The files take one image of spec.imgsz at a time. ValueError for a layer that ncnn does not have.
    """
    from models.backends.torchscript import write_trace
    from models.exportable import example_images

    height, width = spec.imgsz
    with tempfile.TemporaryDirectory() as folder:
        write_trace(model, example_images(1, spec.imgsz), Path(folder) / "model.pt", metadata)
        arguments = ["model.pt", f"inputshape=[1,3,{height},{width}]f32", f"fp16={int(spec.half)}"]
        log = _run_pnnx(arguments, folder)
        layers, weights = Path(folder) / LAYERS, Path(folder) / WEIGHTS
        if not (layers.is_file() and weights.is_file()):
            raise ValueError(f"{file}: pnnx could not convert the model; it printed: {' | '.join(log[-3:])}")
        if unknown := unknown_layers(layers.read_text(encoding="utf-8")):
            raise ValueError(f"{file}: ncnn has no layer for {', '.join(unknown)}")
        file.mkdir(parents=True, exist_ok=True)
        for part in (layers, weights):
            (file / part.name).write_bytes(part.read_bytes())
    metadata.save(file)
    if spec.verbose:
        LOGGER.info("\n".join(log))


def _run_pnnx(arguments: list, folder) -> list:
    """Run pnnx's program in `folder`, into which it writes many files; returns the lines that it printed.

    Its Python function would also import the Python file that it writes.
    """
    program = require("pnnx", "ncnn", "writing ncnn files").EXEC_PATH
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, errors="replace")
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def unknown_layers(layers: str) -> list:
    """Return the operators that pnnx left, from a .param file's text: their names are torch's, with dots."""
    kinds = {line.split()[0] for line in layers.splitlines()[2:] if line.strip()}
    return sorted(kind for kind in kinds if "." in kind or "::" in kind)


def write_metadata(file, metadata: Metadata) -> None:
    """Replace the metadata in the folder `file`."""
    metadata.save(Path(file))


def complete(file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Give a written int8 folder its metadata."""
    metadata.save(file)


class NcnnBackend(ExportedBackend):
    """A NAME_ncnn_model folder, or the .param file in it. On the CPU, in float32; several threads may call run().

    A batch of any length is run image by image: ncnn's arrays have no axis for it.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        layers, _ = find_parts(path)
        super().__init__(path, Metadata.load(layers.parent))
        self.batch = None
        self.warn_of_unused(device, fp16, dnn)
        ncnn, self.net = open_net(path, threads)
        self._outputs = OUTPUTS[: len(OUTPUT_DIMS[self.task])]
        found = [*self.net.input_names(), *sorted(self.net.output_names())]
        if found != [INPUT, *self._outputs]:
            expected = f"input {INPUT} and output {' and '.join(self._outputs)}"
            raise ValueError(f"{layers}: expected {expected}, found {', '.join(found)}")
        self._to_mat = ncnn.Mat

    def run(self, images: np.ndarray):
        return one_or_tuple([np.stack(outputs) for outputs in zip(*map(self._run_one, images))])

    def _run_one(self, image: np.ndarray) -> list:
        extractor = self.net.create_extractor()
        extractor.input(INPUT, self._to_mat(image))
        outputs = []
        for name in self._outputs:
            status, output = extractor.extract(name)
            if status != 0:
                raise ValueError(f"{self.path}: ncnn cannot run an image of shape {'x'.join(map(str, image.shape))}")
            outputs.append(np.array(output))
        return outputs


def open_net(path, threads: int = 0, keeps_values: bool = False):
    """Return (the package ncnn, the network in `path`, a folder or a .param file), in float32 or int8.

    threads: 0 chooses. keeps_values: every value can be extracted after a run. FileNotFoundError, ValueError.
    """
    ncnn = require("ncnn", "ncnn", "running ncnn files")
    layers, weights = find_parts(path)
    net = ncnn.Net()
    net.opt.lightmode = not keeps_values
    for name in REDUCED_PRECISION:
        if hasattr(net.opt, name):
            setattr(net.opt, name, False)
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(layers)) != 0 or net.load_model(str(weights)) != 0:
        raise ValueError(f"{layers}: ncnn cannot read this file and {weights.name}; export the model again")
    return ncnn, net


def find_parts(path) -> tuple:
    """Return the .param and .bin files of a folder, or of the .param file; FileNotFoundError if one is not there."""
    path = Path(path)
    layers = path / LAYERS if path.is_dir() else path
    weights = layers.with_suffix(".bin")
    for file in (layers, weights):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; an ncnn model is a .param and a .bin file")
    return layers, weights
