"""What a training does: files, hooks, options, transfer, freezing, and how it ends when something goes wrong."""

import csv
import math

import pytest
import torch
from conftest import SHARED, needs_shared
from kill_driver import MODEL

from engine.hyperparameters import default_hyp, load_hyp
from engine.options import from_kwargs
from engine.train import build
from engine.train.progress import NonFiniteLossError
from engine.train.run import fit
from engine.train.schedule import epoch_seed
from models.yolo import DetectionModel
from utils.callbacks import HOOKS, Callbacks
from utils.checkpoint import load_checkpoint
from utils.general import load_yaml, usable_cores

COLUMNS = (
    "epoch train/box_loss train/obj_loss train/cls_loss "
    "metrics/precision metrics/recall metrics/mAP_0.5 metrics/mAP_0.5:0.95 "
    "val/box_loss val/obj_loss val/cls_loss x/lr0 x/lr1 x/lr2 time"
).split()


@pytest.fixture
def train(tiny_dataset, tmp_path, caplog):
    """Function (callbacks=None, **options) -> the Training as it ended, 2 epochs of 2 batches by default."""
    caplog.set_level("INFO", "yolov5_edgevit")

    def run(callbacks=None, hyp=None, **options):
        base = {"cfg": MODEL, "data": str(tiny_dataset), "epochs": 2, "batch_size": 4, "imgsz": 64, "workers": 0}
        base.update(noplots=True, project=str(tmp_path / "runs"))
        return fit(from_kwargs("train", {**base, **options}), callbacks, hyp=hyp)

    return run


def rows(trainer) -> list:
    with open(trainer.run.results_csv) as file:
        return list(csv.DictReader(file))


def test_files_of_a_run(train):
    trainer = train(noplots=False, save_period=1)
    folder = trainer.run.folder
    names = {file.name for file in folder.iterdir()}
    expected = "weights hyp.yaml opt.yaml results.csv results.png labels.jpg train_batch0.jpg train_batch1.jpg "
    expected += "train_batch2.jpg val_batch0_labels.jpg val_batch0_pred.jpg confusion_matrix.png F1_curve.png "
    expected += "PR_curve.png P_curve.png R_curve.png evidence.npz error_split.png"
    assert set(expected.split()) <= names
    assert {file.name for file in (folder / "weights").iterdir()} == {"best.pt", "last.pt", "epoch0.pt", "epoch1.pt"}
    assert list(rows(trainer)[0]) == COLUMNS
    assert [row["epoch"] for row in rows(trainer)] == ["0", "1"]
    assert load_yaml(folder / "opt.yaml")["epochs"] == 2
    assert load_yaml(folder / "hyp.yaml") == trainer.hyp


def test_the_finished_checkpoints_are_half_precision_and_describe_themselves(train):
    trainer = train()
    for file in (trainer.run.best, trainer.run.last):
        checkpoint = load_checkpoint(file)
        assert checkpoint.train_state is None
        assert all(t.dtype == torch.float16 for t in checkpoint.state_dict.values() if t.is_floating_point())
        assert (checkpoint.nc, checkpoint.names, checkpoint.imgsz) == (2, {0: "box", 1: "disc"}, 64)
        assert checkpoint.hyp == trainer.hyp
        DetectionModel.from_checkpoint(checkpoint)(torch.zeros(1, 3, 64, 64))


def test_equal_runs_give_equal_files(train):
    first, second = train(), train()
    assert first.run.folder != second.run.folder
    assert first.run.last.read_bytes() == second.run.last.read_bytes()
    assert first.run.best.read_bytes() == second.run.best.read_bytes()


