"""utils.general: YAML, finding files, run folders, atomic writes, sizes, seeds, weights, the guard around main()."""

import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import general
from utils.general import ROOT, chosen_weights, with_pt

BAD_YAML = [
    ("", r":1: expected 'key: value' lines, found an empty file"),
    ("# only a comment\n", r":1: .*empty file"),
    ("- a\n- b\n", r":1: .*found a list"),
    ("just words\n", r":1: .*found a str"),
    ("a: 1\nb: [1, 2\nc: 3\n", r":3: not valid YAML"),  # the list is never closed
    ("a: 1\n\tb: 2\n", r":2: not valid YAML"),  # a tab
    ("a: 1\nb: 2\na: 3\n", r":3: not valid YAML: key 'a' occurs twice, first on line 1"),
    ("a:\n  x: 1\n  x: 2\n", r":3: .*'x' occurs twice"),  # also in a nested mapping
    ("a: !!python/object/apply:os.getcwd []\n", r":1: not valid YAML"),  # no objects
]


@pytest.mark.parametrize("text, message", BAD_YAML)
def test_bad_yaml_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml" + message):
        general.load_yaml(path)


def test_yaml_that_is_not_utf8(tmp_path):
    (tmp_path / "bad.yaml").write_bytes("a: ä".encode("latin1"))
    with pytest.raises(ValueError, match="bad.yaml:1: expected UTF-8 text"):
        general.load_yaml(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),  # what plain PyYAML reads as a string
        ("-2E+4", -20000.0),
        ("1.5e2", 150.0),
        ("0.01", 0.01),
        ("1e", "1e"),  # no number
        ("e3", "e3"),
        ("12", 12),
        ("'1e-3'", "1e-3"),  # quoted: a string
    ],
)
def test_yaml_numbers(tmp_path, text, value):
    (tmp_path / "n.yaml").write_text(f"x: {text}\n")
    found = general.load_yaml(tmp_path / "n.yaml")["x"]
    assert found == value and type(found) is type(value)


def test_yaml_merge_keys_may_be_overridden(tmp_path):
    (tmp_path / "m.yaml").write_text("base: &b {a: 1, c: 2}\nrow:\n  <<: *b\n  a: 3\n")
    assert general.load_yaml(tmp_path / "m.yaml")["row"] == {"a": 3, "c": 2}


def test_yaml_keeps_order_and_converts_what_yaml_does_not_know(tmp_path):
    mapping = {"z": 1, "a": [0.5, {"path": ROOT, "n": np.float32(2)}], "word": "Größe", "t": (1, None)}
    general.save_yaml(tmp_path / "s.yaml", mapping)
    loaded = general.load_yaml(tmp_path / "s.yaml")
    assert list(loaded) == list(mapping)
    assert loaded == {"z": 1, "a": [0.5, {"path": str(ROOT), "n": 2.0}], "word": "Größe", "t": [1, None]}


@pytest.fixture
def small_root(tmp_path, monkeypatch):
    """A root with models/a.yaml, models/hub/b.yaml and c.yaml in two places; the working folder is elsewhere."""
    root = tmp_path / "root"
    for name in ("models/a.yaml", "models/hub/b.yaml", "models/c.yaml", "data/sub/c.yaml", "top.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"x: {name}\n")
    monkeypatch.setattr(general, "ROOT", root)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "here.yaml").write_text("x: 1\n")
    monkeypatch.chdir(tmp_path / "cwd")
    return root


@pytest.mark.parametrize(
    "name, found",
    [
        ("here.yaml", None),  # in the working folder: as given
        ("top.yaml", "top.yaml"),  # in the root
        ("models/a.yaml", "models/a.yaml"),  # a path from the root
        ("a.yaml", "models/a.yaml"),  # a bare name
        ("b.yaml", "models/hub/b.yaml"),  # a bare name, deeper
    ],
)
def test_find_file(small_root, name, found):
    assert general.find_file(name).resolve() == (small_root / found if found else small_root.parent / "cwd" / name)


@pytest.mark.parametrize(
    "name, message",
    [
        ("c.yaml", r"'c.yaml' is ambiguous: models/c.yaml, data/sub/c.yaml"),
        ("bb.yaml", r"'bb.yaml' not found .* did you mean b.yaml"),
        ("nothing-like-it.txt", r"'nothing-like-it.txt' not found"),
        ("hub/b.yaml", r"not found .* did you mean b.yaml"),  # a path must be whole
    ],
)
def test_find_file_that_is_not_there(small_root, name, message):
    with pytest.raises(FileNotFoundError, match=message):
        general.find_file(name)


