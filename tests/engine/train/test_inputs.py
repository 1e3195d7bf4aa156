"""Data from which nothing can be learned stop a training before it begins, and data that go away stop it at once."""

import shutil

import pytest
from conftest import with_masks, write_tiny_classes, write_tiny_dataset
from kill_driver import MODEL

from engine.options import from_kwargs
from engine.task import DETECT
from engine.train.run import fit
from extras.classify.task import CLASSIFY
from extras.segment.task import SEGMENT
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint


@pytest.fixture
def start(tmp_path):
    """Function (data, task=DETECT, callbacks=None) that trains; what is refused must not leave a run folder."""

    def run(data, task=DETECT, callbacks=None, **options):
        base = {"data": str(data), "epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0, "noplots": True}
        base |= {SEGMENT: {"cfg": with_masks(MODEL)}, DETECT: {"cfg": MODEL}, CLASSIFY: {}}[task]
        base |= {"project": str(tmp_path / "runs"), **options}
        try:
            return fit(from_kwargs(task.script.removesuffix(".py"), base), callbacks, task=task)
        except ValueError:
            assert not (tmp_path / "runs").exists()
            raise

    return run


def test_folders_in_any_case_have_their_labels(tmp_path, start):
    data = write_tiny_dataset(tmp_path / "tiny")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "tiny" / split.title()).mkdir(exist_ok=True)
            (tmp_path / "tiny" / kind / split).rename(tmp_path / "tiny" / split.title() / kind.title())
    data.write_text(data.read_text().replace("images/train", "Train/Images").replace("images/val", "Val/Images"))
    assert len(start(data).loader.dataset.labels.values) == 16


@pytest.mark.parametrize(
    "moved,hint",
    [
        ("annotations", "annotations has 8 .txt files with names of the images"),
        ("images/train", "images/train has 8 .txt files with names of the images"),
        (None, "labels/val has 4 .txt files with names of the images"),
    ],
)
def test_no_labels_at_all(tmp_path, start, moved, hint):
    data = write_tiny_dataset(tmp_path / "tiny")
    labels = tmp_path / "tiny" / "labels" / "train"
    if moved:
        shutil.copytree(labels, tmp_path / "tiny" / moved, dirs_exist_ok=True)
    shutil.rmtree(labels)
    with pytest.raises(ValueError, match="nothing to train: none of the 8 images has a label") as error:
        start(data)
    assert f"looked for {labels}/000.txt and so on" in str(error.value)
    assert str(error.value).endswith(hint)


def test_empty_label_files_are_no_labels(tmp_path, start):
    data = write_tiny_dataset(tmp_path / "tiny")
    for file in (tmp_path / "tiny" / "labels" / "train").iterdir():
        file.write_text("\n")
    with pytest.raises(ValueError, match="nothing to train"):
        start(data)


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_give_no_masks(tmp_path, start, split):
    data = write_tiny_dataset(tmp_path / "tiny", polygons=True)
    boxes = write_tiny_dataset(tmp_path / "boxes").parent / "labels"
    shutil.copytree(boxes / split, tmp_path / "tiny" / "labels" / split, dirs_exist_ok=True)
    rows = {"train": 16, "val": 8}[split]
    with pytest.raises(ValueError, match=f"no polygon in .*labels/{split}: all of the {rows} rows are boxes"):
        start(data, SEGMENT)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_go_away_stop_the_run(tmp_path, start, caplog, workers):
    caplog.set_level("INFO", "yolov5_edgevit")
    data, callbacks = write_tiny_dataset(tmp_path / "tiny"), Callbacks()
    images, away = tmp_path / "tiny" / "images", tmp_path / "away"
    callbacks.register_action("on_train_epoch_start", callback=lambda: images.rename(away) if first.exists() else None)
    first = tmp_path / "runs" / "exp" / "results.csv"
    with pytest.raises(OSError, match="no such file; the data are gone: 8 of 8 images tried are$"):
        start(data, callbacks=callbacks, epochs=9, workers=workers, cache="off")
    last = first.parent / "weights" / "last.pt"
    assert load_checkpoint(last).train_state is not None and len(first.read_text().splitlines()) == 2
    assert f"Interrupted in epoch 1. {last} holds the state before it" in caplog.text


def test_one_class_is_nothing_to_tell_apart(tmp_path, start):
    data = write_tiny_classes(tmp_path / "classes")
    for file in (data / "train" / "light").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="train: nothing to train: all 4 images are of the class dark"):
        start(data, CLASSIFY)
