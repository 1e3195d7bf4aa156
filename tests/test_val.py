"""val.py: from files to figures, as a user runs it."""

import csv
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import val
from engine.options import from_kwargs
from engine.val import run as validation
from tests.conftest import ROOT, SHARED, needs_shared
from tests.scripts import run_script
from tests.tiny_detector import write_tiny_weights
from tests.utils.test_metrics import pycocotools_evaluation
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.general import load_yaml, save_yaml
from utils.metrics import DetectionMetrics
from utils.torch_utils import multiplies_bfloat16


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


@pytest.fixture
def options(tmp_path, weights, tiny_dataset):
    """What every run needs: small, on the CPU, results below tmp_path."""
    return {"weights": weights, "data": tiny_dataset, "device": "cpu", "workers": 0, "project": tmp_path / "runs"}


def command(*args, cwd=ROOT):
    return run_script("val.py", *args, cwd=cwd)


def test_run_writes_everything(options, tmp_path):
    result = val.run(**options, save_txt=True, save_conf=True, save_json=True, verbose=True, v5_map=True)
    assert result.images == 4 and result.targets == 8 and 0 <= result.map <= result.map50 <= 1
    found = {file.name for file in (tmp_path / "runs" / "exp").iterdir()}
    curves = {f"{letter}_curve.png" for letter in ("PR", "F1", "P", "R")}
    pictures = {"val_batch0_labels.jpg", "val_batch0_pred.jpg", "confusion_matrix.png", "error_split.png"}
    assert found == {"labels", "predictions.json", "evidence.npz"} | curves | pictures
    val.run(**options)
    assert (tmp_path / "runs" / "exp2").is_dir()  # a second run gets its own folder


def test_profile_says_where_the_time_went(options, tmp_path):
    val.run(**options, profile=True)
    rows = list(csv.DictReader((tmp_path / "runs" / "exp" / "profile.csv").open()))
    main = {row["stage"]: float(row["share"]) for row in rows if row["where"] == "main"}
    assert {"model", "labels", "waiting", "inference", "NMS", "metrics", "plots", "evidence", "other"} <= main.keys()
    assert sum(main.values()) == pytest.approx(1, abs=1e-3)


def test_command_line(options, tmp_path):
    flags = [
        "--weights",
        options["weights"],
        "--data",
        options["data"],
        "--project",
        options["project"],
        "--workers",
        "0",
    ]
    done = command(*map(str, flags), "--v5-map", "--device", "cpu", "--half", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("image size 64", "all (YOLOv5's recipe)", "by size", "Results saved to", "ms NMS per image"):
        assert text in done.stdout
    assert multiplies_bfloat16() or "--half: this CPU does not multiply bfloat16" in done.stdout
    assert re.search(r"all +4 +8( +[\d.e-]+){4}\n", done.stdout)


def test_help_needs_no_torch():
    code = "import sys, runpy; sys.argv = ['val.py', '--help']\ntry: runpy.run_path('val.py', run_name='__main__')\n"
    code += "except SystemExit as done: sys.exit(done.code or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--v5-map" in done.stdout


@pytest.mark.parametrize(
    "given, in_checkpoint, in_data, expected", [(96, 64, 32, 96), (None, 64, 32, 64), (None, None, 32, 32)]
)
def test_image_size(options, weights, tiny_dataset, monkeypatch, given, in_checkpoint, in_data, expected):
    """The flag, else the checkpoint's, else the data file's."""
    checkpoint = load_checkpoint(weights)
    checkpoint.imgsz = in_checkpoint
    save_checkpoint(weights, checkpoint)
    tiny_dataset.write_text(tiny_dataset.read_text() + f"imgsz: {in_data}\n")
    sizes = []
    monkeypatch.setattr(validation, "measure", lambda opt, *args, **kwargs: sizes.append(opt.imgsz))
    monkeypatch.setattr(validation, "print_report", lambda *args: None)
    val.run(**options, imgsz=given)
    assert sizes == [expected]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"conf_thresh": 0.1}, TypeError, "did you mean conf_thres"),
        ({"task": "vals"}, ValueError, "task"),
        ({"task": "test"}, ValueError, "test"),  # the data file has no test split
        ({"data": "missing.yaml"}, FileNotFoundError, "missing.yaml"),
        ({"weights": "model.bin"}, ValueError, "expected a model file"),
        ({"conf_thres": 2}, ValueError, "conf_thres must be between 0 and 1"),
    ],
)
def test_bad_options(options, change, error, message):
    with pytest.raises(error, match=message):
        val.run(**{**options, **change})


def test_classes_of_model_and_data_must_fit(options, tiny_dataset, weights, caplog):
    text = tiny_dataset.read_text()
    tiny_dataset.write_text(text + "  2: ring\n")
    with pytest.raises(ValueError, match="tiny.pt has 2 classes, .*tiny.yaml has 3"):
        val.run(**options)
    done = command("--weights", str(weights), "--data", str(tiny_dataset), "--device", "cpu")
    assert (
        done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    )
    val.run(**options, single_cls=True, task="speed")  # classes do not matter then
    tiny_dataset.write_text(text.replace("disc", "circle"))
    val.run(**options, task="speed")
    assert "class 1 is 'disc' in the model and 'circle' in" in caplog.text


