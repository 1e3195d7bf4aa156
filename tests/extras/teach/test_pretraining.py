"""Pretraining on the engine: files of a run, what is learned, resume, and what is said of a mistake."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared, write_tiny_dataset

import pretrain
from engine.options import from_kwargs
from extras.teach.pretraining import PretrainLoss
from models.backbone import load_backbone_weights
from models.yolo import DetectionModel
from tests.tiny_detector import write_tiny_weights
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint, load_state_dict_file, state_sha256
from utils.general import ROOT, load_yaml, main_guard

TENSORS = 244  # of EdgeViT-XXS
DETECTOR = ROOT / "models" / "yolov5_edgevit.yaml"


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of 6 pictures of 64 x 64 px."""
    return write_tiny_dataset(tmp_path / "tiny", train=6, val=1).parent / "images/train"


def write_teacher(file: Path, seed: int = 0) -> str:
    """A detector with random weights whose backbone has strides 2 to 32."""
    rows = [[-1, 1, "Conv", [channels, 3, 2]] for channels in (8, 8, 16, 24, 32)]
    head = [[[2, 3], 1, "Detect", ["nc", "anchors"]]]
    cfg = {"nc": 2, "anchors": [[8, 8, 16, 16], [24, 24, 40, 40]], "backbone": rows, "head": head}
    return str(write_tiny_weights(file, cfg, seed))


@pytest.fixture
def teacher(tmp_path) -> str:
    return write_teacher(tmp_path / "teacher.pt")


@pytest.fixture
def run(tmp_path, images):
    """Function (callbacks=None, **options) -> run folder; 2 epochs of 2 batches by default."""

    def run(callbacks=None, **options):
        base = {"source": str(images), "epochs": 2, "batch_size": 4, "imgsz": 64, "workers": 0, "noplots": True}
        return Path(pretrain.run(callbacks, **{**base, "project": str(tmp_path / "runs"), **options}).save_dir)

    return run


def losses(folder: Path, column="train/loss") -> list:
    with open(folder / "results.csv") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def said(capsys) -> str:
    return "".join(capsys.readouterr())


def weights_hash(folder: Path) -> str:
    return state_sha256(load_state_dict_file(folder / "weights/backbone.pt"))


def test_files_of_a_run(run, images, teacher):
    folder = run(teacher=teacher, noplots=False)
    names = {file.name for file in folder.iterdir()}
    assert {"hyp.yaml", "opt.yaml", "results.csv", "results.png", "train_batch0.jpg", "weights"} <= names
    assert {file.name for file in (folder / "weights").iterdir()} == {"best.pt", "last.pt", "backbone.pt"}
    assert load_yaml(folder / "opt.yaml")["data"] == [str(images)]
    assert len(losses(folder)) == 2 and all(0 < loss < 2 for loss in losses(folder) + losses(folder, "val/loss"))


@pytest.mark.parametrize("name", ["backbone.pt", "best.pt", "last.pt"])
def test_a_detector_takes_every_tensor_of_the_backbone(run, teacher, name):
    file = run(teacher=teacher, epochs=1) / "weights" / name
    detector = DetectionModel(DETECTOR)
    assert load_backbone_weights(detector, file) == TENSORS
    trained = load_state_dict_file(file.with_name("best.pt"))
    for key, value in detector.model[0].state_dict().items():
        assert torch.equal(value, trained[f"model.{key}"].to(value.dtype))


def test_backbone_file_says_what_it_was_taught_by_and_holds_nothing_else(run, teacher):
    file = run(teacher=teacher, epochs=1) / "weights/backbone.pt"
    content = torch.load(file, weights_only=True)
    assert set(content) == {"model", "meta"} and len(content["model"]) == TENSORS
    expected = {"teacher": "teacher.pt", "backbone": "edgevit_xxs", "data": "train", "epochs": 1, "imgsz": 64}
    assert {**content["meta"], **expected} == content["meta"] and len(content["meta"]["teacher sha256"]) == 64
    with pytest.raises(ValueError, match="backbone.pt: expected a checkpoint with its model YAML, found weights alone"):
        load_checkpoint(file)


@pytest.mark.parametrize("with_teacher", [True, False])
def test_the_loss_falls(run, teacher, with_teacher, capsys):
    folder = run(teacher=teacher if with_teacher else "", epochs=8, lr0=0.003)
    first, *_, last = losses(folder)
    assert last < first - 0.1
    assert ("a --teacher is usually better" in said(capsys)) is not with_teacher


