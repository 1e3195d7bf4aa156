"""Checkpoints whose pickle wants to run something, or does not fit: refused by name, and nothing runs."""

import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from utils.checkpoint import UnsafeCheckpointError, load_checkpoint, load_state_dict_file

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
COMMAND = "touch marker"
PYTHON = "open('marker', 'w').close()"


def string(text):
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def named(module, name):
    """Push the object that the pickle names: STACK_GLOBAL, which takes dotted names."""
    return string(module) + string(name) + b"\x93"


def call(function, *args):
    return function + b"(" + b"".join(args) + b"tR"


def a_dict(key, value):
    return b"}" + string(key) + value + b"s"


def module_with(state):
    """A models.yolo.Model with the pickled `state`."""
    return named("models.yolo", "Model") + b")\x81" + state + b"b"


def tensor(offset, size, stride):
    return call(named("torch._utils", "_rebuild_tensor_v2"), STORAGE, offset, size, stride, b"\x89", b"}")


class Reduced:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


SYSTEM = call(named("os", "system"), string(COMMAND))
STORAGE = b"(" + string("storage") + named("torch", "FloatStorage") + string("0") + string("cpu") + b"K\x01tQ"
TENSOR = tensor(b"K\x00", b"(K\x01t", b"(K\x01t")
DOTTED = named("models.common", "os.system"), named("torch.nn.modules.module", "torch.os.system")
SET_CODE = named("torch._utils", "_rebuild_parameter") + a_dict("__code__", b"N") + b"b"
SET_MEMORY = TENSOR + b"(" + TENSOR + b"K\x00(K\x7ft(K\x01ttb"  # what Tensor.__setstate__ would give to set_()

# what it does, the pickle, what the message must name
RUNS_IN_PLAIN_PICKLE = [
    ("os.system by REDUCE", pickle.dumps({"model": Reduced(os.system, COMMAND)}), "(posix|nt).system"),
    ("eval", pickle.dumps({"model": Reduced(eval, PYTHON)}), "builtins.eval"),
    ("exec in protocol 0", pickle.dumps({"a": Reduced(exec, PYTHON)}, 0), "__builtin__.exec"),
    ("subprocess", pickle.dumps({"a": Reduced(subprocess.call, ["touch", "marker"])}), "subprocess.call"),
    ("as a dict key", b"}" + SYSTEM + b"K\x01s", "os.system"),
    ("a dotted name in torch.nn", a_dict("a", call(DOTTED[1], string(COMMAND))), "module.torch.os.system"),
    ("open", a_dict("a", call(named("builtins", "open"), string("marker"), string("w"))), "builtins.open"),
    ("INST of protocol 0", a_dict("a", b"(" + string(COMMAND) + b"ios\nsystem\n"), "os.system"),
    ("GLOBAL of protocol 0", a_dict("a", b"cos\nsystem\n(" + string(COMMAND) + b"tR"), "os.system"),
]
REFUSED = [
    *RUNS_IN_PLAIN_PICKLE,
    ("deep in a module's state", a_dict("model", module_with(a_dict("_modules", a_dict("0", SYSTEM)))), "os.system"),
    ("as the state for BUILD", a_dict("model", module_with(SYSTEM)), "os.system"),
    ("behind a good model", a_dict("model", module_with(b"}")) + string("z") + SYSTEM + b"s", "os.system"),
    ("OBJ of protocol 1", a_dict("a", b"(" + named("os", "system") + string(COMMAND) + b"o"), "os.system"),
    ("a dotted name in an allowed module", a_dict("a", call(DOTTED[0], string(COMMAND))), "models.common.os.system"),
    ("a module like an allowed one", a_dict("a", call(named("models.commons", "f"))), "models.commons.f"),
    ("a package like an allowed one", a_dict("a", call(named("torch.nn.modulesx", "f"))), "torch.nn.modulesx.f"),
    ("a download", a_dict("a", call(named("torch.hub", "load_state_dict_from_url"), string("http://x"))), "torch.hub"),
    ("torch.load of bytes", a_dict("a", call(named("torch.storage", "_load_from_bytes"), b"C\x00")), "_load_from_b"),
    ("getattr", a_dict("a", call(named("builtins", "getattr"), string("x"), string("y"))), "builtins.getattr"),
    ("importlib", a_dict("a", call(named("importlib", "import_module"), string("os"))), "importlib.import_module"),
    ("partial", a_dict("a", call(named("functools", "partial"), named("os", "system"))), "functools.partial"),
    ("pickle itself", a_dict("a", call(named("pickle", "loads"), b"C\x00")), "pickle.loads"),
    ("numpy.load", a_dict("a", call(named("numpy", "load"), string("x"))), "numpy.load"),
    ("altering an allowed function", a_dict("a", SET_CODE), "alter torch._utils._rebuild_parameter"),
    ("altering a tensor's memory", a_dict("a", SET_MEMORY), "alter a tensor"),
    ("altering a storage", a_dict("a", STORAGE + b"}b"), "alter a tensor storage"),
]


