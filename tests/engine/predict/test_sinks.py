"""Writers: the files and formats that YOLOv5 users read, and names that never overwrite each other."""

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine import options
from engine.predict.detector import Result
from engine.predict.names import Stems
from engine.predict.records import CropSink, CsvSink, JsonSink, TxtSink
from engine.predict.sinks import Drawer, ImageSink, Sinks, VideoSink, display_problem
from utils.sources.frame import Frame

NAMES = {0: "box", 1: "a/c unit"}
BOXES = np.array([[10, 20, 30, 60, 0.9, 0], [0, 0, 50, 50, 0.256, 1]], np.float32)


def result(boxes=BOXES, path="pic.jpg", stem="pic", kind="image", frame=1, size=(100, 200), **more) -> Result:
    image = np.full((*size, 3), 60, np.uint8)
    return Result(path, boxes, NAMES, size, kind=kind, frame=frame, stem=stem, image=image, **more)


def written(folder: Path) -> list:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def detect_options(tmp_path, **more):
    return options.from_kwargs("detect", {"project": str(tmp_path), **more})


@pytest.mark.parametrize(
    ("voc", "with_conf", "rows"),
    [
        (False, False, ["0 0.1 0.4 0.1 0.4", "1 0.125 0.25 0.25 0.5"]),  # YOLO: class, centre and size, normalised
        (False, True, ["0 0.1 0.4 0.1 0.4 0.9", "1 0.125 0.25 0.25 0.5 0.256"]),
        (True, False, ["0 10 20 30 60", "1 0 0 50 50"]),  # Pascal VOC: corners in pixels
        (True, True, ["0 10 20 30 60 0.9", "1 0 0 50 50 0.256"]),
    ],
)
def test_txt(tmp_path, voc, with_conf, rows):
    sink = TxtSink(tmp_path, voc, with_conf)
    sink.write(result())
    assert (tmp_path / "labels" / "pic.txt").read_text().splitlines() == rows
    sink.write(result(path="clip.mp4", stem="clip", kind="video", frame=17))
    sink.write(result(BOXES[:0], stem="nothing"))  # no box, no file
    assert written(tmp_path) == ["labels/clip_17.txt", "labels/pic.txt"] and sink.files == 2


@pytest.mark.parametrize("flat", [[5, 8, 5, 9, 0.9, 0], [5, 8, 9, 8, 0.9, 0], [0, 0, 0, 0, 0.9, 1]])
def test_no_label_without_an_area(tmp_path, flat):
    """Training refuses such a row, and the image with it."""
    sink = TxtSink(tmp_path, True)
    sink.write(result(np.float32([flat, *BOXES])))
    assert (tmp_path / "labels" / "pic.txt").read_text().splitlines() == ["0 10 20 30 60", "1 0 0 50 50"]
    sink.write(result(np.float32([flat]), stem="nothing"))
    assert written(tmp_path) == ["labels/pic.txt"] and sink.files == 1


def test_names_that_are_no_utf_8_are_written(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    for sink in (CsvSink(tmp_path), JsonSink(tmp_path)):
        sink.write(result(path=f"{odd}.jpg", stem=odd))
        sink.close()
    assert [row[0] for row in csv.reader((tmp_path / "predictions.csv").open(encoding="utf-8"))][1] == r"caf\udce9.jpg"
    assert json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))[0]["source"] == f"{odd}.jpg"


@pytest.mark.parametrize("fps,stride", [(0.5, 1), (1000.0, 1), (30.0, 60), (30.0, 50_000)])
def test_videos_keep_the_rate_of_the_source(tmp_path, caplog, fps, stride):
    sink = VideoSink(tmp_path, stride)
    for frame in (1, 2, 3):
        shown = result(stem="clip", path="clip.mp4", kind="video", frame=frame, fps=fps)
        sink.write(shown, shown.image)
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    written = capture.get(cv2.CAP_PROP_FPS)
    if fps / stride < 0.01:
        assert f"clip.mp4 plays {written:g} frames a second, as the format cannot hold 0.0006" in caplog.text
    else:
        assert written == pytest.approx(fps / stride, rel=1e-3) and not caplog.records


