"""Which layers a runtime does not take: those that it refuses to convert, and those that fall back to slower code."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from extras.latency.model import describe, random_model
from extras.latency.runtimes import Runtime
from models.backends.base import ExportSpec, require
from models.exportable import example_images, exportable
from utils.torch_utils import nested_tensors

ROW_OF_TENSOR = re.compile(r"_wrapped/[\w.]*?(\w+)_(\d+)[/;]")  # in litert_torch's names of tensors: kind and index


class RowModel(nn.Module):
    """One row of a model as a model of its own: the image only shifts the inputs, which the row got in the whole."""

    task = "detect"

    def __init__(self, row: nn.Module, inputs: list[torch.Tensor], names: dict):
        super().__init__()
        self.row, self.names, self.is_list = row, names, isinstance(row.f, list)
        for i, value in enumerate(inputs):
            self.register_buffer(f"input{i}", value, persistent=False)
        self.count = len(inputs)
        self.output_axes = {f"output{i}": {} for i in range(len(self(torch.zeros(1, 3, 32, 32))))}

    def forward(self, images):
        shift = images.mean()
        inputs = [getattr(self, f"input{i}") + shift for i in range(self.count)]
        return tuple(nested_tensors(self.row(inputs if self.is_list else inputs[0])))


def refused_rows(cfg, nc: int, size_px: int, runtime: Runtime) -> list[str]:
    """Return 'row 4 C3: why' for each row of a model file that the runtime's converter refuses by itself."""
    original = random_model(cfg, nc)
    model = exportable(original)
    metadata, spec = describe(original, size_px, "fp32"), ExportSpec(imgsz=(size_px, size_px))
    refused = []
    for row, inputs in rows_with_inputs(model, size_px):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"row{runtime.format.suffixes[0]}"
            try:
                runtime.format.module.export(RowModel(row, inputs, model.names), file, spec, metadata)
            except Exception as error:  # Any converter's; which one it is, is what is asked.
                text = next(iter(str(error).splitlines()), type(error).__name__)
                refused.append(f"row {row.i} {row.type}: {text.replace(f'{file}: ', '')}")
    return refused


def rows_with_inputs(model: nn.Module, size_px: int) -> list[tuple[nn.Module, list[torch.Tensor]]]:
    """Return each row of an exportable model with the maps that it gets for an image of noise."""
    found = []
    hooks = [
        row.register_forward_pre_hook(lambda row, args: found.append((row, [t.clone() for t in nested_tensors(args)])))
        for row in model.model
    ]
    model(example_images(1, (size_px, size_px)))
    for hook in hooks:
        hook.remove()
    return found


def litert_fallbacks(file: Path) -> list[str]:
    """Return 'row 0 EdgeViT: 5 MAX_POOL_2D' for each row with operators that XNNPACK leaves to LiteRT's own kernels.

    [] where this version of LiteRT does not tell.
    """
    interpreter = require("ai_edge_litert.interpreter", "litert", f"{file}").Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    if not hasattr(interpreter, "_get_ops_details"):
        return []
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    outputs = [tensor["index"] for tensor in interpreter.get_output_details()]
    left = [op for op in executed(interpreter._get_ops_details(), outputs) if op["op_name"] != "DELEGATE"]
    counts: Counter = Counter((row_of(names.get(int(op["outputs"][0]), "")), op["op_name"]) for op in left)
    by_row: dict = {}
    for ((index, kind), operator), count in sorted(counts.items()):
        by_row.setdefault(f"row {index} {kind}" if kind else "no row's", []).append(f"{count} {operator}")
    return [f"{row}: {', '.join(operators)}" for row, operators in by_row.items()]


def row_of(tensor_name: str) -> tuple[int, str]:
    """Return index and kind of the row that a tensor of a .tflite file comes from; (-1, '') where it is not known."""
    found = ROW_OF_TENSOR.search(tensor_name)
    return (int(found[2]), found[1]) if found else (-1, "")


def executed(operators: list[dict], outputs: list[int]) -> list[dict]:
    """Return the operators that are run: a delegate's one operator stands before those that it has taken over."""
    ordered = sorted(operators, key=lambda op: op["op_name"] == "DELEGATE")
    makers = {int(tensor): op for op in ordered for tensor in op["outputs"]}
    found, seen, waiting = {}, set(), list(map(int, outputs))
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor not in makers:
            continue
        seen.add(tensor)
        found[makers[tensor]["index"]] = makers[tensor]
        waiting += [int(source) for source in makers[tensor]["inputs"] if source >= 0]
    return list(found.values())
