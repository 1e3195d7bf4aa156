"""dataset.py: whatever a data file says, a download stays inside the data set's own folder and is data."""

import shutil
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from extras.download.dataset import check_own_folder, download_items
from tests.scripts import run_script
from utils.data.config import check_dataset
from utils.general import ROOT

SPLITS = {"train": "images/train", "val": "images/val", "names": ["cat"]}
DATA = ["images/train/a.jpg", "images/val/b.JPG", "labels/train/a.txt", "labels/val/b.txt"]
# Members that must never reach the disk, each with what it could do there.
HARMFUL = [
    "matplotlib/__init__.py",  # is imported from the working folder
    "sitecustomize.py",  # is imported at each start of Python
    "evil.pth",  # is run from site-packages at each start
    "numpy.so",
    ".bashrc",
    ".ssh/authorized_keys",
    "images/.hidden/x.jpg",
    "Makefile",
    "run.sh",
    "weights/best.pt",
    "images/train/a.jpg.py",
    "__MACOSX/._a.jpg",
]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server for the folder `tmp_path`/web."""
    monkeypatch.setenv("no_proxy", "*")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "web"))

        def log_message(self, *_):
            pass

    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.folder, web.url = tmp_path / "web", f"http://127.0.0.1:{web.server_port}"
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        yield web
        web.shutdown()


def put_zip(server, members, name="set.zip"):
    with zipfile.ZipFile(server.folder / name, "w") as archive:
        for member in members:
            archive.writestr(member, f"content of {member}")
    return f"{server.url}/{name}"


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("prefix", ["", "new/"], ids=["content", "whole folder"])
@pytest.mark.parametrize("to", [None, ".", "raw"])
def test_only_data_are_unpacked_and_only_into_the_own_folder(server, tmp_path, prefix, to):
    url = put_zip(server, [prefix + member for member in DATA + HARMFUL] + ["setup.py"])
    entry = {"url": url, **({"to": to} if to else {})}
    folder = tmp_path / "datasets" / "new"
    config = {"path": str(folder), "download": entry, **SPLITS}
    inside = "" if to is None else prefix if to == "." else f"raw/{prefix}"
    config |= {split: inside + SPLITS[split] for split in ("train", "val")}
    check_dataset(config)
    assert files_below(tmp_path / "datasets") == sorted(f"new/{inside}{member}" for member in DATA)
    assert [p.name for p in (tmp_path / "datasets").iterdir()] == ["new"]


@pytest.mark.parametrize("path", ["ds_evil", "~/x"])
def test_train_runs_no_code_of_an_archive(server, tmp_path, path):
    """The command that once imported an archive's matplotlib from the project's root."""
    url = put_zip(server, ["matplotlib/__init__.py", "x.jpg", ".bashrc"])
    (tmp_path / "home").mkdir()
    before = set(ROOT.iterdir())
    data = tmp_path / "evil.yaml"
    data.write_text(yaml.safe_dump({"path": path, "download": url, **SPLITS}))
    command = f"train.py --cfg yolov5n.yaml --data {data} --project {tmp_path / 'runs'}".split()
    run = run_script(*command, HOME=str(tmp_path / "home"))
    new = set(ROOT.iterdir()) - before
    written = [file for folder in new for file in files_below(folder)] + files_below(tmp_path / "home")
    for folder in new:
        shutil.rmtree(folder)
    assert run.returncode == 1 and "Traceback" not in run.stderr and str(data) in run.stderr, run.stderr
    assert [Path(file).name for file in written if not file.endswith("done.txt")] == ["x.jpg"]


@pytest.mark.parametrize(
    "to", ["../x", "/abs", "a/../../x", "..", "~", "~/x", "C:/x", "C:x", "\\\\host\\x", "..\\x", ".git", 3]
)
def test_folders_outside_are_refused(to):
    with pytest.raises(ValueError, match=r"d\.yaml: 'to' must be a folder below 'path'"):
        download_items({"url": "https://example.com/a.zip", "to": to}, "d.yaml")


@pytest.mark.parametrize(
    "folder, message",
    [
        (ROOT, "more than a data set"),
        (ROOT.parent, "more than a data set"),
        (Path("/"), "more than a data set"),
        (Path.home(), "more than a data set"),
        (Path.home().parent, "more than a data set"),
        (ROOT / "utils" / "new", "belongs to the project"),
        (ROOT / "data" / "new", "belongs to the project"),
        (ROOT / "weights", "belongs to the project"),
        (ROOT / ".git" / "new", "'.git' is a hidden folder"),
        (Path.home() / ".ssh", "'.ssh' is a hidden folder"),
    ],
)
def test_folders_that_are_no_data_sets_are_refused(folder, message):
    with pytest.raises(ValueError, match=message):
        check_own_folder(folder, "d.yaml")


@pytest.mark.parametrize("folder", [ROOT / "datasets" / "new", ROOT.parent / "datasets" / "new", ROOT / "new_set"])
def test_folders_of_a_data_set_are_taken(folder):
    check_own_folder(folder, "d.yaml")


def test_a_complete_data_set_is_not_touched(tmp_path):
    """Data on a read-only file system: nothing is created or removed beside them."""
    for split in ("train", "val"):
        (tmp_path / "set" / "images" / split).mkdir(parents=True)
    tmp_path.chmod(0o555)
    try:
        check_dataset({"path": str(tmp_path / "set"), "download": "https://example.com/a.zip", **SPLITS})
    finally:
        tmp_path.chmod(0o755)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