def test_check_yaml_refuses_another_suffix(small_root):
    assert general.check_yaml("a.yaml") == small_root / "models/a.yaml"
    with pytest.raises(ValueError, match=r"'a.txt': expected a file name ending in .yaml or .yml"):
        general.check_yaml("a.txt")


def test_increment_path(tmp_path):
    first = general.increment_path(tmp_path / "exp", mkdir=True)
    second = general.increment_path(tmp_path / "exp", mkdir=True)
    third = general.increment_path(tmp_path / "exp")  # only names it
    assert [first.name, second.name, third.name] == ["exp", "exp2", "exp3"] and not third.exists()
    assert general.increment_path(tmp_path / "exp", sep="_").name == "exp_2"
    assert general.increment_path(tmp_path / "exp", exist_ok=True, mkdir=True) == tmp_path / "exp"
    (tmp_path / "a.txt").touch()
    assert general.increment_path(tmp_path / "a.txt").name == "a2.txt"
    assert general.increment_path(tmp_path / "new" / "deep", mkdir=True).is_dir()


def test_increment_path_gives_every_concurrent_run_its_own_folder(tmp_path):
    barrier = threading.Barrier(8)

    def start(_):
        barrier.wait()
        return general.increment_path(tmp_path / "exp", mkdir=True)

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(start, range(8)))
    assert len(set(folders)) == 8 and all(folder.is_dir() for folder in folders)


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "f.bin"
    general.write_atomic(path, b"old")
    general.write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f.bin"]


def test_write_atomic_into_a_folder_that_is_missing(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*no/f.bin.*no file was written"):
        general.write_atomic(tmp_path / "no" / "f.bin", b"x")


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 1e5), st.integers(1, 512))
def test_make_divisible(x, divisor):
    result = general.make_divisible(x, divisor)
    assert result % divisor == 0 and x <= result < x + divisor


@pytest.mark.parametrize(
    "size, stride, floor, expected, warns",
    [
        (640, 32, 0, 640, False),
        (641, 32, 0, 672, True),  # up, never down
        ([320, 330], 32, 0, [320, 352], True),  # a list stays a list
        ((64, 64), 64, 0, [64, 64], False),
        (32, 32, 64, 64, True),  # the floor counts as a change
        (np.int64(640), torch.tensor(32.0), 0, 640, False),  # stride as models keep it
    ],
)
def test_check_img_size(caplog, monkeypatch, size, stride, floor, expected, warns):
    monkeypatch.setattr(general.LOGGER, "propagate", True)
    assert general.check_img_size(size, stride, floor) == expected
    assert bool(caplog.records) == warns
    assert not warns or (f"smaller than {floor}" in caplog.text) == (size == 32)


@pytest.mark.parametrize("size", [0, -32, [640, 0]])
def test_check_img_size_refuses_what_is_no_size(size):
    with pytest.raises(ValueError, match="expected positive numbers of pixels, found"):
        general.check_img_size(size)


def test_one_cycle():
    ramp = general.one_cycle(1.0, 0.1, 10)
    values = [ramp(x) for x in range(11)]
    assert values[0] == 1.0 and values[5] == pytest.approx(0.55) and values[10] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)


def test_init_seeds_repeats_all_three_generators():
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        general.init_seeds(seed)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    random.setstate(saved[0]), np.random.set_state(saved[1]), torch.set_rng_state(saved[2])
    assert draws[0] == draws[1] and not set(draws[0]) & set(draws[2])


def test_latest_run_is_the_newest_below_the_working_folder(small_root):
    assert general.latest_run() is None
    assert general.default_weights() == general.EMBEDDED_WEIGHTS
    cwd = small_root.parent / "cwd"
    # the one of another folder is newer still, but not of the runs that are made here
    runs = (cwd / "runs/train/a", 100), (cwd / "runs/train/b", 300), (small_root / "runs/train/c", 400)
    for folder, seconds in runs:
        for name in ("last.pt", "best.pt"):
            (folder / "weights").mkdir(parents=True, exist_ok=True)
            (folder / "weights" / name).touch()
            os.utime(folder / "weights" / name, (seconds, seconds))
    newest = cwd / "runs/train/b/weights"
    assert general.latest_run() == newest / "last.pt" and general.default_weights() == newest / "best.pt"


