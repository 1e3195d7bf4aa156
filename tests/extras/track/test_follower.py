"""detect.py --track: ids, times and events in the files and on the pictures; the boxes are those without it."""

import csv
import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

import detect
from engine.predict.detector import Result
from engine.predict.sinks import Drawer
from extras.shapes.videos import VISIBLE_MIN, draw_video
from extras.track.counting import Watch
from extras.track.events import CsvEvents, JsonEvents
from extras.track.follower import Follower
from extras.track.paint import Painter
from extras.track.places import Place, Places
from tests.tiny_detector import write_tiny_weights

NAMES = {0: "box", 1: "disc"}
TIMES_S = [0.0, 0.1, 0.4, 0.45, 0.95, 0.99]


@pytest.fixture
def clip(tmp_path):
    """A moving picture of six frames that are shown for times of different length."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = [Image.fromarray(np.roll(picture, shift, 1)) for shift in range(6)]
    durations_ms = [100, 300, 50, 500, 40, 100]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=durations_ms)
    return tmp_path / "clip.gif"


@pytest.fixture
def run(tmp_path, tiny_model_cfg, clip):
    weights = write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    return lambda **more: detect.run(weights=weights, source=clip, imgsz=64, project=tmp_path / "out", **more)


def test_times_of_a_rate_that_varies(run, tmp_path):
    results = run(save_json=True, nosave=True)
    assert [one.time_s for one in results] == pytest.approx(TIMES_S)
    records = json.loads((tmp_path / "out" / "exp" / "predictions.json").read_text())
    assert [record["time_s"] for record in records] == pytest.approx(TIMES_S)
    assert not any("id" in box or "age_s" in record for record in records for box in record["boxes"])


def test_ids_in_all_files(run, tmp_path):
    pytest.importorskip("trackers", reason="needs trackers")
    plain = run(nosave=True)
    results = run(track=True, save_csv=True, save_json=True, lines=["gate:0.5,0,0.5,1"], name="track")
    for before, after in zip(plain, results):
        rows = {tuple(box) for box in after.boxes.tolist()}
        assert {tuple(box) for box in before.boxes.tolist()} <= rows  # more may be known again, none is lost
        faint = after.boxes[:, 4] <= 0.25
        assert len(after.ids) == len(after.boxes) and (after.ids[faint] > 0).all()
    assert not results[0].ids.any() and np.mean(results[-1].ids > 0) > 0.5
    found = json.loads((tmp_path / "out" / "track" / "predictions.json").read_text())
    ids = [box["id"] or 0 for record in found for box in record["boxes"]]
    assert ids == np.concatenate([one.ids for one in results]).tolist()
    rows = list(csv.DictReader((tmp_path / "out" / "track" / "predictions.csv").open()))
    assert [int(row["Id"] or 0) for row in rows] == ids and {float(row["Time (s)"]) for row in rows} <= set(TIMES_S)
    written = {file.name for file in (tmp_path / "out" / "track").iterdir()}
    assert written == {"clip.mp4", "events.csv", "events.json", "predictions.csv", "predictions.json"}


def test_thresholds_of_classes_decide_what_begins_an_object(run):
    pytest.importorskip("trackers", reason="needs trackers")
    results = run(track=True, nosave=True, conf_thres=0.9)
    assert all((one.ids > 0)[one.boxes[:, 4] <= 0.9].all() for one in results)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lines": ["a:0,0,1,1"]}, "--lines: expected together with --track, found without it"),
        ({"track": True, "lines": ["a:0,0"]}, "--lines a: expected the 4 numbers"),
        ({"lost_s": -1}, "lost_s must be between 0 and 86400"),
    ],
)
def test_flags_that_are_wrong(run, more, words):
    with pytest.raises(ValueError, match=words):
        run(**more)


def test_a_missing_package_is_said_before_anything_is_done(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ImportError, match="--track needs the package trackers: pip install trackers"):
        run(track=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scene", ["crossing", "leaving"])  # behind the wall some are taken for new ones
def test_perfect_boxes_keep_their_ids(scene):
    """In drawn videos every object has one id from its second frame on, and no two have the same."""
    pytest.importorskip("trackers", reason="needs trackers")
    from extras.track.bytetrack import ByteTracks

    tracks, pairs = ByteTracks(fps=30.0, lost_s=2.0), set()
    for number, (_, truth) in enumerate(draw_video(scene, 0, width=160, height=120)):
        assert (truth.visible >= VISIBLE_MIN).all()
        ids = tracks.update(truth.boxes_xyxy, np.ones(len(truth.ids), bool), number / 30)
        pairs |= {(true, found) for true, found in zip(truth.ids.tolist(), ids.tolist()) if found}
    assert len({found for _, found in pairs}) == len(pairs) == len({true for true, _ in pairs})


@pytest.mark.parametrize(
    ("scene", "x", "counts"),
    [("crossing", 80, {"in": 2, "out": 2}), ("leaving", 136, {"in": 2, "out": 2})],  # two each way, as they are drawn
)
def test_counts_are_those_of_the_drawn_objects(scene, x, counts):
    pytest.importorskip("trackers", reason="needs trackers")
    follower = Follower(Places(lines=[Place("gate", np.float32([[x, 0], [x, 120]]))]))
    for number, (image, truth) in enumerate(draw_video(scene, 0, width=160, height=120)):
        sure = np.column_stack([truth.boxes_xyxy, np.full(len(truth.ids), 0.9), np.zeros(len(truth.ids))])
        where = {"kind": "video", "frame": number + 1, "time_s": number / 30, "image": image}
        result = Result("a.mp4", sure.astype(np.float32), NAMES, (120, 160), **where)
        followed, line = follower.follow(result, f"a.mp4: {result.summary()}, 5ms")
        assert len(followed.boxes) == len(truth.ids) and followed.summary() in line
    assert follower.sequences["a.mp4"].watch.lines[0].counts == counts


def test_ids_and_places_are_drawn():
    boxes = np.array([[10, 40, 60, 90, 0.9, 0]], np.float32)
    image = np.full((100, 200, 3), 60, np.uint8)
    watch = Watch(Places([Place("gate", np.float32([[0.5, 0], [0.5, 1]]))], [Place("door", SQUARE)]), (100, 200), 1.0)
    plain = Result("a.mp4", boxes, NAMES, (100, 200), kind="video", image=image)
    with_ids = Result("a.mp4", boxes, NAMES, (100, 200), kind="video", image=image, ids=np.array([12]))
    with_all = Result("a.mp4", boxes, NAMES, (100, 200), image=image, ids=np.array([12]), paint=Painter.of(watch))
    pictures = [Drawer()(one) for one in (plain, with_ids, with_all)]
    assert (pictures[0] != pictures[1]).any() and (pictures[1][:, 100] != pictures[2][:, 100]).any()
    assert (image == 60).all() and Painter.of(Watch(Places(), (9, 9), 1.0)) is None


SQUARE = np.float32([[120, 20], [180, 20], [180, 80], [120, 80]])
EVENT = {"time_s": 0.25, "source": "a.mp4", "frame": 3, "event": "cross", "place": "gate", "direction": "in", "id": 7}
EVENT |= {"class": 1, "name": "disc", "confidence": 0.5, "box_xyxy": [1.0, 2.0, 3.5, 4.0]}


def test_files_of_events(tmp_path):
    for sink in (CsvEvents(tmp_path), JsonEvents(tmp_path)):
        sink.write(EVENT)
        sink.write({**EVENT, "event": "leave", "duration_s": 1.5})
        sink.close()
    assert json.loads((tmp_path / "events.json").read_text())[0] == EVENT
    first, second = csv.DictReader((tmp_path / "events.csv").open())
    assert first["box_xyxy"] == "1 2 3.5 4" and first["duration_s"] == "" and second["duration_s"] == "1.5"


def test_a_picture_is_left_as_it_is(run, tmp_path, caplog):
    pytest.importorskip("trackers", reason="needs trackers")
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    weights = tmp_path / "tiny.pt"
    (plain,) = detect.run(weights=weights, source=tmp_path / "a.png", nosave=True)
    (result,) = detect.run(weights=weights, source=tmp_path / "a.png", nosave=True, track=True)
    assert result.ids is None and "a.png is a picture" in caplog.text
    np.testing.assert_array_equal(result.boxes, plain.boxes)


def test_streams_are_followed_apart_and_have_ages(run, tmp_path, clip, caplog):
    pytest.importorskip("trackers", reason="needs trackers")
    caplog.set_level("INFO", "yolov5_edgevit")
    (tmp_path / "other.gif").write_bytes(clip.read_bytes())
    (tmp_path / "two.streams").write_text(f"{clip}\n{tmp_path / 'other.gif'}\n")
    flags = {"track": True, "nosave": True, "save_json": True, "source": tmp_path / "two.streams"}
    detect.run(**flags, weights=tmp_path / "tiny.pt", imgsz=64, project=tmp_path / "live", zones=[ALL])
    records, events = (
        json.loads((tmp_path / "live" / "exp" / f"{name}.json").read_text()) for name in ("predictions", "events")
    )
    for source in (str(clip), str(tmp_path / "other.gif")):
        own = [record for record in records if record["source"] == source]
        times_s = [record["time_s"] for record in own]
        assert times_s == sorted(set(times_s)) and times_s[0] > 1.6e9  # Unix time
        ids = {box["id"] for record in own for box in record["boxes"] if box["id"]}
        assert len(own) < 2 or min(ids) == 1
    assert all(0 <= one["age_s"] < 60 for one in records + events) and {one["event"] for one in events} == {"enter"}
    assert caplog.text.count("s old in the mean") == 2


ALL = "all:-99,-99,999,-99,999,999,-99,999"
