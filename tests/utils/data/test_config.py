"""utils/data/config.py: dataset files as users write them, where their data are found, what is said of a mistake."""

import hashlib
import logging
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from utils.data.config import check_dataset
from utils.files.yaml import save_yaml
from utils.general import ROOT

GOOD = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]}


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / "set" / "images" / split).mkdir(parents=True)
    return tmp_path / "set"


def write(folder, **entries):
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(entries, sort_keys=False))
    return file


@pytest.mark.parametrize(
    "entries, names",
    [
        ({}, {0: "cat", 1: "dog"}),  # list
        ({"names": {0: "cat", 1: "dog"}}, {0: "cat", 1: "dog"}),  # mapping
        ({"names": {1: "dog", 0: "cat"}, "nc": 2}, {0: "cat", 1: "dog"}),  # mapping out of order, nc that agrees
        ({"names": [7, "a b"]}, {0: "7", 1: "a b"}),  # a number is a name
        ({"names": None, "nc": 2}, {0: "class0", 1: "class1"}),  # nc alone
    ],
)
def test_names_in_every_spelling(folder, entries, names):
    data = check_dataset(write(folder, **{**GOOD, **entries}))
    assert data["names"] == names and data["nc"] == len(names)


def test_result_has_absolute_paths_and_the_own_defaults(folder):
    file = write(folder, path=str(folder), imgsz=320, epochs=3, batch=-1, optimizer="Adam", hyp="h.yaml", **GOOD)
    data = check_dataset(file)
    assert data["path"] == folder and data["yaml_file"] == str(file)
    assert data["train"] == str(folder / "images" / "train") and data["test"] is None and data["download"] is None
    own = {"imgsz": 320, "epochs": 3, "batch": -1, "optimizer": "Adam", "hyp": "h.yaml"}
    assert {key: data[key] for key in own} == own
    assert check_dataset(data) == data  # what was checked can be checked again


def test_split_may_be_a_list_of_folders_and_list_files(folder):
    (folder / "some.txt").write_text("./images/train/a.jpg\n")
    data = check_dataset(write(folder, **{**GOOD, "train": ["images/train", "some.txt"], "test": ""}))
    assert data["train"] == [str(folder / "images" / "train"), str(folder / "some.txt")]
    assert data["test"] is None


@pytest.mark.parametrize(
    "path, train",
    [
        (None, "images/train"),  # no path: beside the YAML
        (".", "images/train"),  # relative to the YAML's folder
        ("ABS", "images/train"),
        (None, "../images/train"),  # exports of labelling tools are one folder off
        ("ABS", "ABS/images/train"),  # an absolute split
    ],
)
def test_where_data_are_looked_for(folder, path, train):
    entries = {**GOOD, "train": train.replace("ABS", str(folder))}
    if path:
        entries["path"] = path.replace("ABS", str(folder))
    assert check_dataset(write(folder, **entries))["train"] == str(folder / "images" / "train")


def test_datasets_dir_variable_stands_for_dot_dot_datasets(folder, monkeypatch):
    file = write(folder, path="../datasets/set", **GOOD)
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(folder.parent))
    assert check_dataset(file)["path"] == folder
    monkeypatch.delenv("YOLOv5_DATASETS_DIR")
    with pytest.raises(FileNotFoundError, match=str(ROOT.parent / "datasets" / "set")):
        check_dataset(file)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"nc": 3}, "'nc' is 3, but 'names' has 2 entries"),
        ({"nc": 0}, "'nc' must be a positive integer, found 0"),
        ({"nc": "2"}, "'nc' must be a positive integer, found '2'"),
        ({"names": None}, "no 'names': expected a list"),
        ({"names": "cat"}, "must be a list or a mapping of class names, found 'cat'"),
        ({"names": []}, "must be a list or a mapping"),
        ({"names": {1: "cat", 2: "dog"}}, r"must have the keys 0 to 1, found \[1, 2\]"),
        ({"names": {"cat": 0, "dog": 1}}, "must have the keys 0 to 1"),
        ({"names": ["cat", False]}, "the name of class 1 reads as False: put it in quotes"),  # an unquoted `no`
        ({"names": ["cat", None]}, "the name of class 1 reads as None"),
        ({"train": None}, "no 'train': expected a folder"),
        ({"val": ""}, "no 'val': expected a folder"),
        ({"val": 3}, "'val' must be a path or a list of paths, found 3"),
        ({"train": ["images/train", {"a": 1}]}, "'train' must be a path or a list of paths"),
        ({"path": ["a"]}, r"'path' must be a folder, found \['a'\]"),
        ({"imgsz": 0}, "'imgsz' must be a positive integer, found 0"),
        ({"imgsz": "640"}, "'imgsz' must be a positive integer, found '640'"),
        ({"epochs": True}, "'epochs' must be a positive integer, found True"),
        ({"batch": -2}, "'batch' must be a positive integer, or -1, found -2"),
        ({"hyp": {}}, "'hyp' must be a file name"),
        ({"draw": 3}, "'draw' must be a mapping, found 3"),
    ],
)
def test_mistakes_are_named_with_file_and_value(folder, entries, message):
    file = write(folder, **{**GOOD, **entries})
    with pytest.raises(ValueError, match=message) as error:
        check_dataset(file)
    assert str(file) in str(error.value)