def test_class_and_image_weights():
    labels = [np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]), np.array([[1, 0, 0, 1, 1]]), np.zeros((0, 5))]
    weights = general.labels_to_class_weights(labels, nc=3)
    assert weights == pytest.approx([0.2, 0.4, 0.4])  # class 2 never occurs and counts once
    assert general.labels_to_image_weights(labels, 3, weights) == pytest.approx([0.4, 0.4, 0])
    assert general.labels_to_image_weights(labels, 3) == pytest.approx([2, 1, 0])
    assert general.labels_to_class_weights([], nc=2) == pytest.approx([0.5, 0.5])


def test_coco_category_ids():
    ids = general.coco80_to_coco91_class()
    assert len(ids) == 80 and ids[0] == 1 and ids[-1] == 90 and ids[11] == 13  # person, toothbrush, stop sign


class _Terminal:
    def isatty(self):
        return True


def test_colorstr_only_on_a_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert general.colorstr("red", "bold", "x") == "x"
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert general.colorstr("red", "bold", "x") == "\033[31;1mx\033[0m"
    assert general.colorstr("x") == "\033[34;1mx\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert general.colorstr("red", "x") == "x"


def test_profile_adds_up():
    profile = general.Profile()
    with profile:
        sum(range(1000))
    first = profile.t
    with profile:
        sum(range(1000))
    assert first > 0 and profile.dt > 0 and profile.t == first + profile.dt


def test_file_size_in_mb(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 2**20)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b").write_bytes(b"x" * 2**19)
    assert general.file_size(tmp_path / "a") == 1 and general.file_size(tmp_path) == 1.5


def test_names_that_moved_come_from_their_owners():
    from utils import boxes
    from utils.general import scale_boxes, xywh2xyxy

    assert scale_boxes is boxes.scale_boxes and xywh2xyxy is boxes.xywh2xyxy
    for name in general.MOVED:
        assert callable(getattr(general, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = general.nonsense


GUARD = """
import sys
from utils.general import main_guard, load_yaml
import {module} as m
sys.exit(main_guard(m.main))
"""


def run_guarded(tmp_path, body, name="scratch_main", env=()):
    """Run a main() of `body` under main_guard in a fresh process."""
    imports = "import json\nfrom utils.general import find_file, load_yaml"
    (tmp_path / f"{name}.py").write_text(f"{imports}\n\n\ndef main():\n    {body}\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", **dict(env)}
    code = GUARD.format(module=name)
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)


@pytest.mark.parametrize(
    "body, code, line",
    [
        ("return 3", 3, ""),  # main's own exit code
        ("return None", 0, ""),
        ("load_yaml('missing.yaml')", 1, "error: missing.yaml: no such file"),
        ("find_file('zzz')", 1, "error: file 'zzz' not found"),
        ("import sys; sys.exit(5)", 5, ""),
        ("raise KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_main_guard_turns_user_errors_into_one_line(tmp_path, body, code, line):
    done = run_guarded(tmp_path, body)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(line) and len(done.stderr.splitlines()) == (1 if line else 0)


@pytest.mark.parametrize(
    "body, env, error",
    [
        ("json.loads('{')", {}, "JSONDecodeError"),  # a ValueError, but of a library: a bug, not the user's input
        ("[][1]", {}, "IndexError"),
        ("load_yaml('missing.yaml')", {"YOLOV5_TRACEBACK": "1"}, "FileNotFoundError"),  # asked for
    ],
)
def test_main_guard_keeps_the_traceback_of_bugs(tmp_path, body, env, error):
    done = run_guarded(tmp_path, body, env=env)
    assert done.returncode == 1 and "Traceback" in done.stderr and error in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("best", "best.pt"),  # lies beside
        ("yolov5s", "yolov5s.pt"),
        ("weights/yolov5m6-seg", "weights/yolov5m6-seg.pt"),
        ("best.onnx", "best.onnx"),
        ("folder", "folder"),
        ("anything", "anything"),
    ],
)
def test_the_suffix_of_weights_may_be_left_away(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.pt").touch()
    (tmp_path / "folder").mkdir()
    assert str(with_pt(name)) == expected and [str(file) for file in chosen_weights(name)] == [expected]
