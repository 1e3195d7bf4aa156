"""Runs the ML Program in a .mlpackage with torch's operators, operator by operator, where CoreML itself does not run.

Only what a detector's program holds is known; anything else is a KeyError. It follows the written file alone: the
operators, their types and their weights, so that a wrong conversion, weight or precision shows in the numbers.
"""

import numpy as np
import torch
import torch.nn.functional as F

from models.backends.coreml import load_coremltools
from models.backends.quiet import quiet

TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32}


def conv(a):
    x, pads = a["x"], a["pad"]
    x = F.pad(x, (pads[2], pads[3], pads[0], pads[1])) if a["pad_type"] == "custom" else x
    assert a["pad_type"] in ("custom", "valid")
    return F.conv2d(x, a["weight"], a.get("bias"), a["strides"], 0, a["dilations"], a["groups"])


def max_pool(a):
    assert a["pad_type"] in ("custom", "valid") and not a["ceil_mode"]
    top, bottom, left, right = a["pad"] if a["pad_type"] == "custom" else (0, 0, 0, 0)
    return F.max_pool2d(F.pad(a["x"], (left, right, top, bottom), value=-torch.inf), a["kernel_sizes"], a["strides"])


def slice_by_index(a):
    begin, end = a["begin"], a["end"]
    from_start, to_end = (a.get(key) or [False] * len(begin) for key in ("begin_mask", "end_mask"))
    index = [slice(None if s else b, None if t else e) for b, e, s, t in zip(begin, end, from_start, to_end)]
    return a["x"][tuple(index)]


def batch_norm(a):
    return F.batch_norm(a["x"], a["mean"], a["variance"], a.get("gamma"), a.get("beta"), eps=float(a["epsilon"]))


def dequantize(a):
    shape = [1] * a["quantized_data"].ndim
    shape[a["axis"]] = -1  # one scale, and maybe one zero point, for each channel
    scale = a["scale"].reshape(shape)
    zero = torch.as_tensor(a["zero_point"], dtype=scale.dtype).reshape(-1, *shape[1:])
    return (a["quantized_data"].to(scale.dtype) - zero) * scale


def matmul(a):
    x = a["x"].mT if a["transpose_x"] else a["x"]
    return x @ (a["y"].mT if a["transpose_y"] else a["y"])


def upsample(a):
    scale = (a["scale_factor_height"], a["scale_factor_width"])
    return F.interpolate(a["x"], scale_factor=tuple(float(factor) for factor in scale), mode="nearest")


OPERATORS = {
    "add": lambda a: a["x"] + a["y"],
    "sub": lambda a: a["x"] - a["y"],
    "mul": lambda a: a["x"] * a["y"],
    "real_div": lambda a: a["x"] / a["y"],
    "pow": lambda a: a["x"] ** a["y"],
    "sqrt": lambda a: a["x"].sqrt(),
    "sigmoid": lambda a: a["x"].sigmoid(),
    "silu": lambda a: F.silu(a["x"]),
    "gelu": lambda a: F.gelu(a["x"], approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[a["mode"]]),
    "softmax": lambda a: a["x"].softmax(a["axis"]),
    "reduce_mean": lambda a: a["x"].mean(list(a["axes"]), keepdim=a["keep_dims"]),
    "matmul": matmul,
    "linear": lambda a: F.linear(a["x"], a["weight"], a["bias"]),
    "conv": conv,
    "batch_norm": batch_norm,
    "max_pool": max_pool,
    "pixel_shuffle": lambda a: F.pixel_shuffle(a["x"], a["upscale_factor"]),
    "upsample_nearest_neighbor": upsample,
    "reshape": lambda a: a["x"].reshape(a["shape"]),
    "transpose": lambda a: a["x"].permute(a["perm"]),
    "concat": lambda a: torch.cat(a["values"], a["axis"]),
    "split": lambda a: a["x"].split(a["split_sizes"], a["axis"]),
    "slice_by_index": slice_by_index,
    "cast": lambda a: a["x"].to(TYPES[a["dtype"]]),
    "constexpr_affine_dequantize": dequantize,
}


class MilInterpreter:
    """Has what models.backends.coreml uses of coremltools.models.MLModel."""

    def __init__(self, path, compute_units=None):
        ct = load_coremltools()
        from coremltools.converters.mil.frontend.milproto.load import load

        with quiet():
            model = ct.models.model.MLModel(str(path), skip_model_load=True)
            self.specification = model.get_spec()
            program = load(self.specification, self.specification.specificationVersion, model.weights_dir)
        self.function = program.functions["main"]

    def get_spec(self):
        return self.specification

    @torch.no_grad()
    def predict(self, inputs: dict) -> dict:
        """{output: array} from {input: PIL image or array}, as MLModel.predict."""
        values = {}
        for name, value in inputs.items():
            array = np.asarray(value)
            if array.dtype == np.uint8:  # a picture; the scale is an operator of the program
                array = array.transpose(2, 0, 1)[None].astype(np.float32)
            values[self.function.inputs[name]] = torch.from_numpy(array.copy())
        for operation in self.function.operations:
            if operation.op_type == "const":
                continue
            arguments = {key: self._value(var, values) for key, var in operation.inputs.items() if var is not None}
            result = OPERATORS[operation.op_type](arguments)
            values.update(zip(operation.outputs, result if isinstance(result, (list, tuple)) else [result]))
        return {var.name: values[var].numpy() for var in self.function.outputs}

    def _value(self, var, values):
        """What an operator's argument holds: a tensor if it is one of floats, else a plain Python value."""
        if isinstance(var, (list, tuple)):
            return [self._value(one, values) for one in var]
        if var in values:
            return values[var]
        value = var.val
        if isinstance(value, np.ndarray):
            wanted = value.dtype.kind == "f" or value.dtype.itemsize == 1 and value.dtype.kind in "iu"
            return torch.from_numpy(value.copy()) if wanted else value.tolist()
        if isinstance(value, np.floating):
            return torch.from_numpy(np.asarray(value))
        return value.item() if isinstance(value, np.generic) else value
