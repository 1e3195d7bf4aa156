"""utils/files/yaml.py: what is no YAML, or would be too much of it, is refused at once and in one line."""

import time

import pytest
from conftest import SLOWNESS

from engine.hyperparameters import load_hyp
from utils.data.config import check_dataset
from utils.files.yaml import load_yaml


def laughs(levels: int) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


REFUSED = [
    (laughs(9) + "names: *l8\n", "aliases lead to more than", "nine lists of nine, 4e8 values"),
    ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 999)), "nested", "a chain of aliases"),
    ("a: &a [*a]\n", "undefined alias|nested", "a list within itself"),
    ("a: &a\n  b: *a\n", "undefined alias|nested", "a mapping within itself"),
    (f"names: {'[' * 4000}{']' * 4000}\n", "nest", "brackets in brackets"),
    ("a: " + "- " * 3000 + "x\n", "not valid YAML|nest", "lists in lists"),
    (f"nc: {'9' * 9000}\n", "not valid YAML", "a number that Python refuses to read"),
    ("? [a, b]\n: 1\n", "not valid YAML", "a list as a key"),
    ("a: !!python/object/apply:os.system [x]\n", "not valid YAML", "a tag that would run something"),
    ("a: 2000-99-99\n", "not valid YAML", "a day that there is not"),
    ("<<: 3\n", "not valid YAML", "a merge of a number"),
    ("a: !!int x\n", "not valid YAML", "no number behind its tag"),
    ("a: !!int ''\n", "not valid YAML", "nothing behind its tag"),
    ("a\0b: 1\n", "zero bytes", "a binary file"),
    ("a: 1\na: 2\n", "occurs twice, first on line 1", "a key twice"),
    ("", "empty file", "nothing"),
    ("- 1\n", "found a list", "no mapping"),
]


@pytest.mark.parametrize("text,reason,proves", REFUSED, ids=[row[2] for row in REFUSED])
def test_refused_at_once_in_one_line(tmp_path, text, reason, proves):
    file = tmp_path / "data.yaml"
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match=reason) as error:
        load_yaml(file)
    assert time.process_time() - start < SLOWNESS
    message = str(error.value)
    assert message.startswith(str(file)) and len(message) < 300 + len(str(file)) and "\n" not in message


def test_aliases_of_a_sensible_number_are_read(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("a: &a {x: 1e-3}\nb:\n  <<: *a\n  y: [*a, *a]\n")
    assert load_yaml(file) == {"a": {"x": 0.001}, "b": {"x": 0.001, "y": [{"x": 0.001}] * 2}}


BASE = "path: .\ntrain: a.txt\nval: a.txt\n"
TOO_MUCH = [
    ("names: [" + "[" * 50 + "]" * 50 + "]\n", "class 0 reads as"),
    (f"names: {{{', '.join(f'{i * 2}: {i}' for i in range(3000))}}}\n", "keys 0 to 2999"),
    (f"names: {'n' * 500_000}\n", "a list or a mapping"),
    (f"names: [{'n' * 500_000}]\n", "class 0 has more than 200 characters"),
    ("nc: 1000000000\n", "at most 100,000 classes"),
    (f"names: [a]\nnc: {'9' * 4000}\n", "at most 100,000 classes"),
    (f"names: [a]\nepochs: {'9' * 4000}\n", "'epochs' must be"),
    ("names: [a]\nimgsz: 1000000000000\n", "'imgsz' must be"),
    (f"names: [a]\nbatch: [{', '.join('1' * 9999)}]\n", "'batch' must be"),
    (f"names: [a]\ntest: [{'7, ' * 9999}]\n", "'test' must be"),
]


@pytest.mark.parametrize("text,reason", TOO_MUCH, ids=[row[1] for row in TOO_MUCH])
def test_data_that_cannot_be_meant_are_refused_in_a_line(tmp_path, text, reason):
    (tmp_path / "a.txt").write_text("a.jpg\n")
    (tmp_path / "data.yaml").write_text(BASE + text)
    start = time.process_time()
    with pytest.raises(ValueError, match=reason) as error:
        check_dataset(tmp_path / "data.yaml")
    assert len(str(error.value)) < 400 + len(str(tmp_path)) and time.process_time() - start < SLOWNESS


@pytest.mark.parametrize(
    "text", [f"lr0: {'9' * 4000}\n", f"lr0: {'x' * 500_000}\n", f"lr0: [{'1, ' * 9999}]\n", f"{'k' * 1000}: 1\n"]
)
def test_hyperparameters_that_cannot_be_meant_are_refused_in_a_line(tmp_path, text):
    (tmp_path / "hyp.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match="expected a number|unknown hyperparameter") as error:
        load_hyp(tmp_path / "hyp.yaml")
    assert len(str(error.value)) < 400 + len(str(tmp_path)) and time.process_time() - start < SLOWNESS


def test_21841_names_take_no_time_and_repeated_ones_a_line(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a.jpg\n")
    file = tmp_path / "data.yaml"
    file.write_text(BASE + "names:\n" + "".join(f"  {i}: name {i % 20_000}\n" for i in range(21_841)))
    start = time.process_time()
    assert check_dataset(file)["nc"] == 21_841
    assert time.process_time() - start < 3 * SLOWNESS
    assert "several classes have the same name" in caplog.text and len(caplog.text) < 1000


def test_thousands_of_unknown_keys_are_counted(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a.jpg\n")
    file = tmp_path / "data.yaml"
    file.write_text(BASE + "names: [a]\n" + "".join(f"k{i}{'x' * 300}: 1\n" for i in range(3000)))
    check_dataset(file)
    assert "more unknown keys are ignored" in caplog.text and len(caplog.records) < 30 and len(caplog.text) < 10_000