def test_ensemble_and_augment(options, tmp_path, tiny_model_cfg):
    """With nothing suppressed, the ensemble has the boxes of both, and augmentation those of three image sizes."""
    other = write_tiny_weights(tmp_path / "other.pt", tiny_model_cfg, seed=1)
    first = options["weights"]

    def count(weights, **change):
        boxes = []
        callbacks = Callbacks()
        callbacks.register_action("on_val_image_end", callback=lambda found, *_: boxes.extend(found))
        opt = from_kwargs("val", {**options, "weights": weights, "max_det": 10**6, **change})
        opt, model, data = validation.open_all(opt, split="val")
        opt.iou_thres, opt.conf_thres = 1.0, 0.5
        validation.measure(opt, model, data, callbacks)
        return len(boxes)

    assert count([first, other]) == count(first) + count(other) > 0
    assert count(first, augment=True) > count(first)


def test_tasks(options, tmp_path, monkeypatch, tiny_model_cfg):
    assert val.run(**options, task="train").images == 8
    (speed,) = val.run(**options, task="speed")
    assert speed.images == 4 and all(ms > 0 for ms in speed.speed_ms)
    monkeypatch.setattr(validation, "STUDY_SIZES", (32, 64))
    other = write_tiny_weights(tmp_path / "other.pt", tiny_model_cfg, seed=1)
    results = val.run(**{**options, "weights": [options["weights"], other]}, task="study", name="study")
    assert len(results) == 4
    for name in ("tiny", "other"):
        stem = tmp_path / "runs" / "study" / f"study_tiny_{name}"
        header, *rows = stem.with_suffix(".txt").read_text().splitlines()
        assert header.split() == list(validation.STUDY_COLUMNS)
        assert [row.split()[0] for row in rows] == ["32", "64"]
        assert stem.with_suffix(".png").stat().st_size > 1000
    assert validation.STUDY_COLUMNS[:5] == ("imgsz", "P", "R", "mAP50", "mAP50-95")


def test_same_figures_with_any_batch_size_and_worker_count(options):
    """The images are all of one shape, so the batches differ in nothing that counts."""
    one, four = (val.run(**{**options, "workers": w}, batch_size=b, conf_thres=0.2) for b, w in ((1, 0), (4, 2)))
    assert one.map == pytest.approx(four.map, abs=1e-6) and one.v5 == pytest.approx(four.v5, abs=1e-6)


def recorded_run(monkeypatch, **options):
    """(result, images): images holds the predictions [n, 6] and targets [m, 5] of every image that was scored."""
    images, update = [], DetectionMetrics.update

    def record(self, predictions, targets):
        images.append((predictions.copy(), targets.copy()))
        update(self, predictions, targets)

    monkeypatch.setattr(DetectionMetrics, "update", record)
    return val.run(**options), images


def assert_equals_pycocotools(result, images):
    expected = pycocotools_evaluation(images, 80)
    actual = [result.map, result.map50, result.ap_small, result.ap_medium, result.ap_large]
    np.testing.assert_allclose(np.nan_to_num(actual, nan=-1), expected.stats[[0, 1, 3, 4, 5]], atol=1e-6)
    per_class = expected.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    np.testing.assert_allclose(result.ap, per_class[result.classes], atol=1e-6)


@needs_shared
def test_real_predictions_score_as_with_pycocotools(tmp_path, monkeypatch):
    """An official checkpoint on a list file of 16 photographs of COCO."""
    photos = sorted((SHARED / "datasets" / "coco256" / "images" / "val2017").glob("*.jpg"))[:16]
    (tmp_path / "photos.txt").write_text("\n".join(map(str, photos)))
    names = load_yaml(SHARED / "datasets" / "coco256.yaml")["names"]
    save_yaml(tmp_path / "photos.yaml", {"path": tmp_path, "val": "photos.txt", "names": names})
    options = {"weights": SHARED / "weights" / "yolov5n.pt", "data": tmp_path / "photos.yaml", "project": tmp_path}
    result, images = recorded_run(monkeypatch, **options, imgsz=320, workers=0, save_json=True)
    assert result.map > 0.3 and len(images) == 16
    assert_equals_pycocotools(result, images)
    entries = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in entries} <= {int(photo.stem) for photo in photos}
    assert max(entry["category_id"] for entry in entries) > 80  # COCO's own numbers


@pytest.mark.slow
@needs_shared
def test_official_checkpoint_gives_yolov5s_figures(tmp_path, monkeypatch):
    """golden/yolov5n_val.md within 0.002, and pycocotools' AP of the very same predictions within 1e-6."""
    options = {"weights": SHARED / "weights" / "yolov5n.pt", "data": SHARED / "datasets" / "coco256.yaml"}
    result, images = recorded_run(monkeypatch, **options, imgsz=640, batch_size=16, project=tmp_path, v5_map=True)
    row = re.search(r"^\| 0\..*$", (SHARED / "golden" / "yolov5n_val.md").read_text(), re.M).group()
    assert result.v5 == pytest.approx([float(value) for value in row.split("|")[1:5]], abs=0.002)
    assert (result.images, result.targets) == (128, 898)
    assert_equals_pycocotools(result, images)


def test_a_pickle_that_names_a_function_is_refused(options, tmp_path):
    """And nothing in it runs."""
    marker = tmp_path / "ran"
    bad = tmp_path / "bad.pt"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save({"model": Attack()}, bad, pickle_module=pickle)
    with pytest.raises(ValueError, match="system"):
        val.run(**{**options, "weights": bad})
    assert not marker.exists()
