"""Bounds on a TorchScript file's program, which is looked at before any of it runs.

Such a file is a program. torch.jit.load() runs a part of it, the first picture the rest, and among the operators are
ones that write files. A trace, as export.py and YOLOv5 write them, is a list of tensor operators without loops: those
are on a list. What passes is written anew from what was looked at, so that torch cannot read the file in another way.
"""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

from utils.files.pickles import Machine, Named, Rebuilt, UnsafeCheckpointError
from utils.files.tensors import TensorFile

MAX_CODE_BYTES = 32 << 20
MAX_BRACKETS = 64  # inside each other, in a program's text
MAX_LINE = 20_000  # characters
# Operators that compute tensors from tensors. A name with _ at its end changes its first argument.
OPERATORS = frozenset(
    "_convolution abs adaptive_avg_pool2d adaptive_max_pool2d add addmm amax amin arange argmax argsort avg_pool2d "
    "batch_norm baddbmm bitwise_and bmm cat ceil chunk clamp clamp_max clamp_min clone constant_pad_nd contiguous "
    "conv2d conv_transpose2d cos cumsum detach div dropout elu eq erf exp expand expand_as flatten flip floor "
    "floor_divide ge gelu group_norm gt hardsigmoid hardswish hardtanh index index_put index_select instance_norm "
    "layer_norm le leaky_relu linear log log_softmax logical_and logical_not logical_or lt masked_fill matmul max "
    "max_pool2d maximum mean meshgrid min minimum mish mul narrow ne neg nonzero pad permute pixel_shuffle "
    "pixel_unshuffle pow prelu reciprocal reflection_pad2d relu relu6 remainder repeat replication_pad2d reshape roll "
    "round rsqrt rsub scaled_dot_product_attention scatter searchsorted select select_scatter selu sigmoid silu sin "
    "size slice softmax softplus sort split split_with_sizes sqrt squeeze stack std sub sum t tanh to topk transpose "
    "type_as unbind unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var view "
    "view_as where".split()
)
OTHER_NAMES = ("ops.prim.NumToTensor", "ops.torchvision.nms", "torch.device")
CALLS = frozenset("annotate bool float getattr int len return and or in is".split())
WORD = re.compile(r"(?<![\w.])([A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)\s*(\(?)")
METHOD = re.compile(r"[\])\"'\d]\s*\.\s*([A-Za-z_][\w.]*)\s*(\(?)")
FORWARD = re.compile(r"forward\d*")
KEYWORDS = frozenset("async await del except exec for global if import lambda not raise try while with yield".split())
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


class _Object(Rebuilt):
    """A module of the program, without its state."""

    def set_state(self, state: Any) -> None:
        pass


def _find(module: str, name: str) -> Named:
    if module.split(".")[0] == "__torch__":
        return Named(f"{module}.{name}", lambda *_: _Object())
    if module == "torch.jit._pickle" and name in LISTS:
        return Named(f"{module}.{name}", lambda value, *_: value)
    raise UnsafeCheckpointError(f"its pickle names {module[:80]}.{name[:80]}")


def checked_copy(file: Path) -> io.BytesIO:
    """Return the program and its tensors as a file in memory that torch.jit.load() may read.

    UnsafeCheckpointError for what no trace has, ValueError for a file that is broken; without the file's name.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as out:
        infos = archive.infolist()
        _check_sizes(infos, file.stat().st_size)
        root = infos[0].filename.split("/")[0]
        kept = [info for info in infos if _is_needed(info.filename.removeprefix(f"{root}/"))]
        for info in kept:
            content = archive.read(info)
            if info.filename.endswith(".py"):
                check_program(content)
            out.writestr(zipfile.ZipInfo(info.filename), content)
        size = sum(info.file_size for info in kept)
        for pickle, folder in (("data.pkl", "data"), ("constants.pkl", "constants")):
            tensors = TensorFile(size, lambda key, _, f=folder: bytearray(archive.read(f"{root}/{f}/{key}")), _find)
            Machine(tensors.find, tensors.storage).run(io.BytesIO(archive.read(f"{root}/{pickle}")))
    copy.seek(0)
    return copy


def _is_needed(name: str) -> bool:
    """Tell whether running needs a member: not the positions in the exporter's source, nor extra files."""
    return name.removeprefix(".data/") in ("data.pkl", "constants.pkl", "version", "byteorder") or bool(
        re.fullmatch(r"(data|constants)/\d+|code/[\w/]+\.py", name)
    )


def _check_sizes(infos: list[zipfile.ZipInfo], size: int) -> None:
    names = [info.filename for info in infos]
    if len(set(names)) < len(names) or len({name.split("/")[0] for name in names}) != 1:
        raise ValueError("expected one folder in it, and each name once")
    stored = sum(info.file_size for info in infos if info.compress_type == zipfile.ZIP_STORED)
    packed = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
    if stored > size or packed > MAX_CODE_BYTES:
        raise ValueError(f"its members claim {stored + packed:,} bytes, the file has {size:,}")


def check_program(content: bytes) -> None:
    """Raise UnsafeCheckpointError unless the text of a program is that of a trace with known operators."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise UnsafeCheckpointError("its program is no ASCII text") from None
    text = re.sub(r"(?m)^class \w+\(Module\):$", "", text)
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MAX_LINE or re.search(r"\\|\*\*|-\s*-|[\])]\s*\(", text):
        raise UnsafeCheckpointError("its program is not written as a trace is")
    depth = 0
    for bracket in re.findall(r"[(\[{)\]}]", text):
        depth += 1 if bracket in "([{" else -1
        if depth > MAX_BRACKETS:
            raise UnsafeCheckpointError("its program is nested too deep")
    for word, call in WORD.findall(text):
        _check_word(re.sub(r"\s", "", word), call)
    for name, call in METHOD.findall(text):
        if call and not FORWARD.fullmatch(name.split(".")[-1]):
            raise UnsafeCheckpointError(f"its program calls {name[:80]}()")


def _check_word(word: str, call: str) -> None:
    first, last = word.split(".")[0], word.split(".")[-1]
    if first in ("torch", "ops"):
        known = first == "torch" and word.count(".") == 1 and last.rstrip("_") in OPERATORS
        if not known and word not in OTHER_NAMES:
            raise UnsafeCheckpointError(f"its program uses the operator {word[:80]}")
    elif first in KEYWORDS or "__setstate__" in word or "__getstate__" in word:
        raise UnsafeCheckpointError(f"its program uses '{word[:80]}', which no trace has")
    elif call and not (word in CALLS or FORWARD.fullmatch(last)):
        raise UnsafeCheckpointError(f"its program calls {word[:80]}()")
