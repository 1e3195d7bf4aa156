"""A training with --teacher and --unlabeled: what is learned, what is kept where, and that it can be repeated."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, needs_shared, with_masks, write_tiny_dataset
from kill_driver import MODEL
from tiny_detector import write_tiny_weights

from engine.hyperparameters import TABLE
from engine.options import from_kwargs
from engine.train.device import repeatable
from engine.train.run import finish, fit, train_epochs
from engine.train.setup import Training, set_up
from engine.train.state import pack
from extras.teach.answers import Answers
from extras.teach.distillation import NOT_OF_PICTURES, WITHOUT_MOSAIC
from models.yolo import DetectionModel, SegmentationModel
from utils import dataloaders
from utils.callbacks import Callbacks
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, state_sha256
from utils.files.yaml import save_yaml

GAINS = (0.5, 0.5)


def student(names=("box", "disc"), cfg=MODEL) -> DetectionModel:
    torch.manual_seed(1)
    model = DetectionModel({**cfg, "nc": len(names)})
    model.names = dict(enumerate(names))
    return model


@pytest.fixture
def teacher_file(tmp_path):
    return write_tiny_weights(tmp_path / "teacher.pt", MODEL)


@pytest.fixture
def make(tiny_dataset, teacher_file, tmp_path, caplog):
    """Function (callbacks=None, **options) -> a Training with the tiny teacher, by default of 3 epochs of 2 batches."""
    caplog.set_level("INFO", "yolov5_edgevit")

    def build_trainer(callbacks=None, hyp=None, **options):
        base = {"cfg": MODEL, "data": str(tiny_dataset), "epochs": 3, "batch_size": 4, "imgsz": 64, "workers": 0}
        base.update(noplots=True, project=str(tmp_path / "runs"), teacher=str(teacher_file))
        hyp = {"distill_views": 2, **(hyp or {})}
        with repeatable():
            return set_up(from_kwargs("train", {**base, **options}), callbacks, hyp=hyp)

    return build_trainer


@pytest.fixture
def train(make):
    def run(callbacks=None, hyp=None, **options):
        return complete(make(callbacks, hyp, **options))

    return run


def complete(trainer) -> Training:
    """Train to the end."""
    with repeatable():
        train_epochs(trainer)
        trainer.result = finish(trainer)
    return trainer


def distiller(trainer):
    return trainer.learner.hooks[0]


def first_checkpoint(trainer) -> Checkpoint:
    """The checkpoint of a training before its first step."""
    parts = trainer.learner, trainer.state, trainer.stopper, trainer.opt, trainer.hyp, trainer.task, trainer.data
    return pack(*parts)


def prepared(trainer) -> Training:
    """The trainer before its first step, with the first batch as trainer.images and the teacher's answers for it."""
    trainer.loader.sampler.set_epoch(0, None, distiller(trainer).before_epoch(0))
    trainer.images = next(iter(trainer.loader))[0]
    distiller(trainer).before_batch(trainer.images, 0)
    return trainer


def own_loss(trainer) -> torch.Tensor:
    """The distiller's loss of the model in eval mode, where it is the same function as the teacher."""
    maps = trainer.learner.model.eval()(trainer.learner.to_input(trainer.images, 0))[1]
    return distiller(trainer).loss(maps)


def cache_folders(trainer) -> list:
    return sorted((trainer.run.folder.parent / "teacher-cache").iterdir())


def weights(trainer) -> str:
    return state_sha256(load_checkpoint(trainer.run.last).state_dict)


