"""Globs with ** as Python has them, but that links do not make endless."""

import glob
import os
import time

import pytest
from conftest import SLOWNESS

from utils.data.walk import matching, walk_folders

FILES = ["1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/c/4.jpg", "a/b/c/5.png", "d [1]/6.jpg", ".hidden/7.jpg", "a/.8.jpg"]
PATTERNS = "*.jpg **/*.jpg a/**/*.jpg ** a/** a/**/ **/c/*.jpg **/b/**/*.jpg */**/*.jpg a**/*.jpg ./**/*.jpg none/**/*"
PATTERNS = [*PATTERNS.split(), "**/**/*.jpg", "d [[]1]/**/*", "TMP/**/*.jpg", "TMP/a/**/c/**"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_files_of_pythons_glob(tree, pattern):
    pattern = pattern.replace("TMP", str(tree))
    expected = {name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)}
    assert sorted(name for name in matching(pattern) if os.path.isfile(name)) == sorted(expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links")
def test_two_links_end(tree, caplog):
    before = sorted(matching("**/*.jpg"))
    for name, target in (("x", "."), ("y", "."), ("a/z", ".."), ("a/b/loop", "loop")):
        os.symlink(target, tree / name)
    start = time.process_time()
    assert sorted(matching("**/*.jpg")) == before
    assert [folder for folder, _ in walk_folders("a")] == ["a", "a/b", "a/b/c"]
    assert time.process_time() - start < SLOWNESS and "links lead to folders that are searched already" in caplog.text
