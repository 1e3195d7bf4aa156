"""Files of torch.save that claim more than they have, or hold what no checkpoint does: one line, quickly."""

import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SLOWNESS

from tests.extras.official.test_pickle_reader import STORAGE, a_dict, call, module_with, named, string, tensor
from tests.utils.test_checkpoint import make_checkpoint
from utils.checkpoint import load_checkpoint, load_state_dict_file, save_checkpoint
from utils.files.pickles import MAX_STEPS


def write(
    path: Path, data: bytes, compress: int = zipfile.ZIP_STORED, storage: bytes = np.float32(1).tobytes()
) -> None:
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + data + b".")
        archive.writestr("archive/data/0", storage)


def diamond(levels: int) -> bytes:
    """A list that holds the one before twice, and so on: 2 ** levels values in a few bytes."""
    first = b"]q\x00"
    return first + b"".join(b"0(h" + bytes([n]) + b"h" + bytes([n]) + b"lq" + bytes([n + 1]) for n in range(levels))


def number(n: int) -> bytes:
    data = n.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


HUGE = number(3 << 30)
CALL_MANY = call(named("_codecs", "encode"), b"h\x05", string("latin1")) + b"0"
BOMBS = {
    "a bytearray by its number": a_dict("model", call(named("builtins", "bytearray"), HUGE)),
    "a text that is longer than the file": a_dict("model", b"\x8d" + (1 << 40).to_bytes(8, "little") + b"x"),
    "bytes that are longer than the file": a_dict("model", b"\x8e" + (1 << 40).to_bytes(8, "little") + b"x"),
    "BYTEARRAY8": a_dict("model", b"\x96" + (1 << 40).to_bytes(8, "little")),
    "a tensor of stride 0": a_dict("model", tensor(b"K\x00", b"(" + HUGE + b"t", b"(K\x00t")),
    "a storage beyond its record": a_dict("model", STORAGE.replace(b"K\x01tQ", HUGE + b"tQ")),
    "a diamond": a_dict("names", diamond(60)),
    "a diamond in a model": a_dict("model", module_with(a_dict("names", diamond(60)))),
    "many copies of a long text": string("x" * 1_000_000) + b"q\x050" + CALL_MANY * 20_000 + b"}",
    "too many steps": b"N0" * MAX_STEPS + b"}",
    "a deep tuple as a key": b"}" + b")" + b"\x85" * 100_000 + b"Ns",
    "a deep tuple in a set": b"\x8f(" + b")" + b"\x85" * 100_000 + b"\x90",
    "two marks and no list": a_dict("model", b"0}q\x000(u"),
    "more values taken than there are": b"000",
    "a memo that was not filled": a_dict("model", b"h\x09"),
    "a state of another kind": a_dict("model", call(named("models.yolo", "Model")) + b"K\x01b"),
    "a function without its arguments": a_dict("model", call(named("torch._utils", "_rebuild_tensor_v2"))),
    "a list in itself": a_dict("model", b"]q\x01h\x01a"),
    "a large memo index": b"}r\xff\xff\xff\x7f" + b"X\x01\x00\x00\x00aK\x01s",
    "a whole number of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a numpy array of rows without values": a_dict(
        "model",
        module_with(a_dict("names", call(named("numpy.core.multiarray", "_reconstruct")) + b"(K\x01(" + HUGE + b"K\x00t"
                           + call(named("numpy", "dtype"), string("f4")) + b"\x89C\x00tb")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("load", [load_checkpoint, load_state_dict_file])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(tmp_path, name, load):
    write(tmp_path / "bomb.pt", BOMBS[name])
    start = time.process_time()
    with pytest.raises(ValueError, match=r"bomb\.pt: ") as caught:
        load(tmp_path / "bomb.pt")
    message = str(caught.value)
    assert time.process_time() - start < SLOWNESS and len(message) < 400 and "\n" not in message
    assert "out of range" not in message and "argument" not in message  # Python's own words help nobody.


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    write(tmp_path / "bomb.pt", a_dict("a", STORAGE), zipfile.ZIP_DEFLATED, bytes(50_000_000))
    with pytest.raises(ValueError, match="torch.save does not compress"):
        load_checkpoint(tmp_path / "bomb.pt")


def test_entries_that_share_their_bytes(tmp_path):
    """A directory may name one entry many times under other names, each as large as the file."""
    file = tmp_path / "bomb.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(1_000_000))
        entry = archive.infolist()[-1]
        for i in range(1, 100):
            copy = zipfile.ZipInfo(f"archive/data/{i}")
            copy.header_offset, copy.CRC = entry.header_offset, entry.CRC
            copy.file_size = copy.compress_size = entry.file_size
            archive.filelist.append(copy)
    with pytest.raises(ValueError, match="its entries claim 100,000,004 bytes, the file has"):
        load_checkpoint(file)


def test_an_expanded_tensor_of_an_official_file_is_a_view(tmp_path):
    write(tmp_path / "a.pt", a_dict("w", tensor(b"K\x00", b"(K\x09K\x09t", b"(K\x00K\x00t")))
    assert load_state_dict_file(tmp_path / "a.pt")["w"].shape == (9, 9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state_dict": [1, 2]}, "state_dict: expected named tensors, found list"),
        ({"state_dict": {"a": 1}}, "state_dict: expected named tensors"),
        ({"yaml": [1]}, "yaml: expected a dict"),
        ({"names": ["a", "b"]}, "names: expected a dict"),
        ({"names": {0: "a"}}, "expected a name for each of its 2 classes, found 1"),
        ({"nc": 0}, "expected a name for each of its 0 classes, found 2 names"),
        ({"nc": -1}, "nc: expected a whole number"),
        ({"nc": 10**9}, "nc: expected a whole number"),
        ({"nc": True}, "nc: expected a whole number"),
        ({"stride": ["x"]}, "stride: expected a list of numbers"),
        ({"imgsz": -5}, "imgsz: expected None or a whole number"),
        ({"imgsz": 10**9}, "imgsz: expected None or a whole number"),
        ({"task": 5}, "task: expected a word"),
        ({"epoch": "x"}, "epoch: expected a whole number"),
        ({"best_fitness": "x" * 10_000}, "best_fitness: expected None or a number, found str"),
        ({"opt": [1]}, "opt: expected None or a dict"),
        ({"state_dict": {"w": torch.tensor([1.0, float("nan")])}}, "1 of its 1 tensors hold NaN"),
        ({"state_dict": {"w": torch.tensor([1.0, float("inf")])}}, "1 of its 1 tensors hold NaN or infinite"),
    ],
)
def test_fields_of_another_kind(tmp_path, changes, words):
    save_checkpoint(tmp_path / "bad.pt", make_checkpoint(**changes))
    with pytest.raises(ValueError, match=rf"bad\.pt: {words}") as caught:
        load_checkpoint(tmp_path / "bad.pt")
    assert len(str(caught.value)) < 400


def test_weights_that_are_complex_or_whole_numbers(tmp_path, tiny_model_cfg):
    from models.yolo import DetectionModel

    model = DetectionModel(tiny_model_cfg)
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"model.0.conv.weight holds torch.int64, expected torch.float32"):
        model.load_checkpoint_state(state | {"model.0.conv.weight": state["model.0.conv.weight"].long()})
    save_checkpoint(tmp_path / "c.pt", make_checkpoint(state_dict={"w": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(ValueError, match=r"c\.pt: .*ComplexFloatStorage"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_variance_that_half_precision_cannot_hold_is_no_damage(tmp_path):
    state = {"bn.running_var": torch.tensor([1.0, float("inf")])}
    save_checkpoint(tmp_path / "a.pt", make_checkpoint(state_dict=state))
    assert load_checkpoint(tmp_path / "a.pt").state_dict["bn.running_var"][0] == 1
