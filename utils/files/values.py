"""The values that a checkpoint's fields may have, for files that others have written."""

from typing import Any

import torch

from utils.console.text import brief

MAX_CLASSES, MAX_PX = 1_000_000, 1 << 16  # Larger numbers are damage.
# field -> (what is expected, whether a value is that), for what other programs may have written
FIELDS = {
    "yaml": ("a dict", lambda value: isinstance(value, dict)),
    # A backbone that pretrain.py has taught has no class.
    "nc": (f"a whole number up to {MAX_CLASSES}", lambda value: type(value) is int and 0 <= value <= MAX_CLASSES),
    "names": (
        "a dict of class numbers and names",
        lambda value: isinstance(value, dict) and all(type(k) is int and type(v) is str for k, v in value.items()),
    ),
    "stride": ("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value))),
    "state_dict": (
        "named tensors",
        lambda value: (
            isinstance(value, dict) and all(type(k) is str and isinstance(v, torch.Tensor) for k, v in value.items())
        ),
    ),
    "imgsz": (
        f"None or a whole number of pixels up to {MAX_PX}",
        lambda value: value is None or (type(value) is int and 0 < value <= MAX_PX),
    ),
    **{
        name: ("None or a dict", lambda value: value is None or isinstance(value, dict))
        for name in ("hyp", "opt", "train_state")
    },
    "task": ("a word", lambda value: isinstance(value, str)),
    "epoch": ("a whole number", lambda value: type(value) is int),
    "best_fitness": ("None or a number", lambda value: value is None or _is_number(value)),
    "meta": ("a dict", lambda value: isinstance(value, dict)),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def problem_of(values: dict[str, Any]) -> str:
    """Return why a checkpoint with these fields cannot be used, or ""."""
    for name, (expected, fits) in FIELDS.items():
        value = values[name]
        if not fits(value):
            return f"{name}: expected {expected}, found {type(value).__name__} {brief(value)}"
    names, nc = values["names"], values["nc"]
    if len(names) != nc or not all(0 <= number < nc for number in names):
        return f"expected a name for each of its {nc} classes, found {len(names)} names, the first {brief(names)}"
    return unusable_tensors(values["state_dict"])


def unusable_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Return which tensors hold what no weight can be, complex numbers and NaN or, but for variances, Inf; or ""."""
    bad = [name for name, tensor in tensors.items() if tensor.is_complex()]
    if bad:
        return f"{len(bad)} of its {len(tensors)} tensors hold complex numbers, the first is {bad[0]}"
    bad = [name for name, tensor in tensors.items() if not _is_usable(name, tensor)]
    if bad:
        return f"{len(bad)} of its {len(tensors)} tensors hold NaN or infinite values, the first is {bad[0]}"
    return ""


def _is_usable(name: str, tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has weights: a variance that is too large for half precision only silences its channel."""
    if not tensor.is_floating_point():
        return True
    return not (tensor.isnan().any() if name.endswith("running_var") else (~tensor.isfinite()).any())


def same_kind(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether both tensors hold fractions or both do not."""
    return a.is_floating_point() == b.is_floating_point()
