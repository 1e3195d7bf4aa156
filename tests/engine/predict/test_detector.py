"""Detection from source to Results: equal boxes however the pictures are grouped, and equal to the reference."""

import csv
import types

import cv2
import numpy as np
import pytest
import torch

import utils.general
from engine import options
from engine.predict.detector import Detector, Prepared, Result, batches_of_equal_shape, in_order
from engine.predict.run import inference_size_hw, predict
from models.backends import DetectMultiBackend
from tests.conftest import SHARED, needs_shared
from tests.tiny_detector import write_tiny_weights
from utils.boxes import box_iou
from utils.sources.frame import Frame

SIZES = [(48, 64), (64, 48), (64, 64), (48, 64), (30, 64), (48, 64), (64, 48), (100, 90), (20, 100)]


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


@pytest.fixture
def pictures(tmp_path):
    """A folder with nine pictures of noise and rectangles in SIZES (height, width)."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate(SIZES):
        image = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (w, h))
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


def detect(tmp_path, **kwargs) -> list:
    kwargs = {"project": str(tmp_path / "runs"), "nosave": True, "data": "", **kwargs}
    return list(predict(options.from_kwargs("detect", kwargs)))


def test_results(tmp_path, weights, pictures):
    results = detect(tmp_path, weights=str(weights), source=pictures, max_det=20)
    assert [r.path for r in results] == [str(pictures / f"{i}.png") for i in range(9)]
    assert [r.shape for r in results] == SIZES and [r.stem for r in results] == [str(i) for i in range(9)]
    assert len({r.boxes.tobytes() for r in results}) == 9  # the detector does look at the picture
    for r in results:
        assert r.boxes.dtype == np.float32 and 1 <= len(r.boxes) <= 20 and r.boxes.shape[1] == 6
        assert (r.boxes[:, :4] == r.boxes[:, :4].round()).all() and (r.boxes[:, :4] >= 0).all()
        assert (r.boxes[:, [2, 3]] <= r.shape[::-1]).all() and (r.boxes[:, [2, 3]] >= r.boxes[:, [0, 1]]).all()
        assert (np.diff(r.boxes[:, 4]) <= 0).all() and (r.boxes[:, 4] > 0.25).all()
        assert r.names == {0: "box", 1: "disc"} and r.kind == "image" and r.image.shape == (*r.shape, 3)


def test_profile_says_where_the_time_went(tmp_path, weights, pictures):
    detect(tmp_path, weights=str(weights), source=pictures, nosave=False, profile=True)
    rows = list(csv.DictReader((tmp_path / "runs" / "exp" / "profile.csv").open()))
    stages = {(row["stage"], row["where"]) for row in rows}
    assert {("model", "main"), ("waiting", "main"), ("other", "main")} <= stages
    assert {"loading", "letterbox", "inference", "NMS", "drawing", "writing"} <= {stage for stage, _ in stages}
    assert sum(float(row["share"]) for row in rows if row["where"] == "main") == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_boxes_do_not_depend_on_the_batch_size(tmp_path, weights, pictures, batch_size):
    alone = detect(tmp_path, weights=str(weights), source=pictures)
    together = detect(tmp_path, weights=str(weights), source=pictures, batch_size=batch_size)
    assert [r.path for r in together] == [r.path for r in alone]  # the order of the source
    for a, b in zip(alone, together):
        assert len(a.boxes) == len(b.boxes) > 0
        np.testing.assert_allclose(np.sort(a.boxes, 0), np.sort(b.boxes, 0), atol=1e-4)


def test_batches_hold_pictures_of_one_shape():
    shapes = [(2, 3), (4, 3), (2, 3), None, (2, 3), (2, 3), (4, 3)]
    window = [Prepared(Frame("x"), i, shape and np.zeros((*shape, 3), np.uint8)) for i, shape in enumerate(shapes)]

    def numbers(batch_size):
        return [[p.number for p in batch] for batch in batches_of_equal_shape(window, batch_size)]

    assert numbers(3) == [[0, 2, 4], [5], [1, 6], [3]]
    assert numbers(1) == [[0], [2], [4], [5], [1], [6], [3]]


def test_in_order_waits_for_the_next_number():
    groups = [[(1, "b", ""), (3, "d", "")], [(0, "a", "")], [(2, "c", "")]]
    assert [result for result, _ in in_order(groups)] == ["a", "b", "c", "d"]
    first = in_order(iter([[(0, "a", "")], None]))  # nothing is held back
    assert next(first) == ("a", "")


def test_a_batch_runs_together_and_errors_keep_their_place(weights):
    model = DetectMultiBackend(weights)
    calls = []
    spy = types.SimpleNamespace(stride=32, fixed_hw=None, end2end=False, names=model.names, device="cpu")
    spy.predict = lambda x, *args: calls.append(x.shape) or model.predict(x, *args)
    frames = [Frame(f"{i}", np.full((48, 64, 3), 9 * i, np.uint8)) for i in range(5)]
    frames.insert(2, Frame("broken", error="broken: no image"))
    detector = Detector(spy, [64, 64], batch_size=4)
    reports = list(in_order(map(detector.detect, detector.batches([frames]))))
    assert calls == [(4, 64, 64, 3), (1, 64, 64, 3)]
    assert [result.error for result, _ in reports] == ["", "", "broken: no image", "", "", ""]
    assert reports[2][1] == "image 1/1 broken: no image" and "64x64" in reports[0][1]


def test_options_reach_the_detector(tmp_path, weights, pictures):
    def boxes(**flags):
        flags = {"weights": str(weights), "source": pictures / "0.png", **flags}
        return [r.boxes for r in detect(tmp_path, **flags)][0]

    everything = boxes()
    assert {0, 1} == set(everything[:, 5])
    assert set(boxes(classes=[1])[:, 5]) == {1}
    middle = float(np.median(everything[:, 4]))
    assert boxes(conf_thres=middle)[:, 4].min() > middle and len(boxes(conf_thres=middle)) < len(everything)
    assert len(boxes(max_det=3)) == 3
    assert len(boxes(iou_thres=0.9)) > len(everything)
    assert len(boxes(iou_thres=0.1, agnostic_nms=True)) < len(boxes(iou_thres=0.1))
    assert boxes(augment=True).tobytes() != everything.tobytes()
    assert boxes(imgsz=[96]).tobytes() != everything.tobytes()
    both = boxes(weights=[str(weights), str(weights)])  # an ensemble of two equal models adds nothing
    assert len(both) == len(everything)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"classes": [5]}, ["--classes [5]", "0 to 1"]),
        ({"batch_size": 0}, ["--batch-size", "found 0"]),
        ({"imgsz": [64, 64, 64]}, ["--imgsz", "height and width"]),
        ({"conf_thres": 1.5}, ["conf_thres", "1.5"]),
    ],
)
def test_wrong_options(tmp_path, weights, pictures, flags, words):
    with pytest.raises(ValueError) as caught:
        detect(tmp_path, weights=str(weights), source=pictures, **flags)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "of_model", "expected"),
    [
        (None, None, [640, 640]),  # nobody says
        (None, 320, [320, 320]),  # the checkpoint's
        (None, [256, 320], [256, 320]),
        ([128], 320, [128, 128]),  # the flag first
        (130, 320, [160, 160]),  # up to the stride
        ([96, 128], 320, [96, 128]),  # height, width
    ],
)
def test_image_size(flag, of_model, expected):
    assert inference_size_hw(flag, types.SimpleNamespace(imgsz=of_model, stride=32, fixed_hw=None)) == expected


def test_image_size_of_a_file_that_takes_one_alone():
    model = types.SimpleNamespace(imgsz=[96, 128], stride=32, fixed_hw=(96, 128))
    assert inference_size_hw(None, model) == inference_size_hw([96, 128], model) == [96, 128]
    with pytest.raises(ValueError, match=r"--imgsz \[128, 128\]: the model file was exported for \[96, 128\] px alone"):
        inference_size_hw(128, model)


def test_defaults_are_printed(tmp_path, weights, pictures, monkeypatch, caplog):
    monkeypatch.setattr(utils.general, "default_weights", lambda project, embedded: weights)
    caplog.set_level("INFO")
    detect(tmp_path, source=pictures / "0.png")
    assert f"weights {weights} (--weights is not given)" in caplog.text
    assert "image size 64 (of the checkpoint" in caplog.text


def test_console_lines(tmp_path, weights, pictures, caplog):
    caplog.set_level("INFO")
    detect(tmp_path, weights=str(weights), source=pictures / "[45].png", conf_thres=0.4)
    lines = [line for line in caplog.messages if line.startswith("image 1/2")]
    assert lines[0].startswith(f"image 1/2 {pictures / '4.png'}: 32x64 ") and lines[0].endswith("ms")
    assert any(line.startswith("Speed: ") and "(1, 3, " in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("classes", "text"),
    [([], "(no detections)"), ([1], "1 disc"), ([1, 0, 1], "1 box, 2 discs")],
)
def test_summary(classes, text):
    boxes = np.zeros((len(classes), 6), np.float32)
    boxes[:, 5] = classes
    assert Result("a", boxes, {0: "box", 1: "disc"}).summary() == text


def test_unreadable_files_are_results_with_an_error(tmp_path, weights, pictures, caplog):
    (pictures / "3.png").write_bytes(b"no picture")
    (pictures / "clip.mp4").write_bytes(b"no video")
    results = detect(tmp_path, weights=str(weights), source=pictures, batch_size=4)
    assert [i for i, r in enumerate(results) if r.error] == [3, 9] and len(results) == 10
    assert len(results[3].boxes) == 0 and results[3].image is None
    assert "2 files could not be read:" in caplog.text
    assert str(pictures / "3.png") in caplog.text and str(pictures / "clip.mp4") in caplog.text


def test_a_video(tmp_path, weights):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    rng = np.random.default_rng(1)
    for _ in range(6):
        writer.write(cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (64, 48)))
    writer.release()
    flags = {"weights": str(weights), "source": tmp_path / "clip.avi", "nosave": False, "save_txt": True}
    results = detect(tmp_path, vid_stride=2, batch_size=2, **flags)
    assert [(r.kind, r.frame) for r in results] == [("video", 1), ("video", 3), ("video", 5)]
    folder = tmp_path / "runs" / "exp"
    assert sorted(file.name for file in folder.iterdir()) == ["clip.mp4", "labels"]
    assert sorted(file.name for file in (folder / "labels").iterdir()) == [f"clip_{i}.txt" for i in (1, 3, 5)]
    capture = cv2.VideoCapture(str(folder / "clip.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (3, 5)


def test_streams(tmp_path, weights):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 50, (64, 48))
    for i in range(8):
        writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    writer.release()
    (tmp_path / "two.streams").write_text(f"{tmp_path / 'clip.avi'}\n{tmp_path / 'clip.avi'}\n")
    results = detect(tmp_path, weights=str(weights), source=tmp_path / "two.streams", nosave=False)
    assert {r.kind for r in results} == {"stream"} and {r.stem for r in results} == {"clip", "clip_2"}
    assert sorted(file.name for file in (tmp_path / "runs" / "exp").iterdir()) == ["clip.mp4", "clip_2.mp4"]


def test_stopping_early_leaves_whole_files(tmp_path, weights, pictures):
    flags = {"weights": str(weights), "source": str(pictures), "project": str(tmp_path / "runs"), "save_json": True}
    results = predict(options.from_kwargs("detect", flags))
    next(results)
    results.close()
    text = (tmp_path / "runs" / "exp" / "predictions.json").read_text()
    assert text.startswith("[\n{") and text.endswith("}\n]\n")
    assert cv2.imread(str(tmp_path / "runs" / "exp" / "0.png")).shape == (48, 64, 3)
    assert torch.get_num_threads() >= 1


def test_run_folders(tmp_path, weights, pictures):
    flags = {"weights": str(weights), "source": pictures / "0.png", "nosave": False}
    for name in ("exp", "exp2"):
        detect(tmp_path, **flags)
        assert (tmp_path / "runs" / name / "0.png").is_file()
    detect(tmp_path, exist_ok=True, **flags)
    detect(tmp_path, name="quiet", **{**flags, "nosave": True})
    assert sorted(folder.name for folder in (tmp_path / "runs").iterdir()) == ["exp", "exp2"]  # no empty folder


def test_visualize_makes_a_folder_for_each_picture(tmp_path, weights, pictures):
    detect(tmp_path, weights=str(weights), source=pictures / "[01].png", visualize=True, batch_size=4)
    for stem in "01":
        assert list((tmp_path / "runs" / "exp" / stem).glob("*.png"))


def test_update_strips_the_training_state(tmp_path, weights, pictures):
    from utils.checkpoint import load_checkpoint, save_checkpoint

    ckpt = load_checkpoint(weights)
    ckpt.train_state = {"epoch": 3}
    save_checkpoint(weights, ckpt)
    flags = {"weights": str(weights), "source": pictures / "0.png"}
    detect(tmp_path, **flags)
    assert load_checkpoint(weights).train_state == {"epoch": 3}  # only when asked
    detect(tmp_path, update=True, **flags)
    assert load_checkpoint(weights).train_state is None


@needs_shared
@pytest.mark.parametrize("batch_size", [1, 8])
def test_golden_boxes_of_yolov5n(tmp_path, batch_size):
    """The first eight photographs: the reference's 32 boxes, no more and no less."""
    folder = SHARED / "datasets" / "coco256" / "images" / "val2017"
    expected = {}
    with open(SHARED / "golden" / "yolov5n_detections.csv", newline="") as file:
        for row in csv.DictReader(file):
            keys = ("class", "confidence", "x_center", "y_center", "width", "height")
            expected.setdefault(row["image"], []).append([float(row[key]) for key in keys])
    weights = str(SHARED / "weights" / "yolov5n.pt")
    results = detect(tmp_path, weights=weights, source=sorted(folder.iterdir())[:8], batch_size=batch_size)
    assert sum(len(r.boxes) for r in results) == 32
    for r in results:
        cls, conf, x, y, w, h = np.array(expected.get(folder.joinpath(r.path).stem, np.zeros((0, 6)))).T
        (height, width), half = r.shape, 0.5
        corners = [(x - half * w) * width, (y - half * h) * height, (x + half * w) * width, (y + half * h) * height]
        same_class = cls[:, None] == r.boxes[None, :, 5]
        close = (box_iou(np.stack(corners, 1), r.boxes[:, :4].astype(float)) >= 0.98) & same_class
        close &= np.abs(conf[:, None] - r.boxes[None, :, 4]) <= 0.005
        assert close.shape[0] == close.shape[1] and (close.sum(0) == 1).all() and (close.sum(1) == 1).all(), r.path