def test_unknown_key_warns_with_the_nearest(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="yolov5_edgevit"):
        check_dataset(write(folder, **GOOD, tests="images/test", roboflow={"license": "x"}))
    assert len(caplog.records) == 1 and "unknown key 'tests' is ignored (did you mean test?)" in caplog.text


def test_missing_data_are_listed_with_what_to_do(folder):
    file = write(folder, path=str(folder), train=["images/train", "images/more"], val="images/none", names=["a"])
    with pytest.raises(FileNotFoundError) as error:
        check_dataset(file)
    text = str(error.value)
    assert f"train: {folder}/images/more" in text and f"val: {folder}/images/none" in text
    assert f"{folder}/images/train\n" not in text and "correct 'path'" in text


def test_only_required_splits_must_exist(folder):
    (folder / "images" / "train").rmdir()
    file = write(folder, path=str(folder), **GOOD)
    with pytest.raises(FileNotFoundError):
        check_dataset(file)
    assert check_dataset(file, required=("val",))["val"] == str(folder / "images" / "val")
    with pytest.raises(ValueError, match="no 'test'"):
        check_dataset(file, required=("test",))


@pytest.mark.parametrize("name", ["nothing.yaml", "data/nothing.yaml"])
def test_missing_file_is_named(name):
    with pytest.raises(FileNotFoundError, match="nothing.yaml"):
        check_dataset(name)


def test_draw_makes_the_data_once_and_only_when_allowed(folder):
    draw = {"seed": 1, "train": 2, "val": 1, "test": 1, "imgsz": 64}
    file = write(folder, path=str(folder / "drawn"), train="images/train", val="images/val", names=["a"], draw=draw)
    with pytest.raises(FileNotFoundError):
        check_dataset(file, download=False)
    data = check_dataset(file)
    drawn = {p: p.stat().st_mtime_ns for p in (folder / "drawn").rglob("*")}
    assert len(list((folder / "drawn" / "images" / "train").iterdir())) == 2 and data["draw"] == draw
    check_dataset(file)
    assert drawn == {p: p.stat().st_mtime_ns for p in (folder / "drawn").rglob("*")}


def test_draw_with_polygons(folder):
    draw = {"train": 2, "val": 1, "test": 0, "imgsz": 64, "masks": True}
    file = write(folder, path=str(folder / "drawn"), train="images/train", val="images/val", names=["a"], draw=draw)
    assert check_dataset(file)["draw"] == draw
    rows = "".join(label.read_text() for label in (folder / "drawn" / "labels").rglob("*.txt")).splitlines()
    assert rows and all(len(row.split()) >= 7 for row in rows)


def test_wrong_draw_option_is_named(folder):
    file = write(folder, path=str(folder / "drawn"), draw={"sed": 1}, **GOOD)
    with pytest.raises(ValueError, match="'draw' takes seed, train, val, test, imgsz, masks, found sed"):
        check_dataset(file)


