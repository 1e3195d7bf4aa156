"""The evaluation loop: scores through the real loader, files, callbacks, and that nothing is disturbed."""

import json
import random
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch

from engine.hyperparameters import default_hyp
from engine.task import DETECT
from engine.val.detection import EvalResult, evaluate
from engine.val.evaluator import EvalOptions
from engine.val.files import PredictionFiles, coco_results, is_coco
from tests.conftest import write_tiny_dataset
from utils.callbacks import HOOKS, Callbacks
from utils.dataloaders import create_dataloader
from utils.loss import ComputeLoss

NAMES = {0: "box", 1: "disc"}


class Oracle(torch.nn.Module):
    """A detector that knows the targets of the batches it will be shown. Confidences fall from 1 to 0.5."""

    def __init__(self, batches, nc=2):
        super().__init__()
        self.targets, self.nc, self.calls = [batch[1] for batch in batches], nc, 0

    def forward(self, x, augment=False):
        targets = self.targets[self.calls]
        self.calls += 1
        h, w = x.shape[2:]
        out = torch.zeros(len(x), max(len(targets), 1), 5 + self.nc)
        for k, (i, cls, *xywhn) in enumerate(targets.tolist()):
            box = torch.tensor(xywhn) * torch.tensor([w, h, w, h])
            out[int(i), k] = torch.cat([box, torch.tensor([1 - k / len(targets) / 2]), torch.eye(self.nc)[int(cls)]])
        return out, None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images of three shapes, none of them square; one without objects."""
    folder = tmp_path_factory.mktemp("data") / "set"
    write_tiny_dataset(folder, train=1, val=4)
    images, labels = folder / "images" / "val", folder / "labels" / "val"
    for i, (h, w) in enumerate([(50, 91), (120, 64), (45, 200), (50, 91)]):
        file = images / f"{i:03d}.jpg"
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), (w, h)))
    cv2.imwrite(str(images / "empty.jpg"), np.full((70, 90, 3), 120, np.uint8))
    (labels / "empty.txt").write_text("")
    return images


def make_loader(folder, batch_size=2, **options):
    return create_dataloader(str(folder), 64, batch_size, 32, rect=True, pad=0.5, workers=0, **options)[0]


def test_an_oracle_scores_one(folder):
    """Through letterbox and back: all boxes meet their targets in pixels of the original images."""
    batches = list(make_loader(folder))
    result = evaluate(Oracle(batches), batches, names=NAMES, device="cpu")
    assert isinstance(result, EvalResult)
    assert (result.precision, result.recall, result.f1, result.map50, result.map) == pytest.approx((1,) * 5, abs=1e-6)
    assert result.images == 5 and result.targets == 8 and result.n_targets.tolist() == [4, 4]
    assert result.losses == (0, 0, 0) and all(ms > 0 for ms in result.speed_ms)


def test_boxes_come_back_in_original_pixels(folder):
    """The loader's labels, read again from the files, equal what the callbacks get as native boxes."""
    batches, seen = list(make_loader(folder)), {}
    callbacks = Callbacks()
    callbacks.register_action(
        "on_val_image_end", callback=lambda p, native, path, names, im: seen.update({path: native})
    )
    evaluate(Oracle(batches), batches, names=NAMES, device="cpu", callbacks=callbacks)
    for path, native in seen.items():
        h, w = cv2.imread(str(path)).shape[:2]
        text = (folder.parents[1] / "labels" / "val" / f"{path.stem}.txt").read_text()
        rows = np.array([line.split() for line in text.splitlines()], dtype=float).reshape(-1, 5)
        half = rows[:, 3:] * [w, h] / 2
        expected = np.concatenate([rows[:, 1:3] * [w, h] - half, rows[:, 1:3] * [w, h] + half], 1)
        np.testing.assert_allclose(np.sort(native[:, :4].numpy(), 0), np.sort(expected, 0), atol=1e-3)
    assert len(seen) == 5


@pytest.fixture
def model(tiny_model_cfg):
    torch.manual_seed(0)
    model = DETECT.model_class(tiny_model_cfg)
    model.hyp = default_hyp()
    return model


def test_disturbs_nothing(folder, model):
    """Weights, batch-norm statistics, each module's mode, and every random state stay; so do the loader's batches."""
    model.train()
    model.model[0].eval()  # a frozen layer must not wake up
    loader = make_loader(folder)
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    criterion = ComputeLoss(model)
    evaluate(model, loader, names=NAMES, device="cpu", compute_loss=criterion)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all() and torch.equal(torch.get_rng_state(), before[2])
    x = torch.zeros(1, 3, 64, 64)
    sum(level.sum() for level in model(x)).backward()  # nothing of inference mode is left in the model


