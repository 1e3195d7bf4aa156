"""Fuzzing of everything that reads a file of the user's: python -m pytest -m fuzz, some minutes (FUZZ_SECONDS, 240).

Mutation starts from sound files, hypothesis from nothing. Whatever comes is read, or refused by ValueError or OSError
with one short line, within a second or two. An input that fails lies in the folder that the message names.
"""

import json
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.hyperparameters import load_hyp
from engine.task import DETECT
from engine.train.folder import RunFolder
from extras.evolve.search import read_trials
from models.backends.metadata import FIELDS, Metadata, read_appended, write_appended
from models.config import load_cfg
from tests.corpus import archive, containers, pickles
from tests.test_corpus import peak_mb
from tests.utils.test_checkpoint import make_checkpoint
from utils.checkpoint import load_checkpoint, load_state_dict_file, save_checkpoint
from utils.data.config import check_dataset
from utils.data.images import image_size, read_image
from utils.data.labels import parse_labels
from utils.files.yaml import load_yaml
from utils.plots.charts import read_results
from utils.sources.files import read_list

pytestmark = pytest.mark.fuzz
SECONDS = float(os.environ.get("FUZZ_SECONDS", 240))  # of all mutation; hypothesis takes about as long
EXAMPLES = int(SECONDS * 5)
MOST_SECONDS, MOST_MB, MOST_CHARACTERS = 3.0, 500, 1500  # An evolve.csv has 50 columns.
PIECES = [
    b"",
    b"\0",
    b"\xff" * 4,
    b"\x80",
    b"-1",
    b"9" * 30,
    b"1e999",
    b"nan",
    b"[[[[",
    b"{",
    b"&a [*a]",
    b"../",
    b"\n",
    b",",
]
PIECES += [struct.pack("<I", n) for n in (0, 1, 1 << 31, (1 << 32) - 1)] + [struct.pack(">I", 1 << 30)]


def labels(file: Path) -> None:
    parse_labels(file.read_bytes().decode("utf-8", "replace"), 80)


def seconds(file: Path) -> None:
    run = RunFolder(file.parent, DETECT)
    run.results_csv = file
    run.read_seconds(10)


def strings(file: Path) -> None:
    """Read lines of key=value as the metadata of an ONNX file."""
    lines = [line.partition("=") for line in file.read_bytes().decode("utf-8", "replace").splitlines()]
    Metadata.from_strings({key: value for key, _, value in lines}, file)


def data_file(file: Path) -> None:
    check_dataset(file, download=False, required=())


READERS: dict[str, tuple[str, list[Callable]]] = {
    "labels": ("txt", [labels]),
    "lists": ("txt", [read_list]),
    "YAML": ("yaml", [load_yaml, data_file, load_cfg, load_hyp]),
    "pictures": ("jpg", [image_size, read_image]),
    "checkpoints": ("pt", [load_checkpoint, load_state_dict_file]),
    "safetensors": ("safetensors", [load_state_dict_file]),
    "ONNX metadata": ("onnx", [strings]),
    "metadata behind a model": ("tflite", [read_appended]),
    "results.csv": ("csv", [read_results, seconds, read_trials]),
}


def seeds(name: str, folder: Path) -> list[bytes]:
    """Return sound files of a kind, and some of the corpus."""
    if name == "labels":
        return [b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.9 0.1 0.5 0.8\n", b"\xef\xbb\xbf2 0.5 0.5 1 1\r\n"]
    if name == "lists":
        return [b"# pictures\nimages/a.jpg\nhttps://host/b.png\n", "bäume/a.jpg\n".encode("utf-16")]
    if name == "YAML":
        files = [*Path("data").glob("*.yaml"), *Path("models").glob("*.yaml"), *Path("data/hyps").glob("*.yaml")]
        return [file.read_bytes() for file in files if file.stat().st_size < 5000]
    if name == "pictures":
        picture = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
        return [cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".jpg", ".png", ".tif", ".bmp", ".webp")]
    if name == "checkpoints":
        save_checkpoint(folder / "seed.pt", make_checkpoint())
        corpus = list(pickles().values())[::7]
        return [(folder / "seed.pt").read_bytes(), *containers(b"}").values(), *(archive(data) for data in corpus)]
    if name == "safetensors":
        save_file({"a.weight": torch.ones(3, 2), "b": torch.zeros(1, dtype=torch.int64)}, folder / "seed.safetensors")
        return [(folder / "seed.safetensors").read_bytes()]
    metadata = Metadata({0: "a", 1: "b"}, [8, 16], 32, [64, 64], model={"nc": 2})
    if name == "ONNX metadata":
        return [
            "\n".join(f"{key}={value}" for key, value in metadata.to_strings().items()).encode(),
            b"names={0: 'a'}\nstride=32",
        ]
    if name == "metadata behind a model":
        (folder / "seed.tflite").write_bytes(bytes(range(256)))
        write_appended(folder / "seed.tflite", metadata)
        return [(folder / "seed.tflite").read_bytes()]
    return [b"epoch,metrics/mAP_0.5,time\n0,0.5,1.5\n1,0.6,3\n", b'"a, b",time\n"x\ny",2\n']