@pytest.mark.parametrize("with_teacher", [True, False])
def test_interrupted_and_resumed_gives_the_same_weights(run, teacher, with_teacher):
    """In the middle of the second of three epochs."""
    options = {"teacher": teacher if with_teacher else "", "epochs": 3}
    whole, callbacks, batches = run(**options), Callbacks(), []

    def interrupt(*_):
        batches.append(1)
        if len(batches) == 3:
            raise KeyboardInterrupt

    callbacks.register_action("on_train_batch_end", callback=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(callbacks, **options)
    last = next(path for path in whole.parent.rglob("last.pt") if path.parents[1] != whole)
    assert load_checkpoint(last).epoch == 0 and not last.with_name("backbone.pt").exists()
    folder = Path(pretrain.run(resume=str(last)).save_dir)
    assert folder == last.parents[1]
    assert weights_hash(folder) == weights_hash(whole) and losses(folder) == losses(whole)


def test_resume_needs_the_same_teacher(run, teacher, tmp_path):
    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", callback=lambda epoch: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(callbacks, teacher=teacher)
    write_teacher(Path(teacher), seed=1)
    with pytest.raises(ValueError, match="--resume: the teacher .*teacher.pt is not the one that the training started"):
        pretrain.run(resume=str(next(tmp_path.rglob("last.pt"))))


def test_weights_to_start_from(run, teacher, capsys):
    first = run(teacher=teacher, epochs=1)
    run(teacher=teacher, epochs=1, weights=str(first / "weights/backbone.pt"))
    assert f"{TENSORS} of the backbone's {TENSORS} tensors match" in said(capsys)


def test_one_image_is_enough(run, images, teacher):
    assert len(losses(run(source=str(images / "000.jpg"), teacher=teacher))) == 2


def test_broken_images_and_other_files_are_left_out(run, images, capsys):
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (images / "notes.txt").write_text("no image")
    run(epochs=1)
    text = said(capsys)
    assert "6 images, 1 corrupt" in text and "broken.png: " in text


def test_imgsz_is_rounded_up(run, teacher, capsys):
    folder = run(teacher=teacher, imgsz=70, epochs=1)
    assert load_yaml(folder / "opt.yaml")["imgsz"] == 96 and "image size 70 is not a multiple" in said(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "nowhere"}, "nowhere: no such folder"),
        ({"source": "{}/empty"}, "no images found"),
        ({"backbone": "edgevit_xl"}, "no backbone 'edgevit_xl', did you mean edgevit_"),
        ({"teacher": "nowhere.pt"}, "teacher 'nowhere.pt': no such file"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
        ({"weights": "{}/teacher.pt"}, "of the backbone's 244 tensors match"),
        ({"epochs": 0}, "--epochs: expected at least 1"),
        ({"batch_size": 0}, "--batch-size: expected at least 1"),
        ({"imgsz": 0}, "imgsz must be a whole number between 1 and 65536, found 0"),
        ({"lr0": 0.0}, "lr0: expected a number above 0"),
        ({"lr0": 1e18}, "lr0 must be between 0 and 1000, found 1e+18"),
        ({"lr0": 1000.0}, "the loss is not finite|weights are not finite"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"resume": "nowhere/weights/last.pt"}, "--resume: no file"),
        ({"project": "{}/teacher.pt"}, "teacher.pt"),  # a file where the run folder should be
    ],
)
def test_a_mistake_is_one_line(run, teacher, tmp_path, capsys, options, words):
    (tmp_path / "empty").mkdir()
    options = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    call = pretrain.run if "resume" in options else run
    assert main_guard(call, **options) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and any(word in error for word in words.split("|")), error


def test_a_full_disk_is_reported_and_the_old_checkpoint_stays(run, teacher, tmp_path, full_disk):
    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", callback=lambda epoch: full_disk(20_000 if epoch == 1 else None))
    with pytest.raises(OSError, match=r"cannot write .*(best|last)\.pt.*the old file is still whole"):
        run(callbacks, teacher=teacher)
    assert load_checkpoint(next(tmp_path.rglob("last.pt"))).epoch == 0


def test_defaults():
    opt = from_kwargs("pretrain", {})
    assert (opt.backbone, opt.teacher, opt.download, opt.cos_lr) == ("edgevit_xxs", "", False, True)


@needs_shared
@pytest.mark.parametrize("data", ["bccd", "coco256"])
def test_real_images_and_an_official_teacher(run, tmp_path, data):
    folder = next(path for path in (SHARED / "datasets" / data / "images").iterdir() if "train" in path.name)
    listed = tmp_path / "some.txt"
    listed.write_text("\n".join(str(file) for file in sorted(folder.iterdir())[:8]))
    options = {"teacher": str(SHARED / "weights/yolov5n.pt"), "epochs": 4, "lr0": 0.002}
    found = losses(run(source=str(listed), **options))
    assert found[-1] < found[0] and np.isfinite(found).all()


def test_pictures_of_any_kind(run, tmp_path):
    """Grey, transparent, tiny and elongated ones."""
    folder, rng = tmp_path / "mixed", np.random.default_rng(0)
    folder.mkdir()
    for i, shape in enumerate([(40, 50), (40, 50, 4), (3, 3, 3), (300, 10, 3)]):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, shape, dtype=np.uint8))
    assert np.isfinite(losses(run(source=str(folder), epochs=1))).all()


class Brightness(torch.nn.Module):
    """A teacher with one map of stride 8: the mean colour of each place."""

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, 8)]


def test_targets_go_through_the_teacher():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    criterion = PretrainLoss(Brightness())
    right = torch.nn.functional.avg_pool2d(images.float(), 8)
    loss, items = criterion([right], images)
    assert loss.item() == pytest.approx(0, abs=1e-5) and items.shape == (1,) and not items.requires_grad
    assert criterion([right.flip(0)], images)[0] > 0.3
