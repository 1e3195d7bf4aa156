"""TorchScript files that do more than compute tensors: refused before a part of them runs, unless they are trusted."""

import zipfile
from pathlib import Path

import pytest
import torch

from models.backends import DetectMultiBackend
from models.backends.torchscript_check import check_program
from tests.models.backends.test_torchscript import YoloV5Like
from utils.files.pickles import UnsafeCheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")
FORWARD = "class M(Module):\n  def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:\n    {}\n    return x\n"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ('torch.save(x, "f")', "torch.save"),
        ('torch . save(x, "f")', "torch.save"),
        ('torch\n.save(x, "f")', "torch.save"),
        ('(torch).save(x, "f")', "operator torch"),
        ('y = torch.save\n    y(x, "f")', "torch.save"),
        ('ops.aten.save(x, "f")', "ops.aten.save"),
        ('y = torch.from_file("f", False, 9)', "torch.from_file"),
        ("y = torch.as_strided(x, [99], [1], 0)", "torch.as_strided"),  # reads behind the tensor's end
        ("y = torch.empty([9])", "torch.empty"),  # shows what was in memory
        ('y = getattr(ops, "aten")', "operator ops"),
        ('y = getattr(x, "save")("f")', "not written as a trace"),
        ('(x).save("f")', r"calls save\(\)"),
        ('x.save("f")', r"calls x.save\(\)"),
        ('"x".format("f")', r"calls format\(\)"),
        ('print("x")', r"calls print\(\)"),
        ("while True:\n      pass", "'while'"),
        ("for i in x:\n      pass", "'for'"),
        ("y = torch.add\\\n(x, x)", "not written as a trace"),
        ("y = " + "(" * 5000 + "x" + ")" * 5000, "nested too deep"),
        ("y = " + "-" * 5000 + "1", "not written as a trace"),
        ("y = x  # \xe9", "no ASCII"),
        ("return x\n  def __setstate__(self: __torch__.M, s: Tensor) -> NoneType:\n    x = s", "__setstate__"),
    ],
)
def test_programs_that_no_trace_is(statement, words):
    with pytest.raises(UnsafeCheckpointError, match=words):
        check_program(FORWARD.format(statement).encode("latin1"))


def test_a_program_of_known_operators():
    check_program(FORWARD.format("y = torch.add_((self.conv).forward1(x, ), CONSTANTS.c0)").encode())


class Writer(torch.nn.Module):
    """Runs, and writes a file."""

    def __init__(self, file: str):
        super().__init__()
        self.file = file

    def forward(self, x):
        torch.save(x, self.file)
        return x.flatten(2).transpose(1, 2).repeat(1, 1, 2)


def write_writer(folder: Path) -> Path:
    """A file whose program writes `marker`; written with the parts that torch.jit offers, without its compiler."""
    file = folder / "writer.torchscript"
    torch.jit.save(torch.jit.trace(YoloV5Like(), torch.zeros(1, 3, 8, 8)), folder / "plain.torchscript")
    with zipfile.ZipFile(folder / "plain.torchscript") as source, zipfile.ZipFile(file, "w") as out:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith(".py"):
                marker = f'    torch.save(x, "{folder / "marker"}")\n'.encode()
                head, body = content.split(b"-> Tuple[Tensor]:\n")
                content = head + b"-> Tuple[Tensor]:\n" + marker + body
            out.writestr(zipfile.ZipInfo(info.filename), content)
    return file


def test_a_file_that_writes_is_not_run(tmp_path):
    file = write_writer(tmp_path)
    with pytest.raises(UnsafeCheckpointError, match=r"writer\.torchscript: its program uses .*--trust-torchscript"):
        DetectMultiBackend(file, device="cpu")
    assert not (tmp_path / "marker").exists()
    DetectMultiBackend(file, device="cpu", trust_torchscript=True)(torch.zeros(1, 3, 8, 8))
    assert (tmp_path / "marker").exists()  # else the test would prove nothing


@pytest.mark.parametrize("cut", [30, 300, 900])
def test_a_cut_file_is_one_line(tmp_path, cut):
    torch.jit.save(torch.jit.trace(YoloV5Like(), torch.zeros(1, 3, 8, 8)), tmp_path / "a.torchscript")
    data = (tmp_path / "a.torchscript").read_bytes()
    (tmp_path / "a.torchscript").write_bytes(data[:-cut])
    with pytest.raises(ValueError, match=r"a\.torchscript: expected a TorchScript file"):
        DetectMultiBackend(tmp_path / "a.torchscript", device="cpu")