def test_mode_is_restored_after_an_error(model):
    model.train()
    with pytest.raises(ZeroDivisionError):
        evaluate(model, (1 / 0 for _ in range(1)), names=NAMES, device="cpu")
    assert model.training


def test_losses_are_the_mean_over_batches(folder, model):
    loader = make_loader(folder)
    result = evaluate(model, loader, names=NAMES, device="cpu", compute_loss=DETECT.criterion(model, model.hyp, 640))
    model.eval()
    with torch.no_grad():
        items = [DETECT.criterion(model, model.hyp, 640)(model(x / 255)[1], targets)[1] for x, targets, _, _ in loader]
    assert result.losses == pytest.approx(torch.stack(items).mean(0).tolist(), rel=1e-5)
    assert len(result.losses) == len(DETECT.loss_names)


def test_callbacks(folder):
    calls = []
    callbacks = Callbacks()
    for hook in HOOKS:
        callbacks.register_action(hook, callback=lambda *args, hook=hook: calls.append((hook, args)))
    batches = list(make_loader(folder, batch_size=4))
    result = evaluate(Oracle(batches), batches, names=NAMES, device="cpu", callbacks=callbacks)
    image, batch = ["on_val_image_end"], ["on_val_batch_start"]
    expected = [
        "on_val_start",
        *batch,
        *image * 4,
        "on_val_batch_end",
        *batch,
        *image,
        "on_val_batch_end",
        "on_val_end",
    ]
    assert [hook for hook, _ in calls] == expected
    for hook, args in calls:
        assert len(args) == len([name for name in HOOKS[hook].split(", ") if name]), hook
    _, (batch_i, images, targets, paths, shapes, found) = calls[6]
    assert batch_i == 0 and images.dtype == torch.uint8 and len(images) == len(paths) == len(shapes) == len(found) == 4
    assert targets[:, 2:].max() > 1  # in pixels
    counts, tp, fp, p, r, f1, ap, ap50, classes, matrix = calls[-1][1]
    assert counts.tolist() == tp.tolist() == [4, 4] and fp.tolist() == [0, 0] and classes.tolist() == [0, 1]
    assert p.shape == r.shape == f1.shape == ap.shape == ap50.shape == (2,)
    assert matrix.matrix.diagonal()[:2].tolist() == [4, 4] and result.ap.tolist() == ap.tolist()


def test_files(folder, tmp_path):
    batches = list(make_loader(folder))
    options = {"save_txt": True, "save_conf": True, "save_json": True, "plots": True, "save_dir": tmp_path}
    evaluate(Oracle(batches), batches, names=NAMES, device="cpu", **options)
    pictures = [f"val_batch{i}_{kind}.jpg" for i in range(3) for kind in ("labels", "pred")]
    pictures += ["PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png"]
    for picture in pictures:
        assert cv2.imread(str(tmp_path / picture)) is not None, picture
    assert sorted(file.name for file in (tmp_path / "labels").iterdir()) == [f"{i:03d}.txt" for i in range(4)]
    for i in range(4):
        rows, truth = (
            sorted(line.split() for line in (path / f"{i:03d}.txt").read_text().splitlines())
            for path in (tmp_path / "labels", folder.parents[1] / "labels" / "val")
        )
        boxes = np.array(rows, dtype=float)
        np.testing.assert_allclose(boxes[:, :5], np.array(truth, dtype=float), atol=1e-4)  # the labels again
        assert (boxes[:, 5] >= 0.5).all() and (boxes[:, 5] <= 1).all()
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert len(results) == 8 and {entry["image_id"] for entry in results} == {0, 1, 2, 3}
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}


def test_pictures_without_any_prediction_or_target(tmp_path):
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    batch = (images, torch.zeros(0, 6), ("a.jpg",), (((32, 32), ((1.0, 1.0), (0.0, 0.0))),))
    result = evaluate(Oracle([batch]), [batch], names=NAMES, device="cpu", plots=True, save_dir=tmp_path)
    assert result.map == 0 and result.targets == 0 and (tmp_path / "confusion_matrix.png").is_file()


