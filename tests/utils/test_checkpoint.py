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


def test_weights_files(tmp_path):
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


@pytest.mark.parametrize(
    "name, make, error, message",
    [
        ("none.pt", None, FileNotFoundError, "weights file '.*none.pt' not found"),
        (
            "bad.safetensors",
            lambda path: path.write_bytes(b"nonsense"),
            ValueError,
            "its header claims 7,310,308,002,159,816,558 bytes",
        ),
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


def test_stripping_leaves_no_path_of_the_machine(tmp_path):
    secret = str(tmp_path / "secret")
    found = {"data": f"{secret}/a.yaml", "list": [f"{secret}/images/train/", "~/x/b", r"C:\x\c.pt"], "rate": 0.1}
    kept = {"data": "a.yaml", "list": ["train", "b", "c.pt"], "rate": 0.1}
    ckpt = replace(make_checkpoint(), opt=found, meta={"runs": found, "unit": "1/2", "file": "data/a.yaml"})
    save_checkpoint(tmp_path / "last.pt", ckpt)
    checkpoint.strip_optimizer(tmp_path / "last.pt")
    stripped = load_checkpoint(tmp_path / "last.pt")
    assert stripped.opt == kept and stripped.meta == {"runs": kept, "unit": "1/2", "file": "data/a.yaml"}
    assert b"secret" not in (tmp_path / "last.pt").read_bytes()


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