@pytest.mark.parametrize(
    ("names", "own", "theirs", "words"),
    [
        (("box", "disc"), [0, 1], [0, 1], "2 of 2 classes matched: box, disc"),
        (("disc", "box"), [0, 1], [1, 0], "2 of 2 classes matched: disc, box"),  # by name, not by number
        (("star", " Disc", "moon"), [1], [1], "1 of 3 classes matched:  Disc"),
        (("star",), [], [], "0 of 1 classes matched; features"),
    ],
)
def test_classes_are_matched_by_name(teacher_file, caplog, names, own, theirs, words):
    caplog.set_level("INFO", "yolov5_edgevit")
    teacher = Answers(teacher_file, student(names), GAINS, 64)
    assert (teacher.student_classes, teacher.classes) == (own, theirs)
    assert words in caplog.text and "strides: 8, 16" in caplog.text
    answers = teacher.records(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    if own:
        scores = answers["scores"].astype(float)
        found = scores[scores[..., 0] > 0]
        assert scores.shape == (2, 100, 2 + len(own)) and len(found) and (found[:, 0] >= 0.0999).all()
        assert (found[:, 1] >= found[:, 0] - 1e-3).all() and (found <= 1).all()
    else:
        assert answers.dtype.names == ("features0", "features1")


def test_answers_do_not_depend_on_the_other_pictures(teacher_file):
    teacher = Answers(teacher_file, student(), GAINS, 64)
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    together = teacher.records(images)
    alone = np.concatenate([teacher.records(image[None]) for image in images])
    for name in together.dtype.names:
        assert np.allclose(together[name].astype(float), alone[name].astype(float), atol=2e-3)
    maps = teacher.feature_maps(together, (64, 64), "cpu")
    assert [tuple(m.shape) for m in maps] == [(5, 24, 8, 8), (5, 32, 4, 4)]
    assert torch.allclose(maps[1], teacher.detector(images / 255)[1], atol=2e-3)


def test_other_strides_and_channels(teacher_file):
    rows = [[-1, 1, "Conv", [40, 3, 2]], [-1, 1, "Conv", [48, 3, 2]], [[4, 5], 1, "Detect", ["nc", "anchors"]]]
    coarser = student(cfg={**MODEL, "head": rows})  # strides 16 and 32
    teacher = Answers(teacher_file, coarser, GAINS, 64)
    assert teacher.pairs == [(0, 1)] and teacher.channels == [(40, 32)]


def test_a_teacher_that_is_equal_has_nothing_to_teach(make, teacher_file):
    trainer = prepared(make(weights=str(teacher_file), cfg="", noautoanchor=True))
    assert distiller(trainer).records["scores"][..., 0].any()
    losses = [own_loss(trainer).item()]
    state = {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}
    for size in (0.02, 0.2, 1.0):
        torch.manual_seed(0)
        trainer.learner.model.load_state_dict(state)
        with torch.no_grad():
            for parameter in trainer.learner.model.head.parameters():
                parameter += size * parameter.std() * torch.randn_like(parameter)
        losses.append(own_loss(trainer).item())
    assert losses == sorted(losses)
    assert losses[0] < 0.02 * losses[-1] and losses[0] < 0.01


def test_gradients_reach_the_student_and_the_adapters_alone(make):
    trainer = prepared(make())
    before = state_sha256(distiller(trainer).teacher.detector.state_dict())
    distiller(trainer).loss(trainer.learner.train_model.train()(trainer.learner.to_input(trainer.images, 0))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.learner.model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in distiller(trainer).adapters.parameters())
    assert all(p.grad is None and not p.requires_grad for p in distiller(trainer).teacher.detector.parameters())
    adapters = [p.clone() for p in distiller(trainer).adapters.parameters()]
    trainer.learner.optimizer_step()
    assert not any(map(torch.equal, adapters, distiller(trainer).adapters.parameters()))
    assert all(p.grad is None for p in distiller(trainer).adapters.parameters())
    assert (
        state_sha256(distiller(trainer).teacher.detector.state_dict()) == before
        and not distiller(trainer).teacher.detector.training
    )


def test_the_teacher_leaves_nothing_in_the_model(train, tiny_dataset):
    states = []
    callbacks = Callbacks()
    callbacks.register_action(
        "on_model_save", callback=lambda last, *_: states.append(load_checkpoint(last).train_state["distiller"])
    )
    trainer, alone = train(callbacks), train(teacher="")
    assert weights(trainer) != weights(alone)
    assert [set(state) for state in states] == [{"teacher", "adapters", "optimizer"}] * 3
    assert not torch.equal(states[0]["adapters"]["0.weight"], states[1]["adapters"]["0.weight"])
    for name in ("best", "last"):
        own, other = (load_checkpoint(getattr(t.run, name)) for t in (trainer, alone))
        assert own.train_state is None
        assert {k: v.shape for k, v in own.state_dict.items()} == {k: v.shape for k, v in other.state_dict.items()}
        assert not DetectionModel.from_checkpoint(own).head._forward_pre_hooks
    header = alone.run.results_csv.read_text().splitlines()[0]
    assert trainer.run.results_csv.read_text().splitlines()[0] == header


def test_without_a_teacher_nothing_of_it_is_stored(make):
    trainer = make(teacher="")
    assert not trainer.learner.hooks
    assert "distiller" not in first_checkpoint(trainer).train_state
    assert not (trainer.run.folder.parent / "teacher-cache").exists()


def test_pictures_come_again_and_the_order_does_not(make):
    trainer = make(epochs=9, close_mosaic=4)
    views = [distiller(trainer).before_epoch(epoch) for epoch in range(9)]
    assert views == [0, 1, 0, 1, 0, *(WITHOUT_MOSAIC + k for k in (1, 0, 1, 0))]
    keys = []
    for epoch, view in enumerate(views):
        trainer.loader.sampler.set_epoch(epoch, None, view)
        keys.append(list(trainer.loader.sampler))
    assert [key[0][0] for key in keys] == views
    orders = [[index for _, index in key] for key in keys]
    assert len({tuple(order) for order in orders}) == 9 and all(sorted(order) == list(range(8)) for order in orders)
    dataset = trainer.loader.dataset
    assert torch.equal(dataset[0, 3][0], dataset[0, 3][0]) and not torch.equal(dataset[0, 3][0], dataset[1, 3][0])
    assert dataset[0, 3][3] is None and dataset[WITHOUT_MOSAIC, 3][3] is not None  # shapes: without a mosaic alone
    trainer.loader.sampler.set_epoch(5)
    assert next(iter(trainer.loader.sampler))[0] == 5  # without a teacher the keys are the epoch's


def test_answers_are_the_same_from_the_cache(make):
    """And the teacher is asked once about each picture: two views, 8 images."""
    asked = []

    def run():
        callbacks = Callbacks()
        trainer = make(callbacks, epochs=5)

        def count():
            network = distiller(trainer).teacher.detector.network
            network.register_forward_hook(lambda model, inputs, output: asked.append(len(inputs[0])))

        callbacks.register_action("on_train_start", callback=count)
        complete(trainer)
        return trainer

    first = run()
    assert asked == [4] * 4
    second = run()
    assert asked == [4] * 4 and weights(first) == weights(second)
    assert len(cache_folders(first)) == 1
    shutil.rmtree(cache_folders(first)[0])
    assert weights(run()) == weights(first) and asked == [4] * 8


@pytest.mark.parametrize(
    ("hyp", "options", "same"),
    [
        ({"lr0": 0.001, "box": 0.1}, {"epochs": 4, "optimizer": "AdamW"}, True),  # the pictures are the same
        ({"hsv_h": 0.5}, {}, False),
        ({}, {"seed": 1}, False),
        ({}, {"imgsz": 96}, False),
        ({"distill_features": 0.0}, {}, False),
    ],
)
def test_a_changed_run_has_a_cache_of_its_own(train, hyp, options, same):
    train(epochs=1)
    trainer = train(hyp=hyp, **{"epochs": 1, **options})
    assert len(cache_folders(trainer)) == (1 if same else 2)


def test_changed_images_and_another_teacher_have_a_cache_of_their_own(train, tiny_dataset, tmp_path):
    train(epochs=1)
    image = next((tiny_dataset.parent / "images/train").iterdir())
    os.utime(image, ns=(1, 1))
    assert len(cache_folders(train(epochs=1))) == 2
    other = write_tiny_weights(tmp_path / "other.pt", MODEL, seed=3)
    assert len(cache_folders(train(epochs=1, teacher=str(other)))) == 3


def test_every_key_of_the_augmentation_makes_another_cache():
    augmentation = {
        "hsv_h",
        "hsv_s",
        "hsv_v",
        "flipud",
        "fliplr",
        "mosaic",
        "mixup",
        "copy_paste",
        *dataloaders.WARP_KEYS,
    }
    assert augmentation <= set(TABLE) - NOT_OF_PICTURES


@pytest.mark.parametrize(
    "options",
    [
        {"rect": True},
        {"multi_scale": True, "image_weights": True},
        {"amp": "bf16", "workers": 1},
        {"single_cls": True},  # the teacher has no class 'item': features alone
        {"hyp": {"distill_features": 0.0}},
        {"hyp": {"distill": 0.0, "nominal_batch": 8}},
    ],
    ids=str,
)
def test_it_works_with(train, options):
    trainer = train(**options)
    assert len(trainer.state.rows) == 3 and np.isfinite(trainer.state.rows[-1][1:4]).all()
    found = next(cache_folders(trainer)[0].glob("*.bin")).stat().st_size
    assert found <= 8 * distiller(trainer).cache.record_bytes


def test_evolve_asks_the_teacher_each_time(train, caplog):
    trainer = train(evolve=1, nosave=True, noval=True)
    assert "every trial of --evolve makes other pictures" in caplog.text
    assert distiller(trainer).cache is None and not (trainer.run.folder.parent / "teacher-cache").exists()


def write_segmenter(path):
    model = SegmentationModel(with_masks(MODEL))
    stride = [float(s) for s in model.stride]
    save_checkpoint(path, Checkpoint(model.yaml, {0: "box", 1: "disc"}, 2, stride, model.state_dict(), task="segment"))
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher": "nothing.pt"}, "nothing.pt"),
        ({"teacher": "segmenter.pt"}, "segmenter.pt: expected a detection model, found one for 'segment'"),
        ({"quad": True}, "--teacher: expected no --quad"),
        ({"hyp": {"distill": 0, "distill_features": 0}}, "nothing to learn from it.*distill is 0"),
        ({"single_cls": True, "hyp": {"distill_features": 0}}, "nothing to learn from it: 0 classes"),
        ({"teacher": "", "unlabeled": "new"}, "--unlabeled new: the labels come from a teacher.*pretrain.py"),
        ({"single_cls": True, "unlabeled": "new"}, r"knows a class of the data set \(item\).*pretrain.py"),
        ({"unlabeled": "no-folder"}, "no-folder: no such folder"),
        ({"teacher": "coarse.pt", "imgsz": 96}, "multiples of its largest stride, 64, found --imgsz 96"),
        ({"teacher": "coarse.pt", "rect": True}, "--rect with multiples of 32"),
    ],
)
def test_what_cannot_work_is_said_before_a_run_folder_is_made(make, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    write_segmenter(tmp_path / "segmenter.pt")
    rows = [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 2]], [[3, 5], 1, "Detect", ["nc", "anchors"]]]
    write_tiny_weights(tmp_path / "coarse.pt", {**MODEL, "head": rows})  # strides 8 and 64
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make(**options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["segment/train", "classify/train"])
def test_other_tasks_have_no_such_option(name):
    with pytest.raises(TypeError, match="teacher"):
        from_kwargs(name, {"teacher": "x.pt"})


