"""--tile in detect.py and val.py, with checkpoints and exported files."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import detect
import val
from engine import options
from engine.predict.run import build_detector
from extras.tile.tiler import Tiler, may_join
from models.backends import DetectMultiBackend
from tests.tiny_detector import write_tiny_weights
from utils.extras import load_extra
from utils.sources.frame import Frame


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


@pytest.fixture
def large(tmp_path):
    """A folder with one picture of 160 x 224 px."""
    picture = np.random.default_rng(0).integers(0, 255, (20, 28, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / "large").mkdir()
    cv2.imwrite(str(tmp_path / "large" / "a.png"), picture)
    return tmp_path / "large"


def found(tmp_path, **kwargs):
    (result,) = detect.run(nosave=True, project=tmp_path / "out", imgsz=64, **kwargs)
    return result.boxes


def test_more_is_found_and_inside_the_picture(weights, large, tmp_path):
    whole = found(tmp_path, weights=weights, source=large)
    tiled = found(tmp_path, weights=weights, source=large, tile=64)
    assert len(tiled) > len(whole) > 0
    assert (tiled[:, :2] >= 0).all() and (tiled[:, 2:4] <= [224, 160]).all()
    assert (np.diff(tiled[:, 4]) <= 0).all() and len(
        found(tmp_path, weights=weights, source=large, tile=64, max_det=3)
    ) == 3
    only = found(tmp_path, weights=weights, source=large, tile=64, classes=[1])
    assert set(only[:, 5]) == {1}


def test_a_picture_that_fits_into_a_tile_is_looked_at_once(weights, large, tmp_path):
    whole, tiled = (found(tmp_path, weights=weights, source=large, tile=tile) for tile in (None, 224))
    np.testing.assert_array_equal(whole, tiled)


def test_strips_find_what_tiles_find(weights, large):
    """Where the picture is no higher than a strip, the strip is all of it, at the scale of its tiles."""
    image = np.ascontiguousarray(cv2.imread(str(large / "a.png"))[:64, :, ::-1])
    seen = []
    model = DetectMultiBackend(weights, "cpu")
    model.predict = lambda pictures, augment: seen.append(pictures.shape) or model.backend.predict(pictures, augment)
    nms = {"conf_thres": 0.3, "iou_thres": 0.5, "max_det": 300}
    found = [Tiler(model, (64, 64), 64, 0.2, nms, joined=joined).find_boxes(image) for joined in (False, True)]
    assert sorted(seen) == [(1, 32, 64, 3)] * 2 + [(1, 64, 64, 3)] * 5 + [(1, 64, 224, 3)]
    assert all(map(len, found))


def test_an_exported_file_finds_the_same(weights, large, tmp_path):
    """One of any size, so that tiles are joined in both."""
    flags = {"weights": weights, "include": ["onnx"], "imgsz": [64], "dynamic": True}
    (result,) = load_extra("export.exporter").export_formats(options.from_kwargs("export", flags))
    ours, theirs = (found(tmp_path, weights=file, source=large, tile=64) for file in (weights, result.file))
    assert abs(len(ours) - len(theirs)) <= 0.02 * len(ours) and len(ours) > 20
    scale = np.array([1.01, 1.01, 1.01, 1.01, 1e-3, 1e-3])  # whole pixels, rounding of confidences
    partners = [(np.abs(theirs - box) <= scale).all(1).any() for box in ours]
    assert np.mean(partners) > 0.97  # where two boxes are equally good, rounding chooses


def test_a_server_gets_a_detector_that_tiles_by_itself(weights, large):
    """As extras/serve makes one: build_detector(), batches() and detect()."""
    opt = options.from_kwargs("detect", {"weights": [weights], "tile": 64, "imgsz": [64]})
    detector = build_detector(opt)
    image = cv2.imread(str(large / "a.png"))
    ((prepared,),) = detector.batches([[Frame("a.png", image)]])
    ((number, result, line),) = detector.detect([prepared])
    assert number == 0 and len(result.boxes) and "160x224" in line


def test_validation_is_that_of_the_detector(weights, tiny_dataset, tmp_path, monkeypatch):
    """Pictures of 64 px in tiles of 32: the boxes that val.py saves are those that detect.py finds."""
    limits = {"weights": weights, "imgsz": 64, "tile": 32, "iou_thres": 0.5, "max_det": 300, "conf_thres": 0.3}
    same = {"data": tiny_dataset, "device": "cpu", "workers": 0, "project": tmp_path / "runs", "save_txt": True}
    monkeypatch.setattr("extras.tile.tiler.final_boxes", one_label(monkeypatch))
    result = val.run(**limits, **same, save_conf=True)
    assert result.images == 4 and result.ap_small >= 0
    source = tiny_dataset.parent / "images" / "val"
    for one in detect.run(**limits, source=source, nosave=True, project=tmp_path / "out"):
        rows = np.loadtxt(tmp_path / "runs" / "exp" / "labels" / f"{one.stem}.txt", ndmin=2)
        assert len(rows) == len(one.boxes)
        np.testing.assert_allclose(rows[:, 5], one.boxes[:, 4], atol=1e-5)
        sides = (one.boxes[:, 2:4] - one.boxes[:, :2]) / 64
        np.testing.assert_allclose(rows[:, 3:5], sides, atol=1.01 / 64)


def one_label(monkeypatch):
    """Return final_boxes() with the best class of a box alone, as detect.py has it."""
    from utils.nms import final_boxes

    return lambda *args, **options: final_boxes(*args, **{**options, "multi_label": False})


@pytest.mark.parametrize(
    ("row", "changes", "expected"),
    [
        ("Conv", {}, True),
        ("C3TR", {}, False),  # attention
        ("EdgeViT_XXS", {}, False),
        ("Conv", {"fixed_hw": (640, 640)}, False),  # a file for one size
        ("Conv", {"end2end": True}, False),  # with a number of boxes for one tile
        ("Conv", {"files": ["a.pt", "b.pt"]}, False),
        ("Conv", {"yaml": {}}, False),  # of a model without a description
    ],
)
def test_what_may_go_through_in_strips(row, changes, expected):
    yaml = {"backbone": [[-1, 1, row, [8]]], "head": [[[0], 1, "Detect", ["nc", "anchors"]]]}
    usual = {"yaml": yaml, "fixed_hw": None, "end2end": False, "files": ["a.pt"]}
    assert may_join(SimpleNamespace(**{**usual, **changes})) == expected


@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        (detect.run, {"tile": 8}, "tile must be a whole number between 32 and 65536, found 8"),
        (detect.run, {"tile": 64, "overlap": 1.0}, "overlap must be between 0 and 0.9, found 1.0"),
        (detect.run, {"tile": 64, "visualize": True}, "--tile and --visualize exclude each other"),
        (detect.run, {"tile": 64, "iou_thres": 0}, "--tile needs an IoU threshold above 0, found 0"),
        (val.run, {"tile": 64, "precision": 0.9}, "--tile: thresholds are worked out on whole pictures"),
    ],
)
def test_wrong_options(run, flags, message, weights, large, tiny_dataset, tmp_path):
    where = {"source": large} if run is detect.run else {"data": tiny_dataset, "workers": 0}
    with pytest.raises(ValueError, match=message):
        list(run(weights=weights, project=tmp_path / "runs", **where, **flags))