def test_txt_reads_back_as_the_same_boxes(tmp_path):
    """Six digits are enough for any pixel of a large picture."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 3000, (50, 2, 2))
    boxes = np.hstack([corners.min(1), corners.max(1) + 5, rng.random((50, 1)), rng.integers(0, 2, (50, 1))])
    TxtSink(tmp_path).write(result(boxes.astype(np.float32), size=(3005, 3005)))
    rows = np.loadtxt(tmp_path / "labels" / "pic.txt")
    found = np.hstack([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2]) * 3005
    np.testing.assert_allclose(found, boxes[:, :4], atol=0.01)


def test_csv(tmp_path):
    sink = CsvSink(tmp_path)
    sink.write(result())
    sink.write(result(BOXES[:0], stem="nothing"))
    sink.write(result(BOXES[:1], path="x/pic.JPG", stem="pic_2"))
    sink.close()
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Image Name", "Prediction", "Confidence"]
    assert rows[1:] == [["pic.jpg", "box", "0.90"], ["pic.jpg", "a/c unit", "0.26"], ["pic_2.jpg", "box", "0.90"]]


def test_json(tmp_path):
    sink = JsonSink(tmp_path)
    sink.write(result(path="Bär.jpg", stem="Bär"))
    sink.write(result(BOXES[:0], path="clip.mp4", stem="clip", kind="video", frame=3, time_s=0.08))
    sink.close()
    first, second = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert first["boxes"][0] == {"class": 0, "name": "box", "confidence": 0.9, "box_xyxy": [10, 20, 30, 60]}
    assert (first["image"], first["width"], first["height"]) == ("Bär.jpg", 200, 100)
    where = {"image": "clip.mp4", "source": "clip.mp4", "frame": 3, "time_s": 0.08}
    assert second == {**where, "width": 200, "height": 100, "boxes": []} and "time_s" not in first
    JsonSink(tmp_path).close()
    assert json.loads((tmp_path / "predictions.json").read_text()) == []  # nothing at all is valid too


def test_crops(tmp_path):
    """One folder per class, whose name is made safe; a second box of a class, or a file that exists, gets a number."""
    sink = CropSink(tmp_path)
    boxes = np.vstack([BOXES, BOXES[:1]])
    boxes[2, :4] = [100, 0, 200, 100]
    sink.write(result(boxes))
    sink.write(result(boxes[:1], stem="pic2", path="pic2.jpg"))  # pic2.jpg is there already
    names = ["a_c unit/pic.jpg", "box/pic.jpg", "box/pic2.jpg", "box/pic22.jpg"]
    assert written(tmp_path / "crops") == names
    h, w = cv2.imread(str(tmp_path / "crops/box/pic.jpg")).shape[:2]
    assert 20 <= w <= 32 and 40 <= h <= 54  # the box and a small margin
    assert cv2.imread(str(tmp_path / "crops/box/pic2.jpg")).shape[1] >= 100


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("a/pic.PNG", "pic.png"),
        ("a/pic.webp", "pic.webp"),
        ("a/pic.dng", "pic.jpg"),  # a format that cannot be written
        ("http://host/pic.png?size=4", "pic.png"),
    ],
)
def test_image_names(tmp_path, path, file):
    ImageSink(tmp_path).write(result(path=path), np.full((10, 20, 3), 9, np.uint8))
    assert written(tmp_path) == [file] and cv2.imread(str(tmp_path / file)).shape == (10, 20, 3)


def read_video(file: Path):
    capture = cv2.VideoCapture(str(file))
    assert capture.isOpened()
    frames = []
    while (item := capture.read())[0]:
        frames.append(item[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_videos(tmp_path):
    """Each video its own file; frames of another size are fitted; with --vid-stride it plays at the old speed."""
    sink = VideoSink(tmp_path, vid_stride=2)
    for stem, count in (("a", 3), ("b", 2)):
        for frame in range(1, count + 1):
            size = (48, 64) if frame < 3 else (96, 128)
            some = result(path=f"{stem}.avi", stem=stem, kind="video", frame=frame, fps=20.0)
            sink.write(some, np.full((*size, 3), 50 * frame, np.uint8))
        if stem == "b":
            assert len(sink.writers) == 1  # a.mp4 was finished when b began
    sink.write(result(), np.zeros((48, 64, 3), np.uint8))  # a picture is none of its business
    sink.close()
    assert written(tmp_path) == ["a.mp4", "b.mp4"]
    frames, fps = read_video(tmp_path / "a.mp4")
    assert [round(frame.mean() / 50) for frame in frames] == [1, 2, 3] and fps == 10
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


def test_streams_are_written_side_by_side(tmp_path):
    sink = VideoSink(tmp_path)
    for frame in (1, 2):
        for stem in ("0", "rtsp"):
            sink.write(result(stem=stem, kind="stream", frame=frame), np.zeros((48, 64, 3), np.uint8))
    sink.close()
    assert [len(read_video(tmp_path / f"{stem}.mp4")[0]) for stem in ("0", "rtsp")] == [2, 2]


def test_a_video_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="clip.mp4: no MPEG-4 video of 64 x 48"):
        VideoSink(tmp_path / "missing").write(result(stem="clip", kind="video"), np.zeros((48, 64, 3), np.uint8))


def test_output_names():
    stems = Stems()
    table = [
        (Frame("a/bus.jpg", item=1), "bus"),
        (Frame("b/bus.jpg", item=2), "bus_2"),  # the same name from another folder
        (Frame("c/bus.png", item=3), "bus_3"),  # the same label file
        (Frame("c/BUS.png", item=4), "BUS_4"),  # the same file on systems that ignore case
        (Frame("d/bus_2.jpg", item=5), "bus_2_2"),  # a name that was given away already
        (Frame("a/bus.jpg", item=1), "bus"),  # asked again
        (Frame("e/bus.mp4", kind="video", item=6), "bus_5"),  # bus_2.txt would be its frame 2
        (Frame("f/clip.mp4", kind="video", item=7), "clip"),
        (Frame("f/clip.mp4", kind="video", item=7, frame=9), "clip"),
        (Frame("https://host/x/my%20cat.jpg?a=/b", item=8), "my cat"),
        (Frame("rtsp://user:secret@host:554/live/1", kind="stream"), "rtsp_host_554_live_1"),
        (Frame("0", kind="stream"), "0"),
        (Frame("screen 1", kind="screen"), "screen 1"),
    ]
    assert [stems(frame) for frame, _ in table] == [stem for _, stem in table]


@pytest.mark.parametrize(
    ("hide_labels", "hide_conf", "thickness", "text"),
    [(False, False, 3, True), (False, True, 3, True), (True, False, 3, False), (True, True, 1, False)],
)
def test_drawing(hide_labels, hide_conf, thickness, text):
    box = result(np.array([[50, 60, 150, 90, 0.9, 0]], np.float32))
    picture = Drawer(thickness, hide_labels, hide_conf)(box)
    changed = (picture != box.image).any(2)
    assert changed[59:62, 60:140].any() and not (box.image != 60).any()  # on a copy
    assert bool(changed[40:56].any()) is text  # the label stands above the box
    inner = changed[60 + thickness : 90 - thickness, 50 + thickness : 150 - thickness]
    assert not inner[2:-2, 2:-2].any()
    if not hide_conf and text:
        shorter = (Drawer(thickness, False, True)(box) != box.image).any(2)
        assert changed[40:56].sum() > shorter[40:56].sum()


def test_sinks_write_what_the_options_ask_for(tmp_path):
    table = [
        ({}, ["pic.jpg"]),
        ({"nosave": True}, []),
        ({"nosave": True, "save_txt": True}, ["labels/pic.txt"]),
        ({"nosave": True, "save_csv": True, "save_json": True}, ["predictions.csv", "predictions.json"]),
        ({"save_crop": True}, ["crops/a_c unit/pic.jpg", "crops/box/pic.jpg", "pic.jpg"]),
    ]
    for number, (flags, files) in enumerate(table):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Sinks(detect_options(tmp_path, **flags), folder) as sinks:
            sinks.write(result())
        assert written(folder) == files, flags


def test_an_error_while_writing_is_raised_and_the_rest_is_closed(tmp_path):
    (tmp_path / "pic.jpg").mkdir()  # a folder is in the way
    with (
        pytest.raises(OSError, match="pic.jpg"),
        Sinks(detect_options(tmp_path, save_json=True, save_csv=True), tmp_path) as sinks,
    ):
        sinks.write(result())
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["image"] == "pic.jpg"
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 3


def test_view_img_without_a_display(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "DISPLAY is not set" in display_problem()
    with Sinks(detect_options(tmp_path, view_img=True), tmp_path) as sinks:
        sinks.write(result())
        assert not sinks.quit
    assert "--view-img shows nothing: no display was found" in caplog.text and written(tmp_path) == ["pic.jpg"]


def write_and_close(sink, count: int, **more) -> None:
    rng = np.random.default_rng(0)
    try:
        for i in range(count):
            noise = rng.integers(0, 255, (128, 128, 3), np.uint8)
            arguments = (noise,) if isinstance(sink, (ImageSink, VideoSink)) else ()
            sink.write(result(size=(128, 128), frame=i + 1, **more), *arguments)
    finally:
        sink.close()


@pytest.mark.parametrize(
    ("make", "count", "more", "name"),
    [
        (VideoSink, 40, {"kind": "video", "path": "clip.mp4", "stem": "clip"}, "clip.mp4"),
        (JsonSink, 500, {}, "predictions.json"),
        (CsvSink, 5000, {}, "predictions.csv"),
        (ImageSink, 1, {}, "pic.jpg"),
    ],
)
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, full_disk, make, count, more, name):
    sink = make(tmp_path)
    full_disk(10_000)
    with pytest.raises(OSError, match=rf"cannot write .*{name}"):
        write_and_close(sink, count, **more)
    full_disk(None)
    assert written(tmp_path) == []


@pytest.mark.parametrize("make", [JsonSink, CsvSink])
def test_what_was_there_before_stays_where_the_disk_is_full(tmp_path, full_disk, make):
    write_and_close(make(tmp_path), 2)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    full_disk(10_000)
    with pytest.raises(OSError, match="cannot write"):
        write_and_close(make(tmp_path), 5000)
    assert written(tmp_path) == [file.name] and file.read_bytes() == before


def test_a_run_that_ends_early_leaves_whole_files(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        Sinks(detect_options(tmp_path, save_json=True, save_csv=True), tmp_path) as sinks,
    ):
        sinks.write(result(kind="video", path="clip.mp4", stem="clip"))
        raise KeyboardInterrupt
    assert written(tmp_path) == ["clip.mp4", "predictions.csv", "predictions.json"]
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 1
