"""A generator of files that mean harm, or claim what they do not hold, by kinds.

The names are those that the tests and lists of picklescan, fickling and modelscan look for; their packages carry none
of the files themselves. Nothing here can run: payloads name `canary` and would make that file.
"""

import copy
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import torch

from tests.extras.official.test_pickle_reader import (
    REFUSED,
    RUNS_IN_PLAIN_PICKLE,
    a_dict,
    call,
    module_with,
    named,
    string,
)
from tests.utils.files.test_tensors import BOMBS
from utils.checkpoint import Checkpoint, save_checkpoint

NAMES = (
    "posix.system os.system nt.system os.popen os.execv subprocess.run subprocess.Popen commands.getoutput "
    "pty.spawn builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.getattr builtins.globals "
    "builtins.open __builtin__.eval __builtin__.exec __builtin__.apply __builtin__.getattr __builtin__.globals "
    "__builtin__.compile runpy._run_code timeit.timeit profile.run profile.Profile.runctx trace.Trace.run bdb.Bdb "
    "pdb.run doctest.debug_script code.InteractiveInterpreter.runcode test.support.script_helper.assert_python_ok "
    "uuid._get_command_stdout venv.create pip.main ensurepip._run_pip pydoc.pipepager pydoc.locate "
    "pkgutil.resolve_name imaplib.IMAP4_stream webbrowser.open urllib.request.urlopen requests.api.get "
    "socket.create_connection ssl.get_server_certificate aiohttp.ClientSession httplib.HTTPSConnection ctypes.CDLL "
    "shutil.rmtree sys.exit sys.setrecursionlimit pickle.loads _pickle.loads operator.attrgetter "
    "operator.methodcaller _operator.itemgetter functools.partial types.CodeType types.FunctionType "
    "logging.FileHandler _io.FileIO distutils.file_util.write_file cloudpickle.cloudpickle._make_function "
    "idlelib.run.Executive.runcode idlelib.pyshell.ModifiedInterpreter.runcode _osx_support._read_output "
    "_aix_support._read_cmd_output _pyrepl.pager.pipe_pager numpy.testing._private.utils.runstring "
    "numpy.f2py.crackfortran.getlincoef numpy.load torch.load torch.hub.load torch.serialization.load "
    "torch.jit.load torch.utils.collect_env.run torch.utils.bottleneck.__main__.run_cprofile "
    "torch._inductor.codecache.compile_file torch._dynamo.guards.GuardBuilder.get "
    "torch.jit.unsupported_tensor_ops.execWrapper torch._utils._rebuild_tensor "
    "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression "
    "torch._utils._rebuild_meta_tensor_no_storage joblib.load sklearn.tree.Tree keras.layers.Lambda "
    "models.yolo.os.system models.common.torch.hub.load collections.Counter"
).split()
COMMAND = string("touch canary")