def write_checkpoint(path, data) -> bytes:
    """A zip file as torch.save lays it out, around the pickle `data` and a storage of one float; returns the pickle."""
    data = data if data.endswith(b".") else b"\x80\x04" + data + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", np.float32(1).tobytes())
        archive.writestr("archive/version", "3\n")
    return data


@pytest.mark.parametrize("data, name", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("load", [load_checkpoint, load_state_dict_file])
def test_refused_by_name_and_nothing_runs(tmp_path, monkeypatch, load, data, name):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "evil.pt", data)
    with pytest.raises(UnsafeCheckpointError, match=rf"evil\.pt: refused: .*{name}"):
        load(tmp_path / "evil.pt")
    assert os.listdir(tmp_path) == ["evil.pt"]


@pytest.mark.skipif(os.name != "posix", reason="the pickles use touch")
@pytest.mark.parametrize("data", [row[1] for row in RUNS_IN_PLAIN_PICKLE], ids=[row[0] for row in RUNS_IN_PLAIN_PICKLE])
def test_they_do_run_in_plain_pickle(tmp_path, data):
    """Otherwise the test above would prove nothing."""
    data = write_checkpoint(tmp_path / "evil.pt", data)
    code = "import sys, pickle; pickle.Unpickler(sys.stdin.buffer).load()"
    subprocess.run([sys.executable, "-c", code], input=data, cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "data, message",
    [
        (tensor(b"K\x00", b"(K\x02t", b"(K\x01t"), "exceeds its 1 elements"),  # two of one element
        (tensor(b"K\x01", b"(K\x01t", b"(K\x01t"), "exceeds"),  # begins behind the end
        (tensor(b"J\xff\xff\xff\xff", b"(K\x01t", b"(K\x01t"), "exceeds"),  # begins before the start
        (tensor(b"K\x00", b"(K\x01K\x01t", b"(K\x01t"), "exceeds"),  # a stride is missing
        (STORAGE.replace(string("0"), string("../../secret")), "no item named"),
        (STORAGE.replace(b"K\x01tQ", b"K\x09tQ"), "expected 36 bytes, found 4"),
        (string("x") + b"Q", "not a readable checkpoint"),  # a persistent id that is no storage
        (b"0", "not a readable checkpoint"),  # takes from an empty stack
        (b"\x82\x01", "not a readable checkpoint"),  # an extension that nobody registered
    ],
)
def test_a_pickle_that_does_not_fit_is_a_clear_error(tmp_path, data, message):
    write_checkpoint(tmp_path / "bad.pt", a_dict("a", data))
    with pytest.raises(ValueError, match=rf"bad\.pt: .*{message}"):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_model_that_contains_itself_is_an_error(tmp_path):
    state = a_dict("_modules", a_dict("m", b"h\x01"))  # entry 1 of the memo: the model
    data = named("models.yolo", "Model") + b")\x81q\x01" + state + b"b"
    write_checkpoint(tmp_path / "loop.pt", a_dict("model", data))
    with pytest.raises(ValueError, match="loop.pt: more than 100000 modules"):
        load_checkpoint(tmp_path / "loop.pt")


@pytest.mark.parametrize(
    "state, message",
    [
        (a_dict("names", b"K\x05"), "expected a model YAML and class names"),
        (a_dict("yaml", string("x")), "expected a model YAML and class names"),
        (a_dict("_modules", b"K\x05"), "bad.pt: "),
        (a_dict("_buffers", b"}K\x05" + TENSOR + b"s"), "bad.pt: "),  # a name that is no string
        (b"K\x05", "expected a dict as the state of models.yolo.Model, found int"),
    ],
)
def test_a_model_with_values_of_the_wrong_kind_is_a_clear_error(tmp_path, state, message):
    write_checkpoint(tmp_path / "bad.pt", a_dict("model", module_with(state)))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "bad.pt")
