"""utils.checkpoint and the reader of official files: our format, official pickles, and hostile pickles."""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, needs_shared

from utils import checkpoint
from utils.checkpoint import Checkpoint, load_checkpoint, load_state_dict_file, save_checkpoint
from utils.general import main_guard

OFFICIAL = SHARED / "weights" / "yolov5n.pt"


def make_checkpoint(**changes) -> Checkpoint:
    weights = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7
    values = {
        "yaml": {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": []},
        "names": {0: "box", 1: "disc"},
        "nc": 2,
        "stride": [8.0, 16.0],
        "state_dict": {"model.0.conv.weight": weights, "model.0.bn.num_batches_tracked": torch.tensor(3)},
        "imgsz": 64,
        "hyp": {"lr0": 0.01},
        "opt": {"data": "data/shapes.yaml", "freeze": [0]},
        "epoch": 4,
        "best_fitness": 0.25,
        "train_state": {"rng": (1, (2, 3)), "optimizer": {"state": {0: {"momentum": weights + 1}}}},
        "meta": {"licence": "Apache-2.0"},
    }
    return Checkpoint(**{**values, **changes})


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


def test_what_is_saved_is_loaded(tmp_path):
    saved = make_checkpoint()
    save_checkpoint(tmp_path / "a.pt", saved)
    assert_equal(vars(saved), vars(load_checkpoint(tmp_path / "a.pt")))
    assert os.listdir(tmp_path) == ["a.pt"]
    torch.load(tmp_path / "a.pt", weights_only=True)  # no more than tensors and plain data


def test_equal_content_gives_equal_bytes(tmp_path):
    """Also under another file name, after a round trip, and where objects are shared in one and equal in the other."""
    word = "".join(["SG", "D"])  # another object than the literal below
    tensor = torch.ones(4)
    shared = make_checkpoint(
        opt={"a": word, "b": word}, train_state={"x": tensor, "y": tensor, "part": torch.ones(9)[:4]}
    )
    apart = make_checkpoint(
        opt={"a": "SGD", "b": "".join(["S", "GD"])},
        train_state={"x": torch.ones(4), "y": torch.ones(4), "part": torch.ones(4)},
    )
    save_checkpoint(tmp_path / "a.pt", shared)
    save_checkpoint(tmp_path / "another_name.pt", apart)
    save_checkpoint(tmp_path / "again.pt", load_checkpoint(tmp_path / "a.pt"))
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1 and len(list(tmp_path.iterdir())) == 3


def test_equal_bytes_from_another_process(tmp_path):
    code = (
        "from tests.utils.test_checkpoint import make_checkpoint, save_checkpoint; import sys;"
        "save_checkpoint(sys.argv[1], make_checkpoint())"
    )
    path = [str(ROOT), str(ROOT / "tests")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other.pt")], cwd=ROOT, env=env, check=True)
    save_checkpoint(tmp_path / "mine.pt", make_checkpoint())
    assert (tmp_path / "other.pt").read_bytes() == (tmp_path / "mine.pt").read_bytes()


def test_numbers_and_paths_become_plain(tmp_path):
    save_checkpoint(
        tmp_path / "a.pt", make_checkpoint(best_fitness=np.float64(0.5), opt={"data": ROOT, "n": np.int64(3)})
    )
    ckpt = load_checkpoint(tmp_path / "a.pt")
    assert_equal([ckpt.best_fitness, ckpt.opt], [0.5, {"data": str(ROOT), "n": 3}])


@pytest.mark.parametrize("value", [np.ones(2), {1, 2}, object(), torch.nn.Linear(1, 1), b"x"])
def test_a_value_that_is_no_plain_data_is_named(tmp_path, value):
    with pytest.raises(TypeError, match=r"checkpoint\['train_state'\]\['deep'\]\[1\]: .*found " + type(value).__name__):
        save_checkpoint(tmp_path / "a.pt", make_checkpoint(train_state={"deep": [0, value]}))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_file(tmp_path):
    """A real limit of 20 kB for a file makes the system refuse the rest, as a full disk does."""
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path / "last.pt", make_checkpoint())
    old = (tmp_path / "last.pt").read_bytes()
    big = make_checkpoint(state_dict={"w": torch.zeros(100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"cannot write .*last\.pt: File too large; the old file is still whole; .* 0\.4 MB"
        ):
            save_checkpoint(tmp_path / "last.pt", big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["last.pt"] and (tmp_path / "last.pt").read_bytes() == old


def _html(path):
    path.write_text("<!DOCTYPE html><html>not found</html>")


def _truncated(path):
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(path.read_bytes()[:-30])


def _changed_byte(path):
    save_checkpoint(path, make_checkpoint(state_dict={"w": torch.arange(1000.0)}))
    data = bytearray(path.read_bytes())
    data[data.find(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(data)


def _legacy(path):
    torch.save(make_checkpoint(), path, _use_new_zipfile_serialization=False)


def _weights_alone(path):
    torch.save({"conv.weight": torch.ones(1)}, path)


def _future_format(path):
    torch.save({"format": "yolov5-edgevit 9"}, path)


def _incomplete(path):
    torch.save({"format": checkpoint.FORMAT, "yaml": {}}, path)


def _other_module(path):
    torch.save({"model": torch.nn.Sequential(torch.nn.Linear(1, 1))}, path)


def _torchscript(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"")


def _other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: path.write_bytes(b""), "expected a checkpoint, found an empty file"),
        (lambda path: path.write_bytes(bytes(range(256))), "found something else"),
        (_html, "found an HTML or XML page"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
        (_truncated, "damaged or incomplete checkpoint"),
        (_changed_byte, "damaged checkpoint: wrong checksum of archive/data/0"),
        (_legacy, "a pickle in the format before torch 1.6; save it again"),
        (_weights_alone, "expected a checkpoint with its model YAML, found weights alone: conv.weight"),
        (_future_format, "expected format 'yolov5-edgevit 1', found 'yolov5-edgevit 9'"),
        (_incomplete, "the checkpoint lacks names, nc, stride"),
        (_other_module, "expected a YOLOv5 model, found torch.nn.modules.container.Sequential"),
        (_torchscript, "found a TorchScript model"),
        (_other_zip, "no data.pkl"),
        (lambda path: torch.save([1, 2], path), "expected a dict in the checkpoint, found list"),
        (lambda path: torch.save({"model": None, "ns": argparse.Namespace()}, path), "expected a pickled YOLOv5 model"),
        (lambda path: path.mkdir(), "expected a checkpoint file, found a folder"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_is(tmp_path, make, message):
    path = tmp_path / "file.pt"
    make(path)
    with pytest.raises(ValueError, match=rf"file\.pt: .*{message}"):
        load_checkpoint(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights '.*nope.pt' not found"):
        load_checkpoint(tmp_path / "nope.pt")


@needs_shared
def test_official_checkpoint():
    """The published YOLOv5n: v6, class Model, names as list, half precision."""
    ckpt = load_checkpoint(OFFICIAL)
    buffers = ("running_mean", "running_var", "num_batches_tracked", "anchors")
    assert sum(v.numel() for k, v in ckpt.state_dict.items() if not k.endswith(buffers)) == 1_872_157
    assert len(ckpt.state_dict) == 349
    assert (list(ckpt.state_dict)[0], ckpt.stride, ckpt.nc) == ("model.0.conv.weight", [8.0, 16.0, 32.0], 80)
    assert ckpt.state_dict["model.24.anchors"].shape == (3, 3, 2)
    assert ckpt.state_dict["model.0.conv.weight"].dtype == torch.float16
    assert (ckpt.names[0], ckpt.names[79], len(ckpt.names)) == ("person", "toothbrush", 80)
    assert ckpt.yaml["width_multiple"] == 0.25 and ckpt.yaml["head"][-1][2] == "Detect" and ckpt.hyp["lr0"] == 0.01
    assert ckpt.task == "detect" and 0.2 < ckpt.best_fitness < 0.4 and ckpt.train_state is None


@needs_shared
def test_convert_and_info_commands(tmp_path):
    """The same weights come out, our reader takes the result, and converting twice gives the same bytes."""

    command = [sys.executable, "-m", "utils.checkpoint", "convert", str(OFFICIAL), str(tmp_path / "a.pt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "80 (person, bicycle" in done.stdout, done.stderr
    a, b = load_checkpoint(OFFICIAL), load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.state_sha256(a.state_dict) == checkpoint.state_sha256(b.state_dict)
    save_checkpoint(tmp_path / "b.pt", b)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert checkpoint.describe(tmp_path / "a.pt") == done.stdout.strip()


def test_commands_say_what_is_missing(tmp_path, capsys):
    assert main_guard(checkpoint.main, checkpoint.parse_opt(["info", str(tmp_path / "none.pt")])) == 1
    assert capsys.readouterr().err == f"error: weights '{tmp_path / 'none.pt'}' not found\n"
    with pytest.raises(SystemExit):
        checkpoint.parse_opt([])
    assert "usage: python -m utils.checkpoint" in capsys.readouterr().err


# Makes pickles like those of YOLOv5 v6 and v7, with classes of its own under YOLOv5's names.
WRITE_LIKE_YOLOV5 = """
import argparse, pathlib, sys, types
import numpy as np, torch
from torch import nn

folder = pathlib.Path(sys.argv[1])
for name in ("models", "models.yolo", "models.common"):
    sys.modules[name] = types.ModuleType(name)

def published(module):
    def register(cls):
        cls.__module__ = module
        cls.__qualname__ = cls.__name__
        setattr(sys.modules[module], cls.__name__, cls)
        return cls
    return register

@published("models.common")
class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.SiLU()

@published("models.yolo")
class Detect(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.ones(1, 3, 2))
        self.register_buffer("anchor_grid", torch.ones(1, 1, 3, 1, 1, 2))
        self.register_buffer("secret", torch.ones(1), persistent=False)
        self.m = nn.ModuleList([nn.Conv2d(4, 21, 1)])
        self.grid = [torch.zeros(1)]

class Base(nn.Module):
    def __init__(self, names, fill):
        super().__init__()
        self.model = nn.Sequential(Conv(), Detect())
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [4]]], "head": [[-1, 1, "Detect", ["nc", "anchors"]]]}
        self.names, self.nc, self.stride = names, 2, torch.tensor([8.0])
        self.hyp = {"lr0": np.float64(0.01)}
        self.class_weights = torch.ones(2, dtype=torch.float64)
        nn.init.constant_(self.model[0].conv.weight, fill)

Model = published("models.yolo")(type("Model", (Base,), {}))
DetectionModel = published("models.yolo")(type("DetectionModel", (Base,), {}))
SegmentationModel = published("models.yolo")(type("SegmentationModel", (DetectionModel,), {}))
names = {0: "a", 1: "b"}
files = {
    "v6": {"epoch": -1, "best_fitness": np.array([0.5]), "model": Model(["a", "b"], 1).half(), "ema": None,
           "updates": None, "optimizer": None, "wandb_id": None},
    "v7": {"epoch": 3, "best_fitness": np.float64(0.5), "model": DetectionModel(names, 1),
           "ema": DetectionModel(names, 2).half(), "updates": 10, "opt": {"imgsz": 416, "save_dir": "runs/x"},
           "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
           "git": {"remote": None}, "date": "2023-01-01T00:00:00"},
    "namespace": {"epoch": np.int64(3), "best_fitness": torch.tensor(0.5), "model": DetectionModel(names, 1),
                  "opt": argparse.Namespace(imgsz=416, save_dir=pathlib.Path("runs/x"), tags={1},
                                            t=(1, torch.float16, torch.Size([1])))},
    "segment": {"epoch": 3, "best_fitness": None, "model": SegmentationModel(names, 1)},
}
for name, content in files.items():
    torch.save(content, folder / f"{name}.pt")
torch.save(files["v7"], folder / "protocol4.pt", pickle_protocol=4)
torch.save({"model": Model(["a"], 3).state_dict(), "args": argparse.Namespace(lr=1)}, folder / "timm_like.pth")
"""


NAMESPACE = {"imgsz": 416, "save_dir": "runs/x", "tags": [1], "t": [1, "float16", [1]]}


@pytest.fixture(scope="module")
def yolov5_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolov5")
    subprocess.run([sys.executable, "-c", WRITE_LIKE_YOLOV5, str(folder)], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    "name, fill, dtype, expected",
    [
        # names as a list, class Model, an array as fitness
        ("v6", 1, torch.float16, {"epoch": -1, "best_fitness": 0.5, "imgsz": None, "opt": None, "task": "detect"}),
        # names as a dict; the EMA goes before the model
        ("v7", 2, torch.float16, {"epoch": 3, "best_fitness": 0.5, "imgsz": 416, "task": "detect"}),
        ("protocol4", 2, torch.float16, {"epoch": 3, "best_fitness": 0.5, "imgsz": 416, "task": "detect"}),
        # a Namespace with a path, a set and torch's own values; no EMA
        ("namespace", 1, torch.float32, {"opt": NAMESPACE, "epoch": 3, "best_fitness": 0.5}),
        ("segment", 1, torch.float32, {"task": "segment", "best_fitness": None}),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_yolov5_variants(yolov5_files, name, fill, dtype, expected):
    ckpt = load_checkpoint(yolov5_files / f"{name}.pt")
    assert {key: getattr(ckpt, key) for key in expected} == expected
    assert ckpt.names == {0: "a", 1: "b"} and ckpt.nc == 2 and ckpt.stride == [8.0] and ckpt.hyp == {"lr0": 0.01}
    assert list(ckpt.state_dict) == [
        "model.0.conv.weight",
        *(f"model.0.bn.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        "model.1.anchors",  # but neither anchor_grid nor the buffer that is not persistent
        "model.1.m.0.weight",
        "model.1.m.0.bias",
    ]
    weight = ckpt.state_dict["model.0.conv.weight"]
    assert weight.dtype == dtype and torch.equal(weight, torch.full((4, 3, 1, 1), float(fill), dtype=dtype))
    save_checkpoint(yolov5_files / "ours.pt", ckpt)  # everything in it is plain data
    assert_equal(vars(ckpt), vars(load_checkpoint(yolov5_files / "ours.pt")))


def test_reading_imports_and_builds_nothing(yolov5_files):
    """In a process where the module names of the pickle do not even exist."""
    code = (
        "import sys; from utils.checkpoint import load_checkpoint; before = set(sys.modules);"
        "load_checkpoint(sys.argv[1]); new = set(sys.modules) - before;"
        "assert not any(name.startswith('models') for name in new), new"
    )
    subprocess.run([sys.executable, "-c", code, str(yolov5_files / "v7.pt")], cwd=ROOT, check=True)


def test_weights_files(tmp_path, yolov5_files):
    from safetensors.torch import save_file

    weights = {"conv.weight": torch.arange(4.0), "conv.bias": torch.ones(1)}
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "model": weights}, tmp_path / "model.pth")
    torch.save({"state_dict": {"model": weights}}, tmp_path / "nested.pth")
    torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "a.safetensors")
    save_checkpoint(tmp_path / "ours.pt", make_checkpoint(state_dict=weights))
    assert len(list(tmp_path.iterdir())) == 6
    for path in sorted(tmp_path.iterdir()):
        found = load_state_dict_file(path)
        assert set(found) == set(weights), path
        assert all(torch.equal(found[k], v) for k, v in weights.items()), path
    assert "model.0.conv.weight" in load_state_dict_file(yolov5_files / "v7.pt")  # a pickled model
    assert "model.0.conv.weight" in load_state_dict_file(yolov5_files / "timm_like.pth")  # with a Namespace beside it


@pytest.mark.parametrize(
    "name, make, error, message",
    [
        ("none.pt", None, FileNotFoundError, "weights file '.*none.pt' not found"),
        ("bad.safetensors", lambda path: path.write_bytes(b"nonsense"), ValueError, "not a readable .safetensors file"),
        ("empty.pt", lambda path: torch.save({"epoch": 1}, path), ValueError, "expected named tensors, found epoch"),
    ],
)
def test_weights_files_that_cannot_be_read(tmp_path, name, make, error, message):
    if make:
        make(tmp_path / name)
    with pytest.raises(error, match=message):
        load_state_dict_file(tmp_path / name)


def test_intersect_dicts():
    a = {"x": torch.ones(2), "anchors": torch.ones(1), "shape": torch.ones(3), "only_a": torch.ones(1)}
    b = {"x": torch.zeros(2), "anchors": torch.zeros(1), "shape": torch.zeros(4), "only_b": torch.zeros(1)}
    assert list(checkpoint.intersect_dicts(a, b)) == ["x", "anchors"]
    assert list(checkpoint.intersect_dicts(a, b, exclude=["anchor"])) == ["x"]
    assert checkpoint.intersect_dicts(a, b)["x"] is a["x"]


@pytest.mark.parametrize("out", [None, "small.pt"])
def test_strip_optimizer(tmp_path, out):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint())
    old = path.read_bytes()
    checkpoint.strip_optimizer(path, tmp_path / out if out else None)
    ckpt = load_checkpoint(tmp_path / (out or "last.pt"))
    assert ckpt.train_state is None and ckpt.epoch == 4
    assert [v.dtype for v in ckpt.state_dict.values()] == [torch.float16, torch.int64]
    assert (path.read_bytes() == old) == bool(out)  # the original stays where another target is given


def test_stripping_keeps_values_that_are_too_large_for_float16(tmp_path):
    path, large = tmp_path / "last.pt", torch.tensor([1.0, 70_000.0])
    save_checkpoint(path, replace(make_checkpoint(), state_dict={"bn.running_var": large, "bn.weight": torch.ones(2)}))
    checkpoint.strip_optimizer(path)
    stripped = load_checkpoint(path).state_dict
    assert torch.equal(stripped["bn.running_var"], large) and stripped["bn.weight"].dtype == torch.float16


def test_state_sha256_sees_names_types_shapes_and_values():
    base = {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.bfloat16)}
    other = [
        {"a": torch.ones(3, 2), "b": base["b"]},
        {"a": torch.ones(2, 3), "c": base["b"]},
        {"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.float16)},
        {"a": torch.ones(2, 3), "b": torch.ones((), dtype=torch.bfloat16)},
    ]
    digests = {checkpoint.state_sha256(state) for state in [base, *other]}
    assert len(digests) == 5
    assert checkpoint.state_sha256(dict(reversed(base.items()))) == checkpoint.state_sha256(base)
    assert checkpoint.state_sha256({}) == hashlib.sha256().hexdigest()