def pickles() -> dict[str, bytes]:
    """Return the pickles, without protocol and end, of all kinds that are to be refused."""
    kinds = {f"bomb {name}": data for name, data in BOMBS.items() if len(data) < 3_000_000}
    for name in NAMES:
        module, _, function = name.rpartition(".")
        kinds[f"call {name}"] = a_dict("model", call(named(module, function), COMMAND))
        kinds[f"state {name}"] = a_dict("model", module_with(a_dict("names", call(named(module, function), COMMAND))))
    kinds |= {f"text {name}": f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n".encode() for name in NAMES[:9]}
    for name, data, *_ in (*RUNS_IN_PLAIN_PICKLE, *REFUSED):
        kinds[f"refused {name}"] = data.removeprefix(b"\x80\x04").removesuffix(b".")
    return kinds


def archive(data: bytes, name: str = "archive/data.pkl", compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr(name, b"\x80\x02" + data + b".")
        file.writestr("archive/data/0", struct.pack("<f", 1))
    return buffer.getvalue()


def containers(data: bytes) -> dict[str, bytes]:
    """Return one pickle in other and in broken wrappings."""
    whole = archive(data)
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    flags = bytearray(whole)
    flags[6] |= 1  # encrypted, says the local header
    crc = bytearray(whole)
    crc[14:18] = b"abcd"
    return {
        "a pickle alone": b"\x80\x02" + data + b".",
        "before torch 1.6": start + b"\x80\x02" + data + b"." + pickle.dumps([], 2),
        "before torch 1.6, other number": pickle.dumps(7, 2) + b"\x80\x02" + data + b".",
        "a truncated zip": whole[:-30],
        "a zip behind text": b"#!/bin/sh\n" + whole,
        "a zip with text behind it": whole + bytes(100),
        "a zip said to be encrypted": bytes(flags),
        "a zip of another checksum": bytes(crc),
        "a packed zip": archive(data, compression=zipfile.ZIP_DEFLATED),
        "a pickle of another name": archive(data, "archive/data.pickle"),
        "a pickle that leads out": archive(data, "../../data.pkl"),
        "TorchScript's name": archive(data, "archive/constants.pkl"),
        "7z": b"7z\xbc\xaf'\x1c" + data,
        "tar": b"archive/data.pkl".ljust(257, b"\0") + b"ustar\x0000" + bytes(2000),
        "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128)
        + data
        + b".",
        "HDF5": b"\x89HDF\r\n\x1a\n" + data,
        "HTML": b"<!DOCTYPE html><html>Not Found</html>",
        "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "nothing": b"",
        "zeros": bytes(10_000),
        "one letter": b"P",
    }


def trees(cfg: dict) -> dict[str, dict]:
    """Return model descriptions that no model has, from one that is right."""

    def changed(row=None, **values) -> dict:
        new = copy.deepcopy(cfg) | values
        if row:
            new["backbone"][2] = row
        return new

    return {
        "depth": changed(depth_multiple=1e9),
        "width": changed(width_multiple=40),
        "classes": changed(nc=10**9),
        "rows": changed(backbone=[[-1, 1, "Conv", [8]]] * 100_000),
        "repeats": changed([-1, 10**9, "C3", [24]]),
        "kernel": changed([-1, 1, "Conv", [24, 100_001, 2]]),
        "padding": changed([-1, 1, "nn.ZeroPad2d", [100_000]]),
        "upsampling": changed([-1, 1, "nn.Upsample", [None, 5000, "nearest"]]),
        "a name of Python's": changed([-1, 1, "os.system", ["touch canary"]]),
        "an argument to be evaluated": changed([-1, 1, "Conv", ["__import__('os').system('touch canary')"]]),
        "a long argument": changed([-1, 1, "Conv", ["[" * 100_000]]),
        "a row that is none": changed([1]),
        "from a row that is not there": changed([99, 1, "Conv", [24]]),
        "no head": changed(head=[]),
        "text for rows": changed(backbone="x" * 1_000_000),
    }


def write_checkpoints(folder: Path, cfg: dict, step: int = 1) -> list[Path]:
    """Write the files that are to be refused as checkpoints, every `step`-th pickle and wrapping; return the paths."""
    from models.yolo import DetectionModel

    files = {name: archive(data) for name, data in pickles().items()}
    files |= {f"wrapped as {name}": data for name, data in containers(a_dict("a", b"N")).items()}
    payload = a_dict("model", call(named("os", "system"), COMMAND))
    files |= {f"payload as {name}": data for name, data in containers(payload).items()}
    paths = []
    for number, data in enumerate(list(files.values())[::step]):
        paths.append(folder / f"{number:03d}.pt")
        paths[-1].write_bytes(data)
    state = DetectionModel(cfg).state_dict()
    first = next(iter(state))
    states = {
        "NaN": state | {first: state[first] * float("nan")},
        "Inf": state | {first: state[first] / 0},
        "complex": state | {first: state[first].to(torch.complex64)},
        "whole numbers": state | {first: state[first].long()},
        "another shape": state | {first: state[first][:1]},
        "none": {},
        "a part": {first: state[first]},
        "values": {first: 1.0},
        "a list": [1, 2],
    }
    good = {"yaml": cfg, "names": {0: "a", 1: "b"}, "nc": 2, "stride": [8.0, 16.0], "state_dict": state}
    fields = [{"state_dict": value} for value in states.values()] + [{"yaml": tree} for tree in trees(cfg).values()]
    fields += [{"names": {}}, {"names": {0: 1, 1: 2}}, {"nc": -1}, {"stride": []}, {"stride": ["x"]}, {"task": "x"}]
    fields += [{"task": "segment"}, {"imgsz": 10**9}, {"yaml": {}}, {"names": {0: "a", 5: "b"}}, {"stride": [0.0, 0.0]}]
    for number, change in enumerate(fields):
        paths.append(folder / f"field{number:02d}.pt")
        save_checkpoint(paths[-1], Checkpoint(**{**good, **change}))
    return paths


def write_yamls(folder: Path, cfg: dict) -> list[Path]:
    """Write YAML files that are to be refused, as a data file and as a model file; return the paths."""
    head = "path: .\ntrain: images/train\nval: images/val\nnames: [a, b]\n"
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*{'a' if i == 0 else f'b{i - 1}'}, *a]\n" for i in range(60))
    doubled = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    texts = {
        "an alias bomb": doubled + f"{head}names: *a59\n",
        "a long chain": bomb + "names: 5\n",
        "deep": "names: " + "[" * 20_000,
        "deep mappings": "names: " + "{a: " * 20_000,
        "in itself": "names: &a [*a]\n",
        "Python's objects": "names: !!python/object/apply:os.system ['touch canary']\n",
        "an unknown tag": "names: !x 1\n",
        "a long value": f"names: {'x' * 1_000_000}\n",
        "many names": f"nc: 2\n{head.replace('[a, b]', json.dumps([str(i) for i in range(30_000)]))}",
        "no mapping": "- a\n- b\n",
        "zeros": "\0" * 1000,
        "tabs": "\tnames:\t[a\n",
        "a key twice": "names: 1\nnames: 2\n",
        "digits": f"nc: {'9' * 5000}\nnames: 3\n",
        "nothing": "",
    }
    paths = []
    for number, text in enumerate(texts.values()):
        paths.append(folder / f"bad{number:02d}.yaml")
        paths[-1].write_text(text)
    for number, tree in enumerate(trees(cfg).values()):
        paths.append(folder / f"model{number:02d}.yaml")
        paths[-1].write_text(json.dumps(tree))
    return paths