def test_a_full_disk_means_a_slower_training_only(train, caplog):
    """Something in the place of the cache's folder stands for it: the same OSError."""
    trainer = train(epochs=1)
    folder = cache_folders(trainer)[0]
    shutil.rmtree(folder)
    folder.write_text("in the way")
    again = train(epochs=1)
    assert "from now on the teacher's answers are not kept" in caplog.text
    assert weights(again) == weights(trainer)


def test_unlabeled_images_join_with_the_teachers_boxes(train, make, tiny_dataset, teacher_file, tmp_path, caplog):
    new = write_tiny_dataset(tmp_path / "more", train=3, val=1, seed=5).parent / "images"
    trainer = train(epochs=1, unlabeled=str(new))
    dataset = trainer.loader.dataset
    assert len(dataset) == 8 + 4
    teacher = Answers(teacher_file, trainer.learner.model, GAINS, 64)
    for i in range(8, 12):
        image, _, path, _ = dataset[WITHOUT_MOSAIC, i]
        assert path.startswith(str(new))
    assert "4 images join the training set" in caplog.text
    found = teacher.labels(torch.from_numpy(dataset.load_image(8)[..., ::-1].transpose(2, 0, 1).copy())[None])[0]
    assert np.allclose(dataset.labels[8][:, 0], found[:, 0]) and len(found) > 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "more").rglob("*")}
    again = train(epochs=1, unlabeled=str(new))
    assert weights(again) == weights(trainer)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "more").rglob("*")} == before  # nothing written there
    with pytest.raises(ValueError, match="all 8 images are in the training or validation set already"):
        make(unlabeled=str(tiny_dataset.parent / "images/train"))


