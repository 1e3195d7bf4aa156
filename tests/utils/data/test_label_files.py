"""Label files under other names than the rule's, folders with links, and what is no file: found once, or said."""

import os
import shutil
from unicodedata import normalize

import numpy as np
import pytest

from utils.data.images import find_images, write_image
from utils.data.label_files import image_to_label_path, labels_elsewhere, odd_label_files
from utils.data.labels import parse_labels, scan_labels

BOX = "0 0.5 0.5 0.5 0.5\n"
COMPOSED, DECOMPOSED = normalize("NFC", "café"), normalize("NFD", "café")


def write(folder, image: str, label: str, text: str | bytes = BOX) -> None:
    for name in (image, label):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_image(folder / image, np.full((20, 30, 3), 90, np.uint8))
    (folder / label).write_bytes(text if isinstance(text, bytes) else text.encode())


ODD = [
    ("images/a.jpg", "labels/a.TXT"),
    ("images/a b.jpg", "labels/a%20b.txt"),
    ("images/a%20b.jpg", "labels/a b.txt"),
    (f"images/{COMPOSED}.jpg", f"labels/{DECOMPOSED}.txt"),
    (f"images/{DECOMPOSED}.jpg", f"labels/{COMPOSED}.txt"),
    ("images/A.JPG", "labels/a.txt"),
    ("Train/Images/a.jpg", "Train/labels/a.txt"),
    ("train/images/a.jpg", "train/Labels/a.txt"),
    ("IMAGES/Train/a.jpg", "labels/train/a.txt"),
]


@pytest.mark.parametrize("image,label", ODD, ids=[ascii(row[1] + " of " + row[0]) for row in ODD])
def test_other_spellings_are_found_and_said(tmp_path, caplog, image, label):
    write(tmp_path, image, label)
    scan = scan_labels(find_images(tmp_path / image))
    assert (scan.found, len(scan.labels[0])) == (1, 1)
    assert "1 label files are spelled otherwise than their images, and used" in caplog.text


def test_the_rule_itself_needs_no_word(tmp_path, caplog):
    for folder in ("images", "Images", "IMAGES"):
        label = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}[folder]
        write(tmp_path, f"{folder}/a.jpg", f"{label}/a.txt")
        assert image_to_label_path(tmp_path / folder / "a.jpg") == str(tmp_path / label / "a.txt")
        assert scan_labels(find_images(tmp_path / folder)).found == 1
    assert "spelled" not in caplog.text


def test_what_could_belong_to_two_images_is_taken_for_neither(tmp_path):
    write(tmp_path, "images/a b.jpg", "labels/a%20b.txt")
    write(tmp_path, "images/a%20b.jpg", "labels/a%20b.txt")  # its own label
    write(tmp_path, "images/c.jpg", "labels/C.txt")
    write(tmp_path, "images/c.jpg", "labels/c.TXT")
    assert odd_label_files(find_images(tmp_path / "images")) == {}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_labels_in_other_encodings(tmp_path, encoding):
    write(tmp_path, "images/a.jpg", "labels/a.txt", BOX.replace("\n", "\r\n").encode(encoding))
    scan = scan_labels(find_images(tmp_path / "images"))
    assert (scan.found, scan.corrupt) == ((1, 0) if encoding != "utf-16-le" else (0, 1))
    if scan.corrupt:
        assert str(scan.problems[0]).endswith("a.txt: expected text, found zero bytes: save the file as UTF-8")


@pytest.mark.parametrize(
    "label,hint",
    [
        ("annotations/a.xml", "annotations has 1 .xml files with names of the images"),
        ("images/train/a.txt", "images/train has 1 .txt files with names of the images"),
        ("labels/b.txt", ""),
    ],
)
def test_where_labels_are_instead(tmp_path, label, hint):
    write(tmp_path / "ds", "images/train/a.jpg", label)
    assert labels_elsewhere(find_images(tmp_path / "ds" / "images")).endswith(hint)


