"""Images without labels: which are new, what a detector makes of them, and how they join a data set."""

import cv2
import numpy as np
import pytest
import torch

from extras.teach.cache import TeacherCache
from extras.teach.pseudo_labels import label_images, new_files, record_dtype
from tests.conftest import write_tiny_dataset
from utils.data.labels import scan_labels
from utils.data.store import join_scans
from utils.dataloaders import create_dataloader

SIZES = {"a.png": (64, 64), "tall.png": (40, 80), "wide.jpg": (120, 30)}  # width, height


@pytest.fixture
def folder(tmp_path):
    """Images with a white square of 20 px, whose left upper corner is at (10, 5)."""
    (tmp_path / "new").mkdir()
    for name, (w, h) in SIZES.items():
        image = np.zeros((h, w, 3), np.uint8)
        image[5:25, 10:30] = 255
        cv2.imwrite(str(tmp_path / "new" / name), image)
    return tmp_path / "new"


@pytest.fixture
def cache(tmp_path):
    return TeacherCache(tmp_path / "cache", {}, record_dtype(10))


def white(images: torch.Tensor) -> list:
    """The box of what is white, class 1: a detector."""
    found = []
    for image in images:
        rows, columns = np.nonzero(image.numpy().min(0) > 200)
        box = [[1, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
        found.append(np.array(box, np.float32).reshape(-1, 5))
    return found


def refuse(images):
    raise AssertionError("asked again")


def test_boxes_are_brought_back_to_the_original(folder, cache):
    files = new_files(folder, [])
    scan = label_images(files, white, 64, cache, progress=False)
    assert [file.rsplit("/", 1)[1] for file in scan.im_files] == sorted(SIZES)
    for labels, (w, h), shape in zip(scan.labels, SIZES.values(), scan.shapes):
        assert shape.tolist() == [w, h] and labels[0, 0] == 1
        x, y, bw, bh = labels[0, 1:] * [w, h, w, h]
        assert [x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2] == pytest.approx([10, 5, 30, 25], abs=2)
    again = label_images(files, refuse, 64, cache, progress=False)  # all of it is in the cache
    assert np.array_equal(again.labels.values, scan.labels.values) and again.im_files == scan.im_files
    image = cv2.imread(files[0])
    image[:] = 0
    cv2.imwrite(files[0], image)  # a file that changed
    changed = label_images(files, white, 64, cache, progress=False)
    assert [len(rows) for rows in changed.labels] == [0, 1, 1] and (changed.found, changed.empty) == (2, 1)


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 0, 3), (2, 2, 2)])
def test_no_box_one_and_several(folder, cache, counts):
    def detect(images):
        assert images.shape == (3, 3, 64, 64) and images.dtype == torch.uint8
        return [np.array([[k, 20 + k, 24, 30 + k, 36] for k in range(n)], np.float32).reshape(-1, 5) for n in counts]

    scan = label_images(new_files(folder, []), detect, 64, cache, progress=False)
    assert [len(rows) for rows in scan.labels] == list(counts)
    assert [len(polygons) for polygons in scan.segments] == [0, 0, 0]
    assert all(rows[:, 0].tolist() == list(range(n)) for rows, n in zip(scan.labels, counts))


def test_a_box_in_the_border_is_none(folder, cache):
    def detect(images):
        return [np.float32([[0, 1, 1, 60, 10]])] * len(images)  # the letterbox of the wide image is grey there

    scan = label_images(new_files(folder, []), detect, 64, cache, progress=False)
    assert dict(zip(sorted(SIZES), map(len, scan.labels))) == {"a.png": 1, "tall.png": 1, "wide.jpg": 0}


def test_broken_images_are_reported_and_counted(folder, cache, caplog):
    caplog.set_level("INFO", "yolov5_edgevit")
    (folder / "broken.jpg").write_bytes(b"no image")
    cv2.imwrite(str(folder / "small.png"), np.zeros((4, 4, 3), np.uint8))
    scan = label_images(new_files(folder, []), white, 64, cache)
    assert len(scan.im_files) == 3 and scan.corrupt == 2
    assert "3 images join the training set, 3 of them with 3 boxes of the teacher, 2 corrupt" in caplog.text
    assert "broken.jpg: not an image" in caplog.text and "found 4 x 4" in caplog.text
    for name in SIZES:
        (folder / name).unlink()
    with pytest.raises(ValueError, match="none of the 2 images can be used; the first: .*broken.jpg"):
        label_images(new_files(folder, []), white, 64, cache)


def test_many_images_are_taken_in_parts(tmp_path, cache):
    (tmp_path / "many").mkdir()
    for i in range(37):
        image = np.zeros((32, 32, 3), np.uint8)
        image[: i % 20 + 8, :8] = 255
        cv2.imwrite(str(tmp_path / "many" / f"{i:02d}.png"), image)
    scan = label_images(new_files(tmp_path / "many", []), white, 32, cache, progress=False)
    heights = scan.labels.values[:, 4] * 32
    assert heights == pytest.approx([i % 20 + 8 for i in range(37)], abs=0.01)


def test_new_files(folder, tmp_path, caplog):
    caplog.set_level("INFO", "yolov5_edgevit")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "link.png").symlink_to(folder / "a.png")
    (tmp_path / "list.txt").write_text(f"{folder / 'wide.jpg'}\n{folder / 'a.png'}\n{folder / 'a.png'}\n")
    names = [file.rsplit("/", 1)[1] for file in new_files(tmp_path / "list.txt", [])]
    assert names == ["a.png", "wide.jpg"]  # each once
    names = [file.rsplit("/", 1)[1] for file in new_files(folder, [str(tmp_path / "old"), str(folder / "wide.jpg")])]
    assert names == ["tall.png"]
    assert "2 of 3 images are in the data set already" in caplog.text
    with pytest.raises(ValueError, match="--unlabeled .*: all 3 images are in the training or validation set already"):
        new_files(folder, [str(folder)])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        new_files(tmp_path / "nothing", [])


def test_they_follow_the_images_of_a_data_set(folder, cache, tmp_path):
    data = write_tiny_dataset(tmp_path / "tiny", polygons=True)
    extra = label_images(new_files(folder, []), white, 64, cache, progress=False)
    loader, dataset = create_dataloader(str(data.parent / "images/train"), 64, 4, 32, workers=0, extra=extra)
    assert len(dataset) == 11 and dataset.im_files[8:] == extra.im_files
    assert np.array_equal(np.concatenate(dataset.labels[8:]), extra.labels.values)
    assert [len(p) for p in dataset.segments][7:] == [2, 0, 0, 0]
    targets = torch.cat([batch[1] for batch in loader])
    assert len(targets) == 8 * 2 + 3
    images = scan_labels(dataset.im_files[:8], None, progress=False)
    joined = join_scans(images, extra)
    assert (joined.found, joined.corrupt, len(joined.shapes)) == (11, 0, 11)
