"""LiteRT (.tflite), which was TensorFlow Lite: for Android, iOS and small Linux boards. Files run without torch.

The image goes in as [B, H, W, 3], as cameras and image classes have it. The metadata is an archive behind the model,
see metadata.py.
"""

import re
import threading
from pathlib import Path

import numpy as np

from models.backends.base import ExportedBackend, ExportSpec, one_or_tuple, require
from models.backends.metadata import Metadata, read_appended, read_member, write_appended
from models.backends.quiet import quiet
from utils.console.text import brief
from utils.general import usable_cores

__all__ = ["LiteRtBackend", "export", "write_metadata"]

write_metadata = write_appended

SIGNATURE, IMAGES = "serving_default", "args_0"  # litert_torch's names of the graph and of its input
YOLOV5_MEMBER = "meta.txt"  # YOLOv5's appendix to the model: a mapping with stride and names
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
# The operators that are int8 besides the convolutions. Attention, GELU and the moves for them stay in float: XNNPACK
# has no int8 operator for most of them, and each change of the type costs more than the operator itself.
INT8_OPERATORS = ("ADD", "MUL", "LOGISTIC", "CONCATENATION", "MAX_POOL_2D", "PAD", "RESIZE_NEAREST_NEIGHBOR")
# Names of results that stay in float: a scale for pixels leaves nothing of scores, one for sums of squares nothing of
# the small ones.
FLOAT_RESULTS = r"heads\.Detect|serving_default_output|Norm"