def test_all_hooks_fire_with_yolov5s_arguments(train):
    calls = {hook: [] for hook in HOOKS}
    callbacks = Callbacks()
    for hook in HOOKS:
        callbacks.register_action(
            hook, callback=lambda *args, _hook=hook, **kwargs: calls[_hook].append((args, kwargs))
        )
    trainer = train(callbacks, batch_size=-1, epochs=2)  # -1, so that autobatch changes a parameter
    counts = {hook: {len(args) + len(kwargs) for args, kwargs in fired} for hook, fired in calls.items()}
    wanted = {hook: {len(arguments.split(",")) if arguments else 0} for hook, arguments in HOOKS.items()}
    assert counts == wanted

    assert calls["on_pretrain_routine_end"][0][0][0].shape == (16, 5)  # labels
    assert calls["on_train_epoch_end"] == [((), {"epoch": 0}), ((), {"epoch": 1})]
    model, iteration, images, targets, paths, losses = calls["on_train_batch_end"][1][0]
    assert isinstance(model, DetectionModel) and iteration == 1 and images.shape == (8, 3, 64, 64)
    assert targets.shape[1] == 6 and len(paths) == 8 and len(losses) == 3
    values, epoch, best, fitness = calls["on_fit_epoch_end"][1][0]
    assert len(values) == 13 and epoch == 1 and best >= fitness
    last, epoch, is_final, _, _ = calls["on_model_save"][1][0]
    assert (last, epoch, is_final) == (trainer.run.last, 1, True)
    assert {"batch_size": 16} in [args[0] for args, _ in calls["on_params_update"]]
    assert len(calls["on_train_end"][0][0][3]) == 7
    assert len(calls["on_val_end"]) == 3  # two epochs and the final one
    assert len(calls["teardown"]) == 1


def test_a_callback_can_stop_the_training(train):
    callbacks = Callbacks()

    def stop(model, iteration, *_):
        callbacks.stop_training = iteration == 3

    callbacks.register_action("on_train_batch_end", callback=stop)
    trainer = train(callbacks, epochs=9)
    assert len(rows(trainer)) == 2  # the epoch is validated and saved, then the run ends as always
    assert load_checkpoint(trainer.run.last).train_state is None


def test_defaults_of_the_data_file_are_used_and_printed(train, tiny_dataset, caplog):
    with open(tiny_dataset, "a") as file:
        file.write("imgsz: 96\nepochs: 1\nbatch: 8\noptimizer: AdamW\nhyp: hyp.shapes.yaml\n")
    trainer = train(imgsz=None, epochs=None, batch_size=None, hyp={"lr0": 0.001})
    opt = trainer.opt
    assert (opt.imgsz, opt.epochs, opt.batch_size, opt.optimizer) == (96, 1, 8, "AdamW")
    assert isinstance(trainer.learner.optimizer, torch.optim.AdamW)
    assert "data default: epochs 1 (from" in caplog.text
    assert train(imgsz=None, epochs=1, batch_size=None).hyp == load_hyp("hyp.shapes.yaml")
    other = train(imgsz=None, epochs=1, batch_size=None, optimizer="SGD")
    assert other.opt.hyp == "auto" and other.hyp == default_hyp()  # the file's are for its own optimizer


def test_gradients_left_at_the_end_of_an_epoch_are_stepped(train):
    steps = []  # optimizer steps in each epoch
    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_start", callback=lambda: steps.append(0))
    callbacks.register_action("optimizer_step", callback=lambda: steps.append(steps.pop() + 1))
    trainer = train(callbacks, hyp={"nominal_batch": 6}, batch_size=3, epochs=4)
    assert len(trainer.loader) == 3 and trainer.learner.schedule.accumulate == 2
    assert steps[2:] == [2, 2]  # after the warm-up: two batches together, then the third alone
    assert trainer.learner.ema.updates == sum(steps)


