"""CoreML: an ML Program (.mlpackage) for iPhones and Macs. Any system can write it, only macOS can run it."""

import json
import sys
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import Metadata
from models.backends.quiet import quiet
from utils.files import read_text, write_atomic

INPUT = "image"
OUTPUTS = {"detect": ["predictions"], "segment": ["predictions", "prototypes"], "classify": ["logits"]}  # by task
TITLES = {"detect": "Object detector", "segment": "Segmentation model", "classify": "Image classifier"}
COMPUTE_UNITS = {"": "ALL", "cpu": "CPU_ONLY", "mps": "CPU_AND_GPU"}  # ALL: the neural engine too


def load_coremltools():
    """Return the coremltools package; ImportError with the pip line if it is missing."""
    with quiet():  # it has something to say about the version of every other package
        return require("coremltools", "coreml", "CoreML")


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write the package `file`, for iOS 16 and macOS 13 or newer, from an exportable() model.

    Its input is `image`, an RGB picture (of several: float32 [B, 3, H, W], 0 to 1), its outputs are float32 and have
    the names of OUTPUTS. half: float16 but for the decoding of the boxes. int8: the weights alone are int8, with scale
    and zero point for each output channel, and so need no calibration. ImportError if a package is missing.
    """
    ct = load_coremltools()
    with quiet(spec.verbose):
        program = ct.convert(
            exported_program(model, spec),
            inputs=[image_input(ct, spec)],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in OUTPUTS[metadata.task]],
            convert_to="mlprogram",
            compute_precision=mixed_precision(ct) if spec.half else ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,  # the first that has weights of 8 bits
            skip_model_load=True,
        )
        if spec.int8:
            # with a zero point, as weights are seldom symmetric: it costs nothing when the file runs
            config = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear", dtype="int8")
            config = ct.optimize.coreml.OptimizationConfig(global_config=config)
            program = ct.optimize.coreml.linear_quantize_weights(program, config)
        program.short_description = f"{TITLES[metadata.task]} of {metadata.nc} classes"
        program.license, program.version = metadata.licence, metadata.version
        program.save(str(file))
    (file / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # coremltools' own, of no use to CoreML
    write_metadata(file, metadata)


def exported_program(model, spec: ExportSpec):
    """Return torch.export's graph. (A trace has arithmetic on sizes, over which coremltools 9 stumbles.)"""
    import torch

    from models.exportable import example_images

    with torch.no_grad():
        program = torch.export.export(model, (example_images(spec.batch, spec.imgsz),), strict=False)
        return program.run_decompositions({})


def image_input(ct, spec: ExportSpec):
    """Return a picture, as apps have it; CoreML takes several at once as numbers only."""
    shape = (spec.batch, 3, *spec.imgsz)
    if spec.batch > 1:
        return ct.TensorType(name=INPUT, shape=shape, dtype=np.float32)
    return ct.ImageType(name=INPUT, shape=shape, scale=1 / 255, color_layout=ct.colorlayout.RGB)


def mixed_precision(ct):
    """Return the precision: float16, and float32 behind the last convolution, as boxes of large images need."""
    feeds_convolution = {}

    def is_half(operation) -> bool:
        if operation not in feeds_convolution:
            users = [user for output in operation.outputs for user in output.child_ops]
            feeds_convolution[operation] = any(user.op_type == "conv" or is_half(user) for user in users)
        return operation.op_type == "conv" or feeds_convolution[operation]

    return ct.transform.FP16ComputePrecision(op_selector=is_half)


def specification_file(package: Path) -> Path:
    """Return the file with everything but the weights of a package. OSError or ValueError if it is none."""
    manifest = Path(package) / "Manifest.json"
    try:
        entries = json.loads(read_text(manifest))
        return Path(package) / "Data" / entries["itemInfoEntries"][entries["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{manifest}: not the manifest of a CoreML package: {error!r}") from None


def read_specification(package: Path):
    """Return the package's protobuf message; OSError or ValueError if it cannot be read."""
    load_coremltools()
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    file = specification_file(package)
    try:
        return Model_pb2.Model.FromString(file.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{file}: not a CoreML specification: {error}") from None


def write_metadata(file, metadata: Metadata) -> None:
    """Replace the metadata in the package `file`."""
    specification = read_specification(file)
    specification.description.metadata.userDefined.update(metadata.to_strings())
    write_atomic(specification_file(file), specification.SerializeToString())


def read_metadata(file) -> Metadata:
    return Metadata.from_strings(dict(read_specification(file).description.metadata.userDefined), file)


def runs_here() -> bool:
    return sys.platform == "darwin"


class CoreMlBackend(ExportedBackend):
    """A .mlpackage, on macOS; elsewhere an OSError.

    device: "" leaves the choice to CoreML, neural engine included, "cpu" is the CPU alone, "mps" the GPU too.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        if not runs_here():
            raise OSError(
                f"{path}: CoreML files are written on any system but run on macOS only, not on {sys.platform}"
            )
        self.device = str(device).lower()
        if self.device not in COMPUTE_UNITS:
            raise ValueError(f"--device {device}: CoreML has '' (it chooses), cpu and mps")
        ct = load_coremltools()
        super().__init__(path, read_metadata(path))
        self.warn_of_unused(fp16=fp16, dnn=dnn)
        units = ct.ComputeUnit[COMPUTE_UNITS[self.device]]
        self.model = ct.models.MLModel(str(path), compute_units=units)
        description = self.model.get_spec().description
        if len(description.input) != 1:
            raise ValueError(f"{path}: expected a model with one input, found {len(description.input)}")
        self.check_outputs([list(output.type.multiArrayType.shape) for output in description.output])
        self._input, self._outputs = description.input[0].name, [output.name for output in description.output]
        self._takes_picture = description.input[0].type.WhichOneof("Type") == "imageType"

    def run(self, images: np.ndarray):
        """Run as ExportedBackend does; a picture's values become whole 255ths."""
        value = picture(images[0]) if self._takes_picture else images
        outputs = self.model.predict({self._input: value})
        return one_or_tuple([np.asarray(outputs[name], np.float32) for name in self._outputs])


def picture(image: np.ndarray):
    """Return a PIL image of float32 RGB [3, H, W], 0 to 1."""
    from PIL import Image

    return Image.fromarray(np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8))