def export(model, file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Write `model`, as models.exportable gives it, to `file`. half: see to_half(). int8: see to_int8()."""
    if spec.int8 and spec.calibration is None:
        raise ValueError(f"{file}: int8 needs images to calibrate with, found none")
    with quiet(spec.verbose):
        require("litert_torch", "litert", f"{file}:")
        content = convert(model, spec)
    if spec.int8:
        content = to_int8(content, spec)
    elif spec.half:
        content = to_half(content, spec)
    Path(file).write_bytes(content)
    write_appended(file, metadata)


def complete(file: Path, spec: ExportSpec, metadata: Metadata) -> None:
    """Give a written int8 file its metadata."""
    write_appended(file, metadata)


def convert(model, spec: ExportSpec) -> bytes:
    """Return the model as a float32 .tflite file's content; images [B, H, W, 3] go in."""
    import litert_torch

    from models.exportable import example_images

    images = example_images(spec.batch, spec.imgsz).permute(0, 2, 3, 1).contiguous()
    channels_last = litert_torch.to_channel_last_io(model, args=[0]).eval()
    return litert_torch.convert(channels_last, (images,)).model_content()


def to_half(content: bytes, spec: ExportSpec) -> bytes:
    """Return the convolutions' weights as float16. CPUs compute in float32 with them, GPUs in float16."""
    with quiet(spec.verbose):
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        recipe = RecipeManager()
        weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        precision = qtyping.ComputePrecision.FLOAT
        config = qtyping.OpQuantizationConfig(weight_tensor_config=weights, compute_precision=precision)
        for name in CONVOLUTIONS:
            recipe.add_quantization_config(".*", qtyping.TFLOperationName[name], config, AlgorithmName.FLOAT_CASTING)
        return rewritten(content, recipe)


def to_int8(content: bytes, spec: ExportSpec) -> bytes:
    """Return int8 weights per channel and activations per tensor, ranges by spec.calibration(); float32 in and out.

    The head, layer norms, attention and GELU compute in float32.
    """
    batches = (np.repeat(image, spec.batch, 0) for image in spec.calibration())
    return with_int8(content, find_ranges(content, batches, spec.verbose), verbose=spec.verbose)


def find_ranges(content: bytes, images, verbose: bool = False) -> dict:
    """Return the ranges of a float32 file's tensors, as ai_edge_quantizer has them, over RGB images [B, 3, H, W]."""
    with quiet(verbose):
        from ai_edge_quantizer.calibrator import Calibrator

        recipe, calibrator = int8_recipe(), Calibrator(content, num_threads=physical_cores())
    for batch in images:
        with quiet(verbose):
            calibrator.calibrate({SIGNATURE: [{IMAGES: batch.transpose(0, 2, 3, 1)}]}, recipe)
    return calibrator.get_model_qsvs()


def with_int8(content: bytes, ranges: dict, in_float=(), verbose: bool = False) -> bytes:
    """Return a float32 file's content in int8, but for the operators whose results have the names `in_float`."""
    with quiet(verbose):
        return rewritten(content, int8_recipe(in_float), ranges)


def int8_recipe(in_float=()):
    """Return ai_edge_quantizer's recipe; a result's name ends with a semicolon there."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    for name in (*CONVOLUTIONS, *INT8_OPERATORS):
        recipe.add_static_config(".*", TFLOperationName[name], activation_num_bits=8, weight_num_bits=8)
    names = [f"(^|;){re.escape(name)};" for name in sorted(in_float)]
    for pattern in (FLOAT_RESULTS, *(["|".join(names)] if names else [])):
        recipe.add_quantization_config(pattern, TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return recipe


def rewritten(content: bytes, recipe, ranges=None) -> bytes:
    """Return a .tflite file as a recipe of ai_edge_quantizer has it, with the calibrated ranges of its tensors."""
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(content, recipe.get_quantization_recipe())
    return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)


class LiteRtBackend(ExportedBackend):
    """A .tflite file on the CPU (XNNPACK). run() may be called by several threads, one waits for the other.

    Files without our metadata are taken for YOLOv5's: their boxes are fractions of the image, and int8 or uint8 ones
    have scales at input and output.
    """

    def __init__(self, path, device="", fp16: bool = False, fuse: bool = True, dnn: bool = False, threads: int = 0):
        interpreter_class = require("ai_edge_litert.interpreter", "litert", f"{path}:").Interpreter
        try:
            with quiet():
                self._interpreter = interpreter_class(str(path), num_threads=threads or physical_cores())
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not a LiteRT model, or one that cannot be run: {reason}") from None
        self._lock = threading.Lock()
        self._input, *others = self._interpreter.get_input_details()
        if others or len(self._input["shape"]) != 4:
            raise ValueError(f"{path}: expected one input of 4 dimensions, found {1 + len(others)} inputs")
        outputs = self._interpreter.get_output_details()
        self._outputs = sorted(outputs, key=lambda tensor: len(tensor["shape"]))  # LiteRT's order is any
        shape = sizes(self._input)
        self._channels_first = shape[1] == 3 and shape[3] != 3
        height, width = shape[2:] if self._channels_first else shape[1:3]
        metadata = read_appended(path)
        self._box_scale = None if metadata else np.float32([width, height, width, height])
        super().__init__(path, metadata or yolov5_metadata(path, [height, width], shape[0]))
        self.check_outputs(list(map(sizes, self._outputs)))
        self.warn_of_unused(device, fp16, dnn)

    def run(self, images: np.ndarray):
        images = images if self._channels_first else images.transpose(0, 2, 3, 1)
        with self._lock:
            self._interpreter.set_tensor(self._input["index"], quantized(images, self._input))
            self._interpreter.invoke()
            outputs = [dequantized(self._interpreter.get_tensor(t["index"]), t) for t in self._outputs]
        if self._box_scale is not None:
            outputs[0][..., :4] *= self._box_scale
        return one_or_tuple(outputs)


def sizes(tensor: dict) -> list:
    """Return the shape in a runtime's description of a tensor."""
    return [int(size) for size in tensor["shape"]]


def quantized(values: np.ndarray, tensor: dict) -> np.ndarray:
    """Return float32 values as the type of a runtime's tensor."""
    scale, zero = tensor["quantization"]
    if not scale:
        return values.astype(tensor["dtype"], copy=False)
    limits = np.iinfo(tensor["dtype"])
    return np.rint(values / np.float32(scale) + zero).clip(limits.min, limits.max).astype(tensor["dtype"])


def dequantized(values: np.ndarray, tensor: dict) -> np.ndarray:
    """Return the reverse of quantized()."""
    scale, zero = tensor["quantization"]
    values = values.astype(np.float32, copy=False)
    return (values - zero) * np.float32(scale) if scale else values


def yolov5_metadata(path, imgsz: list, batch: int) -> Metadata:
    """Metadata of a file that YOLOv5 wrote; without names if it has none."""
    import yaml

    try:
        values = yaml.safe_load(read_member(path, YOLOV5_MEMBER) or "{}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {YOLOV5_MEMBER} behind the model: not a YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping in {YOLOV5_MEMBER} behind the model, found {brief(values)}")
    return Metadata.from_dict({**values, "imgsz": imgsz, "batch": batch}, path)


def physical_cores() -> int:
    """Count the cores that this process may use; two that share one's units count once, where Linux tells."""
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return min(len({file.read_text() for file in siblings}) or usable_cores(), usable_cores())