def test_a_resumed_training_needs_the_same_teacher(make, teacher_file):
    trainer = make()
    checkpoint = first_checkpoint(trainer)
    write_tiny_weights(teacher_file, MODEL, seed=9)
    with pytest.raises(ValueError, match="teacher.pt: the file has other weights than when the run was started"):
        fit(trainer.opt, resumed=checkpoint, folder=trainer.run.folder)


def drive(folder, data, scenarios) -> dict:
    """The results of tests/kill_driver.py."""
    command = [sys.executable, str(ROOT / "tests" / "kill_driver.py"), str(data), str(folder), json.dumps(scenarios)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_killed_and_resumed_run_gives_the_same_weights(tmp_path, teacher_file):
    """Whether the cache is empty, partly filled or full."""
    data = write_tiny_dataset(tmp_path / "tiny")
    new = write_tiny_dataset(tmp_path / "more", train=3, val=1, seed=5).parent / "images"
    options = {"teacher": str(teacher_file), "unlabeled": str(new), "epochs": 4, "hyp": {"distill_views": 2}}
    moments = [["after cache.json", 2], ["on_train_batch_end", 2], ["on_train_batch_end", 6], ["after last.pt", 1]]
    first = drive(tmp_path / "a", data, [["whole", [], options], ["warm", [], options], ["alone", [], {"epochs": 4}]])
    second = drive(tmp_path / "b", data, [["killed", moments, options]])
    whole, killed = first["whole"], second["killed"]
    assert killed["statuses"] == [-signal.SIGKILL] * len(moments) + [0]
    for key in ("last", "best"):
        assert whole[key] == first["warm"][key] == killed[key] != first["alone"][key]


@needs_shared
def test_an_official_checkpoint_teaches(make, caplog):
    """yolov5n on photos: of an equal student it has nothing to correct; a student of other classes gets some."""
    file = str(SHARED / "weights" / "yolov5n.pt")
    options = {"teacher": file, "batch_size": 2, "noautoanchor": True, "imgsz": 320}
    coco = str(SHARED / "datasets/coco256.yaml")
    trainer = prepared(make(weights=file, cfg="", data=coco, **options))
    assert "80 of 80 classes matched: person, bicycle" in caplog.text
    equal = own_loss(trainer).item()
    with torch.no_grad():
        for parameter in trainer.learner.model.head.parameters():
            parameter += 0.3 * parameter.std() * torch.randn_like(parameter)
    assert equal < 0.02 * own_loss(trainer).item()
    teacher = Answers(file, student(("person", "car", "nothing known")), GAINS, 320)
    assert teacher.student_classes == [0, 1] and teacher.classes == [0, 2]
    assert teacher.pairs == [(0, 0), (1, 1)]  # strides 8 and 16


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, tiny_dataset, teacher_file):
    """torchrun on the CPU: the same weights with an empty cache and with a full one."""
    cfg, hyp = tmp_path / "model.yaml", tmp_path / "hyp.yaml"
    save_yaml(cfg, MODEL)
    save_yaml(hyp, {"distill_views": 2})
    flags = {"cfg": cfg, "hyp": hyp, "data": tiny_dataset, "teacher": teacher_file, "project": tmp_path / "runs"}
    flags |= {"imgsz": 64, "batch-size": 4, "epochs": 3, "workers": 0, "device": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train.py"), "--noplots", *(f"--{key}={value}" for key, value in flags.items())]
    for _ in range(2):
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("teacher: answers for 2 views of 8 images") == 1
    first, second = (load_checkpoint(tmp_path / "runs" / name / "weights/last.pt") for name in ("exp", "exp2"))
    assert state_sha256(first.state_dict) == state_sha256(second.state_dict)
    files = {file.name: file.stat().st_size for file in (tmp_path / "runs/teacher-cache").rglob("*.bin")}
    assert set(files) == {"view0.bin", "view1.bin"} and len(set(files.values())) == 1
