"""Segmentation on the engine: scores of an oracle through the real loader, a training's files, predictions."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import with_masks, write_tiny_dataset
from kill_driver import MODEL

import segment.predict
import segment.train
import segment.val
from engine.hyperparameters import default_hyp
from engine.options import from_kwargs
from engine.train.start import build_model
from engine.val.detection import evaluate
from extras.segment.task import SEGMENT, SegmentEvaluator
from models.yolo import DetectionModel
from utils.callbacks import HOOKS, Callbacks
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.data.labels import parse_labels
from utils.dataloaders import create_dataloader

NAMES = {0: "box", 1: "disc"}
EPOCHS = 20  # enough, on any CPU, for masks that are not empty
LOSSES = ["box_loss", "seg_loss", "obj_loss", "cls_loss"]
METRICS = [f"{name}({kind})" for kind in "BM" for name in ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")]


class Oracle(torch.nn.Module):
    """Knows the targets of the batches that it will be shown: its prototypes are their masks."""

    def __init__(self, batches):
        super().__init__()
        self.targets, self.calls = [batch[1] for batch in batches], 0

    def forward(self, x, augment=False):
        targets = self.targets[self.calls]
        self.calls += 1
        (h, w), n = x.shape[2:], len(targets)
        predictions = torch.zeros(len(x), n, 5 + 2 + n)
        protos = torch.full((len(x), n, h // 4, w // 4), -1.0)
        for k, (i, cls, *xywhn) in enumerate(targets.boxes.tolist()):
            box = torch.tensor(xywhn) * torch.tensor([w, h, w, h])
            row = torch.cat([box, torch.tensor([1 - k / n / 2]), torch.eye(2)[int(cls)], 20 * torch.eye(n)[k]])
            predictions[int(i), k] = row
            protos[int(i), k] = targets.masks[k] * 2.0 - 1 if targets.has_mask[k] else 1.0
        return predictions, protos


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny data set with polygons; the validation images have three shapes, and a row of one label is a box."""
    data = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", polygons=True)
    images, labels = data.parent / "images/val", data.parent / "labels/val"
    for i, (h, w) in enumerate([(100, 181), (240, 128), (90, 400), (100, 181)]):
        cv2.imwrite(str(images / f"{i:03d}.jpg"), cv2.resize(cv2.imread(str(images / f"{i:03d}.jpg")), (w, h)))
    cv2.imwrite(str(images / "empty.jpg"), np.full((70, 90, 3), 120, np.uint8))
    first = labels / "000.txt"
    box, disc = first.read_text().splitlines()
    x, y = np.array(box.split()[1:], float).reshape(-1, 2).T
    as_box = [x.min() + np.ptp(x) / 2, y.min() + np.ptp(y) / 2, np.ptp(x), np.ptp(y)]
    first.write_text(" ".join(["0", *map(str, as_box)]) + f"\n{disc}\n")
    return data


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The run folder of a short training."""
    options = {
        "cfg": with_masks(MODEL),
        "data": str(data),
        "epochs": EPOCHS,
        "batch_size": 4,
        "imgsz": 64,
        "workers": 0,
    }
    project = tmp_path_factory.mktemp("runs")
    return project / segment.train.run(**options, project=str(project)).save_dir.split("/")[-1]


def test_an_oracle_scores_one(data):
    """Through letterbox and back; a row that is a box counts for boxes alone, an image without labels is no error."""
    options = {"rect": True, "pad": 0.5, "workers": 0, "masks": True, "mask_ratio": 4, "overlap": False}
    batches = list(create_dataloader(str(data.parent / "images/val"), 256, 3, 32, **options)[0])
    result = evaluate(Oracle(batches), batches, names=NAMES, device="cpu", evaluator=SegmentEvaluator)
    assert (result.boxes.images, result.boxes.targets, result.masks.targets) == (5, 8, 7)
    assert result.boxes.map == pytest.approx(1) and result.masks.map50 == pytest.approx(1)
    assert result.masks.map > 0.85  # the prototypes have a quarter of the images' resolution
    assert result.fitness == pytest.approx(result.boxes.fitness + result.masks.fitness)


def test_files_of_a_run(trained):
    names = {file.name for file in trained.iterdir()}
    curves = {f"{kind}{curve}_curve.png" for kind in ("Box", "Mask") for curve in ("PR", "F1", "P", "R")}
    assert {*curves, "results.png", "train_batch0.jpg", "val_batch0_pred.jpg", "confusion_matrix.png"} <= names
    rows = list(csv.DictReader((trained / "results.csv").open()))
    columns = [f"train/{name}" for name in LOSSES] + [f"metrics/{name}" for name in METRICS]
    columns += [f"val/{name}" for name in LOSSES] + ["x/lr0", "x/lr1", "x/lr2", "time"]
    assert list(rows[0]) == ["epoch", *columns] and len(rows) == EPOCHS
    assert all(float(rows[1][f"{split}/seg_loss"]) > 0 for split in ("train", "val"))
    assert load_checkpoint(trained / "weights/best.pt").task == "segment"


def test_validation_writes_masks_and_fires_every_hook(trained, data, tmp_path):
    fired, callbacks = set(), Callbacks()
    for hook in HOOKS:
        callbacks.register_action(hook, callback=lambda *args, hook=hook: fired.add(hook))
    weights = str(trained / "weights/best.pt")
    options = {"weights": weights, "data": str(data), "save_txt": True, "save_json": True, "project": str(tmp_path)}
    result = segment.val.run(callbacks, **options, workers=0, verbose=True)
    assert {"on_val_start", "on_val_image_end", "on_val_batch_end", "on_val_end"} <= fired
    records = json.loads((tmp_path / "exp/predictions.json").read_text())
    assert len(records) > 0 and all(set(record["segmentation"]) == {"size", "counts"} for record in records)
    assert len(SEGMENT.figures(result)) == len(METRICS)


@pytest.mark.parametrize("retina_masks", [False, True])
def test_prediction(trained, data, tmp_path, retina_masks):
    """Masks lie in their pictures; the text files are polygon labels; pictures and JSON are written."""
    options = {"weights": str(trained / "weights/best.pt"), "source": str(data.parent / "images/val")}
    options |= {"conf_thres": 0.001, "max_det": 30, "save_txt": True, "save_json": True, "project": str(tmp_path)}
    results = segment.predict.run(**options, retina_masks=retina_masks)
    assert len(results) == 5 and sum(len(result.boxes) for result in results) > 0
    for result in results:
        assert len(result.masks) == len(result.boxes)
        for mask in result.masks:
            assert mask.whole(result.shape).sum() == mask.pixels.sum()
    texts = [file.read_text() for file in (tmp_path / "exp/labels").glob("*.txt")]
    assert texts and all(not parse_labels(text, nc=2).errors for text in texts)
    assert sum((parse_labels(text).counts >= 3).sum() for text in texts) > 0
    records = json.loads((tmp_path / "exp/predictions.json").read_text())
    assert all("polygon" in box for record in records for box in record["boxes"])
    assert len(list((tmp_path / "exp").glob("*.jpg"))) == 5


def test_models_of_other_tasks_are_refused(trained, data):
    import detect
    import val

    weights = str(trained / "weights/best.pt")
    with pytest.raises(ValueError, match="expected a model for 'detect', found one for 'segment'"):
        detect.run(weights=weights, source=str(data.parent / "images/val"), nosave=True)
    with pytest.raises(ValueError, match="expected a model for 'detect', found one for 'segment'"):
        val.run(weights=weights, data=str(data))


def test_a_detector_starts_a_segmentation_model(tiny_model_cfg):
    """With --cfg all tensors but the head's are taken; without it there is nothing to build."""
    detector = DetectionModel(tiny_model_cfg)
    start = Checkpoint(detector.yaml, detector.names, 2, [8.0, 16.0], detector.state_dict())
    opt = from_kwargs("segment/train", {"cfg": with_masks(tiny_model_cfg), "weights": "detector.pt"})
    model = build_model(opt, default_hyp(), detector.names, SEGMENT, start, None)
    own, given = model.state_dict(), detector.state_dict()
    taken = [name for name in given if torch.equal(own.get(name, torch.zeros(())), given[name])]
    head = f"model.{detector.head.i}."
    assert {name for name in given if not name.startswith(head)} <= set(taken)
    opt.cfg = ""
    with pytest.raises(ValueError, match="expected a model for 'segment', found one for 'detect'; with --cfg"):
        build_model(opt, default_hyp(), detector.names, SEGMENT, start, None)