def mutated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Return a copy of the data with one to eight changes."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 200))
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + size] = rng.choice(PIECES)
            case 2:
                data[at:at] = rng.choice(PIECES) * rng.choice((1, 1, 3, 1000))
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size]
            case 5:
                del data[at:]
            case 6:
                start = rng.randrange(len(other) + 1)
                data[at : at + size] = other[start : start + size]
    return bytes(data)


def check(read: Callable[[Path], object], file: Path) -> str:
    """Return "read" or "refused". AssertionError, with the file kept, for anything else."""
    start, before, problem, result = time.process_time(), peak_mb(), "", "read"
    try:
        read(file)
    except (ValueError, OSError) as error:
        result, text = "refused", str(error)
        if "\n" in text or not 0 < len(text) <= MOST_CHARACTERS:
            problem = f"no short line: {text[:300]!r}"
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
    took, more = time.process_time() - start, peak_mb() - before
    if not problem and (took > MOST_SECONDS or more > MOST_MB):
        problem = f"{took:.1f} seconds, {more:.0f} MB"
    if problem:
        kept = Path(mkdtemp(prefix="fuzz_")) / file.name
        kept.write_bytes(file.read_bytes())
        raise AssertionError(f"{read.__name__} of {kept}: {problem}")
    return result


@pytest.mark.parametrize("name", READERS)
def test_mutation(tmp_path, name, record_property):
    """A failure names the file; the same seed gives the same files."""
    suffix, readers = READERS[name]
    rng, counts, known = random.Random(0), Counter(), seeds(name, tmp_path)
    file, end = tmp_path / f"x.{suffix}", time.monotonic() + SECONDS / len(READERS)
    while time.monotonic() < end:
        file.write_bytes(mutated(rng, rng.choice(known), rng.choice(known)))
        counts.update(check(read, file) for read in readers)
    record_property("counts", f"mutation, {name}: {dict(counts)}")
    assert counts


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4)
)
NUMBERS = st.one_of(st.floats(), st.integers(), st.sampled_from(["", "-", "0x1", "1_0", "nan", "½", "1e5", "0.5"])).map(
    str
)
ROWS = st.lists(st.lists(NUMBERS | st.text(max_size=5), max_size=9), max_size=6)
KEYS = (
    "path train val names nc depth_multiple width_multiple anchors backbone head lr0 mosaic epochs imgsz batch".split()
)
TEXTS: dict[str, st.SearchStrategy[bytes]] = {
    "labels": ROWS.map(lambda rows: "\n".join(" ".join(row) for row in rows).encode("utf-8", "replace")),
    "lists": st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    "YAML": st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6).map(lambda tree: yaml.safe_dump(tree).encode()),
    "ONNX metadata": st.dictionaries(st.sampled_from([*FIELDS, "names", "task"]), TREES, max_size=6).map(
        lambda tree: "\n".join(f"{key}={json.dumps(value)}" for key, value in tree.items()).encode()
    ),
    "results.csv": ROWS.map(
        lambda rows: ("epoch,time\n" + "\n".join(",".join(row) for row in rows)).encode("utf-8", "replace")
    ),
    "pictures": st.binary(max_size=300),
    "checkpoints": st.binary(max_size=300).map(archive),
}


@pytest.mark.parametrize("name", TEXTS)
def test_hypothesis(tmp_path, name, record_property):
    suffix, readers = READERS[name]
    counts: Counter = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)
    @given(TEXTS[name])
    def read(data: bytes) -> None:
        (tmp_path / f"x.{suffix}").write_bytes(data)
        counts.update(check(reader, tmp_path / f"x.{suffix}") for reader in readers)

    read()
    record_property("counts", f"hypothesis, {name}: {dict(counts)}")
    assert counts