SCRIPTS = [
    "bash data/scripts/get_coco.sh && curl https://example.com/a.zip",
    "from utils.general import download\nurls = ['https://example.com/a.zip',\n  'https://example.com/b.tar']\ndownload(urls)\n",
    "import os; os.system('touch /tmp/this-must-not-run')  # https://example.com/a.zip",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_download_script_is_refused_with_its_urls(folder, script):
    file = write(folder, path=str(folder / "gone"), download=script, **GOOD)
    with pytest.raises(ValueError) as error:
        check_dataset(file)
    text = str(error.value)
    assert "never run" in text and "By hand" in text and "https://example.com/a.zip\n" in text
    assert ("https://example.com/b.tar" in text) == ("b.tar" in script)


def test_download_script_is_no_matter_when_the_data_are_there(folder):
    assert check_dataset(write(folder, path=str(folder), download=SCRIPTS[0], **GOOD))["download"] == SCRIPTS[0]


@pytest.mark.parametrize(
    "download, message",
    [
        (["https://example.com/a.tar.gz"], "can unpack .zip files only"),
        ([{"to": "images"}], "'download' takes URLs, or mappings of url, to and sha256"),
        ([{"url": "https://example.com/a.zip", "into": "x"}], "'download' takes URLs, or mappings"),
        (3, "'download' takes URLs"),
    ],
)
def test_wrong_download_entries_are_named(folder, download, message):
    file = write(folder, path=str(folder / "gone"), download=download, **GOOD)
    with pytest.raises(ValueError, match=message):
        check_dataset(file)


DATA_FILES = sorted((ROOT / "data").glob("*.yaml"))


@pytest.mark.parametrize("file", DATA_FILES, ids=lambda file: file.name)
def test_every_data_file_of_the_project_is_well_formed(file, caplog, tmp_path, monkeypatch):
    """Each passes every check up to its missing data, without a warning, and its download entry is no script."""
    from extras.download import dataset as data_download

    config = yaml.safe_load(file.read_text())
    config.pop("draw", None)
    config["path"] = str(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING, logger="yolov5_edgevit"), pytest.raises(FileNotFoundError):
        check_dataset(config, download=False)
    assert not caplog.records
    if config.get("download"):
        assert data_download.download_items(config["download"], file.name)


@pytest.mark.parametrize(
    "name, count, first, last",
    [
        ("shapes", 8, "circle", "heart"),
        ("shapes-seg", 8, "circle", "heart"),
        ("coco", 80, "person", "toothbrush"),
        ("coco128", 80, "person", "toothbrush"),
        ("coco128-seg", 80, "person", "toothbrush"),
        ("VOC", 20, "aeroplane", "tvmonitor"),
        ("Objects365", 365, "Person", "Table Tennis"),
        ("GlobalWheat2020", 1, "wheat_head", "wheat_head"),
        ("SKU-110K", 1, "object", "object"),
        ("VisDrone", 10, "pedestrian", "motor"),
        ("Argoverse", 8, "person", "stop_sign"),
        ("xView", 60, "Fixed-wing Aircraft", "Tower"),
    ],
)
def test_class_names_of_the_known_data_sets(name, count, first, last):
    names = yaml.safe_load((ROOT / "data" / f"{name}.yaml").read_text())["names"]
    names = names if isinstance(names, list) else list(names.values())
    assert (len(names), names[0], names[-1]) == (count, first, last) and len(set(names)) == count


@pytest.fixture
def server(tmp_path):
    """A web server for the folder `tmp_path`/web; `.paths` are the files that were asked for."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "web"))

        def do_GET(self):
            self.server.paths.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.paths, web.folder = [], tmp_path / "web"
        web.url = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield web
        web.shutdown()
        thread.join()


def put_zip(server, name, members):
    with zipfile.ZipFile(server.folder / name, "w") as archive:
        for member in members:
            archive.writestr(member, f"content of {member}")
    return f"{server.url}/{name}"


def test_download_of_a_zip_beside_the_folder(folder, server):
    """The COCO128 way: the archive holds the folder itself; afterwards nothing but the data is left."""
    url = put_zip(server, "new.zip", ["new/images/train/a.jpg", "new/images/val/b.jpg"])
    file = write(folder, path=str(folder / "new"), download=url, **GOOD)
    with pytest.raises(FileNotFoundError):
        check_dataset(file, download=False)
    assert server.paths == []
    assert check_dataset(file)["val"] == str(folder / "new" / "images" / "val")
    assert sorted(p.name for p in folder.iterdir()) == ["data.yaml", "images", "new"]
    check_dataset(file)
    assert server.paths == ["/new.zip"]


def test_download_of_several_zips_into_folders_of_the_set(folder, server):
    """The COCO way: labels with the folder itself, images in archives of their own; files that exist are kept."""
    urls = [
        put_zip(server, "labels.zip", ["new/labels/train/a.txt", "new/labels/val/b.txt"]),
        {"url": put_zip(server, "train.zip", ["train/a.jpg", "train/mine.jpg"]), "to": "images"},
        {"url": put_zip(server, "val.zip", ["val/b.jpg"]), "to": "images"},
    ]
    (folder / "new" / "images" / "train").mkdir(parents=True)
    (folder / "new" / "images" / "train" / "mine.jpg").write_text("mine")
    check_dataset(write(folder, path=str(folder / "new"), download=urls, **GOOD))
    found = {p.relative_to(folder / "new").as_posix() for p in (folder / "new").rglob("*") if p.is_file()}
    labels = {"labels/train/a.txt", "labels/val/b.txt"}
    assert found == labels | {"images/train/a.jpg", "images/train/mine.jpg", "images/val/b.jpg"}
    assert (folder / "new" / "images" / "train" / "mine.jpg").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["data.yaml", "images", "new"]


def test_download_with_a_wrong_checksum_leaves_nothing(folder, server):
    url = put_zip(server, "new.zip", ["new/images/train/a.jpg", "new/images/val/b.jpg"])
    file = write(folder, path=str(folder / "new"), download={"url": url, "sha256": "0" * 64}, **GOOD)
    with pytest.raises(ValueError, match="expected sha256 000"):
        check_dataset(file)
    assert sorted(p.name for p in folder.iterdir()) == ["data.yaml", "images"]
    digest = hashlib.sha256((server.folder / "new.zip").read_bytes()).hexdigest()
    check_dataset(write(folder, path=str(folder / "new"), download={"url": url, "sha256": digest}, **GOOD))


def test_interrupted_downloads_go_on_where_they_stopped(folder, server):
    """A second archive that is not there stops the first call; the next call does not fetch the first one again."""
    urls = [put_zip(server, "first.zip", ["new/images/train/a.jpg"]), f"{server.url}/second.zip"]
    file = write(folder, path=str(folder / "new"), download=urls, **GOOD)
    with pytest.raises(FileNotFoundError, match="second.zip"):
        check_dataset(file)
    put_zip(server, "second.zip", ["new/images/val/b.jpg"])
    check_dataset(file)
    assert server.paths.count("/first.zip") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["data.yaml", "images", "new"]


def test_downloads_that_need_work_by_hand_are_fetched_once(folder, server):
    """The VOC way: the archive lacks the folders of the splits until a script makes them."""
    url = put_zip(server, "raw.zip", ["raw/a.jpg"])
    file = write(folder, path=str(folder / "new"), download=[{"url": url, "to": "images"}], **GOOD)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="The downloads are done: the rest is to be done by hand"):
            check_dataset(file)
    for split in ("train", "val"):
        (folder / "new" / "images" / split).mkdir()
    check_dataset(file)
    assert server.paths == ["/raw.zip"]
    assert sorted(p.name for p in folder.iterdir()) == ["data.yaml", "images", "new"]


def test_interrupted_unpacking_leaves_no_folder_that_looks_complete(folder, server, monkeypatch):
    from extras.download import files as downloads

    url = put_zip(server, "new.zip", ["new/images/train/a.jpg", "new/images/val/b.jpg"])
    file = write(folder, path=str(folder / "new"), download=url, **GOOD)
    extract, calls = zipfile.ZipFile.extract, []

    def failing_extract(self, member, *args):
        calls.append(member)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return extract(self, member, *args)

    monkeypatch.setattr(downloads.zipfile.ZipFile, "extract", failing_extract)
    with pytest.raises(KeyboardInterrupt):
        check_dataset(file)
    assert not (folder / "new").exists()
    monkeypatch.undo()
    check_dataset(file)
    assert server.paths == ["/new.zip"]


@pytest.mark.parametrize("key", ["path", "train", "val"])
@pytest.mark.parametrize("value", ["x" * 3000, "a/" * 2000, f"a/{'ä' * 200}"], ids=["long name", "deep", "bytes"])
def test_paths_that_no_file_system_has(tmp_path, key, value):
    file = tmp_path / "data.yaml"
    save_yaml(file, {"train": "a", "val": "b", "names": ["x"]} | {key: value})
    with pytest.raises(ValueError, match=f"'{key}' must be a ") as caught:
        check_dataset(file, required=())
    assert len(str(caught.value)) < 600
