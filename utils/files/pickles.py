"""A stack machine for pickles: plain data comes out; nothing that a pickle names is imported, and nothing is run.

A pickle is a program. This machine knows the steps that build values, calls a fixed list of functions of ours, and
takes a limited number of steps. utils/files/tensors.py reads files with it.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import torch

MAX_STEPS = 500_000  # in one file: half a second, and twice as many as the largest YOLOv5 checkpoint has
CHARACTERS_A_STEP = 64  # in the price of a call
SCALARS = (str, int, float, bool, type(None))


class UnsafeCheckpointError(ValueError):
    """The pickle names something outside the allow-list. Nothing of it ran."""


class Named(NamedTuple):
    """The answer to a name in a pickle: a function that it may call, or, where that is no function, a value."""

    name: str
    value: Any


class Rebuilt:
    """Something whose state the pickle may set. A subclass says how."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class PlainDict(dict, Rebuilt):
    """An OrderedDict of a file, without the attributes that it may carry."""

    def set_state(self, state: Any) -> None:
        pass


class Machine:
    """A stack machine for one file's pickles. find(module, name) returns a Named, storage(pid) a 1-D tensor.

    ValueError, with a reason, for a pickle that does not fit, UnsafeCheckpointError for one that tries to alter what it
    is given; any other error for one that is damaged.
    """

    def __init__(self, find: Callable[[str, str], Named], storage: Callable[[Any], torch.Tensor]):
        self.find, self.storage = find, storage
        self.steps = 0

    def run(self, file: BinaryIO) -> Any:
        """Return the value of the pickle that begins here; the file stands behind it afterwards."""
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, Any] = {}
        while (code := file.read(1)) != b".":
            self.steps += 1
            if self.steps > MAX_STEPS or code not in OPCODES:
                self.spend(0)
                raise ValueError("its pickle is cut or takes a step that no checkpoint needs")
            read, step = OPCODES[code]
            step(self, read(file) if read else None)
        return self.stack.pop()

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise ValueError(f"its pickle takes more than {MAX_STEPS:,} steps to read")

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _) -> None:
        self.stack.pop()

    def gather(self, count: int | None) -> None:
        """Replace the newest `count` values, or with None those since the mark, by a tuple of them."""
        if count is None:
            items = self.since_mark()
        else:
            items = [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def gather_list(self, _) -> None:
        self.stack.append(self.since_mark())

    def gather_dict(self, _) -> None:
        items = self.since_mark()
        self.stack.append({})
        self._update(items)

    def gather_set(self, _) -> None:
        self.stack.append(scalar_set(self.since_mark()))

    def append(self, _) -> None:
        self._extend([self.stack.pop()])

    def extend(self, _) -> None:
        self._extend(self.since_mark())

    def _extend(self, items: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError(f"expected a list to append to, found {_kind(self.stack[-1])}")
        self.stack[-1].extend(items)

    def add(self, _) -> None:
        items = self.since_mark()
        if not isinstance(self.stack[-1], set):
            raise ValueError(f"expected a set to add to, found {_kind(self.stack[-1])}")
        self.stack[-1].update(scalar_set(items))

    def set_item(self, _) -> None:
        items = [self.stack.pop() for _ in range(2)][::-1]
        self._update(items)

    def set_items(self, _) -> None:
        self._update(self.since_mark())

    def _update(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError(f"expected a dict to fill, found {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, SCALARS):
                raise ValueError(f"expected a string or number as a dict's key, found {_kind(key)}")
            target[key] = value

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def name(self, text: str) -> None:
        self.stack.append(self.find(*text.split(" ", 1)))

    def name_on_stack(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.find(str(module), str(name)))

    def call(self, _) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self._call(function, args)

    def call_marked(self, _) -> None:
        function, *args = self.since_mark()
        self._call(function, tuple(args))

    def call_named(self, text: str) -> None:
        self._call(self.find(*text.split(" ", 1)), tuple(self.since_mark()))

    def _call(self, function: Any, args: Any) -> None:
        if not isinstance(function, Named) or not callable(function.value) or not isinstance(args, tuple):
            raise ValueError(f"expected a call, found {_kind(function)}")
        self.spend(sum(_price(arg) for arg in args))
        self.stack.append(function.value(*args))

    def build(self, _) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Rebuilt):
            raise UnsafeCheckpointError(f"refused: the pickle tries to alter {_kind(target)}")
        target.set_state(state)

    def load_storage(self, _) -> None:
        self.stack.append(Storage(self.storage(self.stack.pop())))


class Storage(NamedTuple):
    """The storage of tensors in a file, as a 1-D tensor."""

    tensor: torch.Tensor


def _kind(value: Any) -> str:
    """Return what messages call a value on the stack."""
    if isinstance(value, Named):
        return value.name
    kinds = {Storage: "a tensor storage", torch.Tensor: "a tensor"}
    return kinds.get(type(value), type(value).__name__)


def _price(value: Any) -> int:
    """Return the steps that a call pays for an argument, which it may copy."""
    if isinstance(value, (str, bytes)):
        return len(value) // CHARACTERS_A_STEP
    return len(value) if isinstance(value, (list, tuple, dict, set)) else 1


def scalar_set(items: Any = ()) -> set:
    """Return a set of strings and numbers: a deep tuple among them would overflow the stack of the processor."""
    if not all(isinstance(item, SCALARS) for item in items):
        raise ValueError("expected strings and numbers in a set")
    return set(items)


LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(LITERALS, lambda machine, value: machine.stack.append(value)),
    **{name: lambda machine, _, value=value: machine.stack.append(value) for name, value in CONSTANTS.items()},
    **{"MARK": Machine.mark, "POP": Machine.pop, "POP_MARK": lambda machine, _: machine.since_mark()},
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "TUPLE": Machine.gather,
    **{f"TUPLE{n}": lambda machine, _, n=n: machine.gather(n) for n in (1, 2, 3)},
    **{"LIST": Machine.gather_list, "DICT": Machine.gather_dict, "FROZENSET": Machine.gather_set},
    **{"APPEND": Machine.append, "APPENDS": Machine.extend, "ADDITEMS": Machine.add},
    **{"SETITEM": Machine.set_item, "SETITEMS": Machine.set_items},
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.recall),
    **{"GLOBAL": Machine.name, "STACK_GLOBAL": Machine.name_on_stack, "INST": Machine.call_named},
    **{"REDUCE": Machine.call, "NEWOBJ": Machine.call, "OBJ": Machine.call_marked},
    **{"BUILD": Machine.build, "BINPERSID": Machine.load_storage},
}
# byte -> (the reader of its argument or None, the step)
OPCODES = {
    opcode.code.encode("latin1"): (opcode.arg.reader if opcode.arg else None, STEPS[opcode.name])
    for opcode in pickletools.opcodes
    if opcode.name in STEPS
}