@pytest.mark.parametrize("row", ["0 .5 .5 0 0", "0 .5 .5 0 .5", "0 .5 .5 .5 0", "0 .5 .5 1e-9 1e-9"])
def test_boxes_without_an_area_are_reported_as_flat_polygons_are(tmp_path, row):
    write(tmp_path, "images/a.jpg", "labels/a.txt", f"{BOX}{row}\n")
    write(tmp_path, "images/b.jpg", "labels/b.txt", f"{BOX}0 .1 .1 .2 .2 .3 .3\n")
    box, polygon = scan_labels(find_images(tmp_path / "images")).problems
    assert box.line == polygon.line == 2
    assert box.reason.startswith("expected a box with an area") and box.reason.endswith("; image left out")
    assert polygon.reason.startswith("expected a polygon with an area") and polygon.reason.endswith("; image left out")


@pytest.mark.parametrize("number", ["1" * 200_000, "9" * 300, "x" * 200_000, "0." + "0" * 200_000])
@pytest.mark.parametrize("column", [0, 1, 3])
def test_no_message_of_a_row_is_long(number, column):
    row = ["0", ".5", ".5", ".5", ".5"]
    row[column] = number
    ((line, reason),) = parse_labels(" ".join(row), nc=3).errors or [(1, "")]
    assert line == 1 and len(reason) < 300


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links and pipes")
class TestOddEntries:
    """A folder with links to itself and beyond, pipes, devices, and names that are no UTF-8."""

    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("train/a", "train/deep/b"):
            write(tmp_path, f"images/{name}.jpg", f"labels/{name}.txt")
        return tmp_path / "images" / "train"

    @pytest.mark.parametrize("links", [["loop -> ."], ["x -> .", "y -> .."], ["x -> deep", "deep/y -> .."], ["x -> x"]])
    def test_links_are_followed_once(self, folder, caplog, links):
        for link in links:
            name, target = link.split(" -> ")
            os.symlink(target, folder / name)
        assert find_images(folder) == [str(folder / "a.jpg"), str(folder / "deep" / "b.jpg")]
        assert ("links lead to folders that are searched already" in caplog.text) == (links != ["x -> x"])

    def test_links_to_other_folders_are_followed(self, folder, tmp_path):
        shutil.move(folder, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", folder)
        assert find_images(folder) == [str(folder / "a.jpg"), str(folder / "deep" / "b.jpg")]
        assert scan_labels(find_images(tmp_path / "images")).found == 2

    def test_what_is_no_file_is_reported_and_counted(self, folder, tmp_path):
        os.mkfifo(folder / "pipe.jpg")  # Opening it would wait for a writer.
        os.symlink("/dev/zero", folder / "zero.png")
        (folder / "folder.jpg").mkdir()
        os.symlink("nowhere", folder / "lost.jpg")
        os.mkfifo(tmp_path / "labels" / "train" / "b2.txt")
        write_image(folder / "b2.jpg", np.full((20, 30, 3), 90, np.uint8))
        scan = scan_labels(find_images(folder))
        assert (scan.found, scan.corrupt) == (2, 5)
        reasons = " ".join(map(str, scan.problems))
        for text in ("b2.txt: expected a file, found a pipe", "folder.jpg: expected a file, found a folder",
                     "lost.jpg: no such file", "pipe.jpg: expected a file, found a pipe; it is not opened",
                     "zero.png: expected a file, found a device"):  # fmt: skip
            assert text in reasons

    def test_names_that_are_no_utf_8(self, folder, tmp_path, caplog):
        for path in (folder / "a.jpg", tmp_path / "labels" / "train" / "a.txt"):
            os.rename(path, os.fsencode(path.parent) + b"/caf\xe9" + os.fsencode(path.suffix))
        (folder / "b.jpg").write_bytes(b"broken")
        scan = scan_labels(find_images(folder), cache=tmp_path / "scan.npz")
        again = scan_labels(find_images(folder), cache=tmp_path / "scan.npz")
        assert (scan.found, again.found, scan.corrupt) == (2, 2, 1) and list(scan.im_files) == list(again.im_files)
        assert os.fsencode(scan.im_files[0]).endswith(b"caf\xe9.jpg")