@pytest.mark.parametrize(
    ("options", "check"),
    [
        (
            {"noval": True},
            lambda t: [r["metrics/recall"] for r in rows(t)][0] == "nan" and t.state.best_fitness is not None,
        ),
        ({"nosave": True}, lambda t: {f.name for f in t.run.weights.iterdir()} <= {"best.pt", "last.pt"}),
        ({"single_cls": True}, lambda t: load_checkpoint(t.run.last).names == {0: "item"}),
        ({"label_smoothing": 0.1}, lambda t: t.learner.criterion.hyp["label_smoothing"] == 0.1),
        (
            {"cos_lr": True, "optimizer": "Adam"},
            lambda t: t.learner.schedule.cosine and isinstance(t.learner.optimizer, torch.optim.Adam),
        ),
        ({"rect": True}, lambda t: t.loader.dataset.rect),
        ({"quad": True}, lambda t: len(rows(t)) == 2),
        ({"multi_scale": True, "image_weights": True}, lambda t: len(rows(t)) == 2),
        ({"amp": "bf16"}, lambda t: t.learner.amp is torch.bfloat16),
        ({"cache": "ram", "workers": 2}, lambda t: t.loader.num_workers == min(2, usable_cores())),
        ({"close_mosaic": 1}, lambda t: t.loader.dataset.mosaic_until == 1),
        ({"patience": 1, "epochs": 9, "hyp": {"lr0": 1e-9}}, lambda t: len(rows(t)) < 9),
        ({"imgsz": 70}, lambda t: t.opt.imgsz == 96),  # the next multiple of 32
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_an_option_does_what_it_says(train, options, check):
    trainer = train(**options)
    assert check(trainer)
    assert all(math.isfinite(float(row["train/box_loss"])) for row in rows(trainer))


def test_nosave_saves_at_the_end_only(train, tmp_path):
    seen = []
    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", callback=lambda epoch: seen.append(list(tmp_path.rglob("*.pt"))))
    trainer = train(callbacks, nosave=True, epochs=3)
    assert seen == [[], [], []]
    assert trainer.run.last.is_file()


def test_quad_and_multi_scale_change_the_size_of_batches(train):
    def sizes(**options):
        seen = []
        callbacks = Callbacks()
        callbacks.register_action("on_train_batch_end", callback=lambda m, i, images, *_: seen.append(images.shape))
        train(callbacks, epochs=4, **options)
        return seen

    assert {tuple(shape) for shape in sizes(quad=True)} == {(1, 3, 128, 128)}
    scaled = {shape[2] for shape in sizes(multi_scale=True)}
    assert len(scaled) > 1 and scaled <= {32, 64, 96}


def test_image_weights_prefer_weak_classes(train):
    trainer = train(image_weights=True)
    weights = trainer.task.image_chances(trainer.loader.dataset, [1.0, 0.0])
    assert (
        weights < trainer.task.image_chances(trainer.loader.dataset, [0.0, 0.0])
    ).all()  # the weight of the mastered class is gone
    assert (weights > 0).all()


@pytest.fixture
def trained(train):
    return train().run.best


def test_weights_start_a_training_and_what_does_not_fit_is_counted(train, trained, caplog, tiny_dataset):
    total = len(load_checkpoint(trained).state_dict)
    train(weights=str(trained), cfg="", epochs=1)
    assert f"Transferred {total}/{total} items from {trained}" in caplog.text
    train(weights=str(trained), epochs=1)  # --cfg given: its anchors count
    assert f"Transferred {total - 1}/{total} items" in caplog.text

    text = tiny_dataset.read_text()
    tiny_dataset.write_text(text + "  2: third\n")
    train(
        weights=str(trained), cfg="", epochs=1
    )  # another number of classes: weight and bias of two outputs do not fit
    assert f"Transferred {total - 4}/{total} items" in caplog.text


def test_transferred_weights_are_the_file_s(train, trained):
    trainer = train(weights=str(trained), cfg="", epochs=1, hyp={"lr0": 1e-12, "warmup_bias_lr": 0.0})
    before, after = (load_checkpoint(file).state_dict for file in (trained, trainer.run.last))
    assert torch.equal(before["model.1.conv.weight"], after["model.1.conv.weight"])


@needs_shared
def test_an_official_checkpoint_starts_a_training(train, caplog):
    train(weights=str(SHARED / "weights" / "yolov5n.pt"), cfg="", epochs=1, batch_size=2, noautoanchor=True)
    assert "Transferred 343/349 items" in caplog.text  # all but weight and bias of the three outputs


def frozen(model, specs) -> set:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    build.freeze_layers(model, specs)
    return {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}


def test_freeze_by_number_and_by_name(tiny_model_cfg):
    model = DetectionModel(tiny_model_cfg)
    assert frozen(model, [0]) == set()  # the default
    assert frozen(model, ["2"]) == {"0", "1"}  # one number: the first rows
    assert frozen(model, ["0", "3"]) == {"0", "3"}  # several: those rows
    assert frozen(model, ["model.5"]) == {"5"}  # a module's name
    assert frozen(model, ["cv1"]) == {"3", "5"}  # a part of names
    with pytest.raises(ValueError, match="'model.33'.*did you mean model.3"):
        frozen(model, ["model.33"])
    with pytest.raises(ValueError, match="last row is 6, found 9"):
        frozen(model, ["1", "9"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze": [6]}, "--freeze 6: nothing is left to train"),
        ({"freeze": list(range(6))}, "--freeze 0 1 2 3 4 5: nothing is left to train"),
        ({"freeze": ["model"]}, "--freeze model: nothing is left to train"),
        ({"cfg": {**MODEL, "anchors": 2}, "noautoanchor": True}, "--noautoanchor: .* the number of anchors alone"),
        ({"hyp": {"anchors": 3}, "noautoanchor": True}, "--noautoanchor: .* the number of anchors alone"),
    ],
)
def test_what_cannot_be_trained_leaves_no_run_folder(train, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        train(**options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("options", [{"cfg": {**MODEL, "anchors": 2}}, {"hyp": {"anchors": 3}}])
def test_a_number_of_anchors_means_those_of_the_data(train, options):
    training = train(epochs=1, **options)
    head = training.learner.model.model[-1]
    assert head.na == (options.get("hyp") or options["cfg"])["anchors"]
    assert (head.anchors * head.stride.view(-1, 1, 1)).min() > 4  # Placeholders begin with 0, 1.


def test_frozen_layers_keep_their_weights(train):
    trainer = train(freeze=[1], hyp={"warmup_epochs": 0})
    first, second = (trainer.learner.model.model[i].conv.weight for i in (0, 1))
    assert not first.requires_grad and first not in trainer.learner.optimizer.state
    assert second.requires_grad and second in trainer.learner.optimizer.state


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_terms(train, tmp_path):
    with pytest.raises(NonFiniteLossError, match="epoch 0, batch 0.*box_loss inf, obj_loss 0.*cls_loss 0"):
        train(hyp={"box": 1e39})
    last = load_checkpoint(next(tmp_path.rglob("last.pt")))
    assert last.epoch == -1 and last.train_state is not None  # the one from before


def test_a_full_disk_is_reported_and_the_old_checkpoint_stays(train, tmp_path, full_disk):
    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", callback=lambda epoch: full_disk(20_000 if epoch == 1 else None))
    with pytest.raises(OSError, match=r"cannot write .*(best|last)\.pt.*the old file is still whole.*free at least"):
        train(callbacks)
    folder = next(tmp_path.rglob("weights"))
    assert load_checkpoint(folder / "last.pt").epoch == 0
    assert {file.name for file in folder.iterdir()} == {"best.pt", "last.pt"}  # nothing half-written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cfg": "", "weights": ""}, "give --cfg"),
        ({"epochs": 0}, "--epochs: expected at least 1, found 0"),
        ({"batch_size": 0}, "--batch-size"),
        ({"sync_bn": True}, "--sync-bn needs several GPUs"),
        ({"amp": "fp16", "device": "cpu"}, "--amp fp16 needs a CUDA device"),
        ({"device": "0,1"}, "torchrun --nproc_per_node 2"),
        ({"backbone_weights": __file__}, "one backbone"),
        ({"hyp": "no-such.yaml"}, "no-such.yaml"),
    ],
)
def test_wrong_options_stop_before_a_run_folder_is_made(train, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        train(**options)
    assert not (tmp_path / "runs").exists()


def test_the_seed_of_an_epoch_differs_by_seed_epoch_and_rank():
    seeds = {epoch_seed(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(seeds) == 4
    assert epoch_seed(0, 0, -1) == epoch_seed(0, 0, 0)


def test_a_tiny_model_learns_the_tiny_data_set(train):
    hyp = {"lr0": 0.005, "nominal_batch": 4, "ema_tau": 20, "ema_decay": 0.98, "mosaic": 0.0, "scale": 0.2}
    trainer = train(hyp=hyp, optimizer="AdamW", epochs=100)
    assert trainer.result.map50 > 0.5


def test_profile_says_where_the_time_went(train):
    folder = train(profile=True, workers=1).run.folder
    rows = list(csv.DictReader((folder / "profile.csv").open()))
    main = {row["stage"]: float(row["share"]) for row in rows if row["where"] == "main"}
    assert {"waiting", "forward", "loss", "backward", "step", "saving", "val inference", "val metrics"} <= main.keys()
    assert sum(main.values()) == pytest.approx(1, abs=1e-3)
    assert {"loading", "augmentation"} <= {row["stage"] for row in rows if row["where"] == "beside"}
    assert not (train(epochs=1).run.folder / "profile.csv").exists()