def test_single_class(folder):
    batches = list(make_loader(folder))
    before = [batch[1].clone() for batch in batches]
    result = evaluate(Oracle(batches), batches, names=NAMES, device="cpu", single_cls=True)
    assert result.classes.tolist() == [0] and result.n_targets.tolist() == [8] and result.map == pytest.approx(1)
    assert all(torch.equal(batch[1], targets) for batch, targets in zip(batches, before))  # the loader's stay


def test_hybrid_adds_the_true_boxes(folder, tmp_path, model):
    """A detector that finds nothing, with the labels let in: they come out again, with confidence 1."""
    batches = list(make_loader(folder))
    nothing = Oracle([(None, torch.zeros(0, 6))] * len(batches))
    options = {"save_hybrid": True, "save_txt": True, "save_conf": True, "save_dir": tmp_path}
    result = evaluate(nothing, batches, names=NAMES, device="cpu", **options)
    assert result.recall == pytest.approx(1)
    assert (tmp_path / "labels" / "000.txt").read_text().splitlines()[0].endswith(" 1")


def test_table(folder, caplog):
    batches = list(make_loader(folder))
    with caplog.at_level("INFO", logger="yolov5_edgevit"):
        evaluate(Oracle(batches), batches, names=NAMES, device="cpu", verbose=True, v5_map=True)
    rows = [record.getMessage().split() for record in caplog.records]
    assert rows[0] == ["Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95"]
    assert rows[1] == ["all", "5", "8", "1", "1", "1", "1"]
    assert rows[2][:3] == ["all", "(YOLOv5's", "recipe)"] and rows[2][3:7] == ["5", "8", "1", "1"]
    assert [row[0] for row in rows[3:]] == ["box", "disc"] and rows[3][1:3] == ["4", "4"]


def test_warns_where_nothing_is_labelled(caplog):
    batch = (
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(0, 6),
        ("a.jpg",),
        (((32, 32), ((1, 1), (0, 0))),),
    )
    evaluate(Oracle([batch]), [batch], names=NAMES, device="cpu")
    assert "no labels" in caplog.text


@pytest.mark.parametrize("options, error", [({"conf_thresh": 1}, TypeError), ({"save_txt": True}, ValueError)])
def test_bad_options(options, error, model):
    """A misspelt option, files without a folder."""
    with pytest.raises(error):
        evaluate(model, [], names=NAMES, device="cpu", **options)


def test_images_of_one_name_keep_their_text_files(tmp_path):
    files = PredictionFiles(EvalOptions(save_txt=True, save_dir=tmp_path), NAMES)
    box = np.array([[0, 0, 10, 20, 0.5, 1]])
    for path in ("a/x.jpg", "b/x.jpg", "b/y.jpg"):
        files.write(box, (20, 10), tmp_path / path)
    assert sorted(file.name for file in (tmp_path / "labels").iterdir()) == ["x.txt", "x_2.txt", "y.txt"]
    assert (tmp_path / "labels" / "x.txt").read_text() == "1 0.5 0.5 1 1\n"  # no confidence unless asked for


@pytest.mark.parametrize(("option", "name"), [("save_json", "predictions.json"), ("save_txt", "img.txt")])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, full_disk, option, name):
    files = PredictionFiles(EvalOptions(**{option: True}, save_dir=tmp_path), NAMES)
    boxes = np.tile(np.array([[0, 0, 10, 20, 0.5, 1]]), (1000, 1))
    full_disk(10_000)
    with pytest.raises(OSError, match=f"cannot write .*{name}"):
        files.write(boxes, (20, 10), tmp_path / "img.jpg")
        files.close()
    full_disk(None)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_coco_results(tmp_path):
    boxes = np.array([[10, 20, 40, 60.1234, 0.987654321, 79]], dtype=np.float32)
    names = dict.fromkeys(range(80), "x") | {0: "person", 1: "bicycle", 79: "toothbrush"}
    assert is_coco(names) and not is_coco(NAMES)
    ids = PredictionFiles(EvalOptions(), names).category_ids
    (entry,) = coco_results(boxes, tmp_path / "000000000139.jpg", ids)
    assert entry == {"image_id": 139, "category_id": 90, "bbox": [10, 20, 30, 40.123], "score": 0.98765}
    assert coco_results(boxes, tmp_path / "street.jpg", range(80))[0]["image_id"] == "street"


def test_result_has_all_fields_that_the_trainer_and_loggers_read():
    names = {field.name for field in fields(EvalResult)}
    assert {"precision", "recall", "map50", "map", "losses", "maps", "speed_ms", "v5", "ap_small"} <= names
