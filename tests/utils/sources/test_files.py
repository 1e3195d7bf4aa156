"""Sources: what a text names, in which order, and the pixels that come out of real files, servers and videos."""

import http.server
import os
import struct
import sys
import tempfile
import threading
import time
import types
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import utils.sources.files
import utils.sources.streams
from utils.data.images import IMG_FORMATS, find_images
from utils.sources.files import (
    VID_FORMATS,
    FileSource,
    expand,
    is_stream,
    open_source,
)
from utils.sources.frame import Frame
from utils.sources.streams import ScreenSource, StreamSource
from utils.sources.urls import shown


def write_image(path: Path, value: int = 90, size=(24, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imencode(path.suffix, np.full((*size, 3), value, np.uint8))[1].tofile(str(path)) is None
    return path


def write_video(path: Path, frames: int = 10, fps: float = 20.0) -> Path:
    """Frame i (from 1) has the grey value 20 * i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (64, 48))
    assert writer.isOpened()
    for i in range(1, frames + 1):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    return path


def flat(source) -> list:
    return [frame for frames in source for frame in frames]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    """Each connection gets `frames` pictures whose grey value tells the number of the connection."""

    frames = 5
    connections = 0

    def do_GET(self):
        MjpegHandler.connections += 1
        picture = np.full((48, 64, 3), 40 * MjpegHandler.connections, np.uint8)
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(self.frames):
            header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(header.encode() + jpeg + b"\r\n")

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Function that starts a server on 127.0.0.1 with a request handler and returns its address."""
    servers = []

    def start(handler) -> str:
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("text", "live"),
    [
        ("0", True),  # a webcam index
        ("rtsp://host/stream", True),
        ("rtmp://host/live.mp4", True),  # a file's suffix means a file over http(s) only
        ("http://host:8080/video", True),
        ("https://host/clip.mp4", False),  # a file to download
        ("https://host/a.JPG?size=large", False),  # the query does not hide the suffix
        ("image.jpg", False),
        ("screen.png", False),
        ("C:\\pictures\\a.jpg", False),  # a drive letter is no URL scheme
    ],
)
def test_what_is_a_stream(text, live):
    assert is_stream(text) is live


def test_folder_glob_and_list_name_the_same_files(tmp_path, monkeypatch):
    names = ["a/2.png", "a/10.jpg", "a/1.mp4", "a/note.md", "a/deeper/3.jpg"]
    files = {name: tmp_path / name for name in names}
    for name, file in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"") if name != "a/1.mp4" else write_video(file, 1)
    text = {name: str(file) for name, file in files.items()}
    (tmp_path / "list.txt").write_text("# pictures\n\na/2.png\n" + text["a/1.mp4"] + "\na/deeper\n", encoding="utf-8")
    table = [
        # images by name, then videos; the folder below and other files are left out
        (tmp_path / "a", ["a/10.jpg", "a/2.png", "a/1.mp4"]),
        (tmp_path / "a" / "*.png", ["a/2.png"]),
        (tmp_path / "**" / "*.jpg", ["a/10.jpg", "a/deeper/3.jpg"]),
        # lines: blank, comment, relative to the list, absolute, a folder
        (tmp_path / "list.txt", ["a/2.png", "a/deeper/3.jpg", "a/1.mp4"]),
        (tmp_path / "a" / "2.png", ["a/2.png"]),
    ]
    for source, expected in table:
        assert expand([str(source)]) == [text[name] for name in expected], source
    several = [files["a/2.png"], files["a/10.jpg"]]
    assert open_source(several).files == [str(file) for file in several]
    monkeypatch.chdir(tmp_path)
    assert expand(["a"]) == ["a/10.jpg", "a/2.png", "a/1.mp4"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    file = write_image(tmp_path / "scan [1].png")
    assert expand([str(file)]) == [str(file)]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("", ValueError, ["--source is empty"]),
        ([], ValueError, ["--source is empty"]),
        ("missing.jpg", FileNotFoundError, ["missing.jpg", "does not exist"]),
        ("*.jpg", FileNotFoundError, ["glob '*.jpg'", "webp", "mp4"]),
        ("empty", FileNotFoundError, ["folder 'empty'", "webp", "mp4"]),
        ("text", FileNotFoundError, ["folder 'text'", "1 other files"]),
        ("text/a.md", ValueError, ["a.md", "found suffix '.md'", "webp"]),
        ("missing.streams", FileNotFoundError, ["list file 'missing.streams'"]),
        ("blank.txt", ValueError, ["blank.txt", "found no line"]),
        ("bad.txt", FileNotFoundError, ["bad.txt:2", "nowhere.jpg"]),
        ("long.txt", FileNotFoundError, ["long.txt:1", "does not exist"]),
        ("n" * 3000, FileNotFoundError, ["does not exist"]),
        ("live.txt", ValueError, ["live.txt:2: 'rtsp://***@camera/1' is a stream", "ends in .streams"]),
        (["good.png", "0"], ValueError, ["cannot be mixed"]),
        ("screen 1 2", ValueError, ["screen [n] [left top width height]"]),
        ("screen x", ValueError, ["whole numbers"]),
        ("https://www.youtube.com/watch?v=abc", ValueError, ["yt-dlp -g"]),
    ],
)
def test_a_source_that_cannot_work_says_why(tmp_path, monkeypatch, source, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.md").write_text("x")
    (tmp_path / "blank.txt").write_text("\n# nothing\n")
    write_image(tmp_path / "good.png")
    (tmp_path / "bad.txt").write_text("good.png\nnowhere.jpg\n")
    (tmp_path / "long.txt").write_text("n" * 5000 + ".jpg\n")
    (tmp_path / "live.txt").write_text("good.png\nrtsp://me:secret@camera/1\n")
    with pytest.raises(error) as caught:
        open_source(source)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("last_ms", "is_cut"), [(500, True), (5200, False)])
def test_the_end_of_a_video_whose_number_of_frames_is_a_guess(tmp_path, caplog, last_ms, is_cut):
    """Six frames in a container that says 5.3 s: all of them if the last is seen at 5.2 s, at a varying rate."""
    file = tmp_path / "a.mkv"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in range(6):
        writer.write(np.full((48, 64, 3), 40 * level, np.uint8))
    writer.release()
    content = bytearray(file.read_bytes())
    duration = content.index(b"\x44\x89\x88") + 3
    content[duration : duration + 8] = struct.pack(">d", 5300.0)
    last = content.rindex(b"\xa3", 0, content.rindex(b"\x81\x01\xf4\x80"))
    content[last + 4 : last + 6] = struct.pack(">h", last_ms)
    file.write_bytes(content)
    assert len(flat(open_source(file))) == 6
    assert ("ends after frame 6 of 53" in caplog.text) is is_cut


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_list_files_in_any_encoding_that_says_so(tmp_path, encoding):
    file = write_image(tmp_path / "é.png")
    for suffix in ("txt", "streams"):
        text = {"txt": "# é\r\né.png\r\n", "streams": "rtsp://127.0.0.1/é\r\n"}[suffix]
        (tmp_path / f"list.{suffix}").write_bytes(text.encode(encoding))
    if encoding == "latin-1":
        for suffix in ("txt", "streams"):
            with pytest.raises(ValueError, match=f"list.{suffix}:1: expected UTF-8 text, found the byte 0xE9"):
                open_source(tmp_path / f"list.{suffix}")
        with pytest.raises(ValueError, match="list.txt:1: expected UTF-8 text"):
            find_images(tmp_path / "list.txt")
        return
    assert expand([str(tmp_path / "list.txt")]) == [str(file)]
    assert [Path(name) for name in find_images(tmp_path / "list.txt")][-1] == file
    assert open_source(tmp_path / "list.streams").addresses == ["rtsp://127.0.0.1/é"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links and pipes")
def test_links_pipes_and_odd_names_in_a_folder(tmp_path, caplog):
    write_image(tmp_path / "set" / "a.png")
    os.rename(write_image(tmp_path / "set" / "b.png"), os.fsencode(tmp_path / "set") + b"/caf\xe9.png")
    os.symlink(".", tmp_path / "set" / "loop")
    os.mkfifo(tmp_path / "set" / "pipe.mp4")  # Opening it would wait for a writer.
    os.symlink("/dev/zero", tmp_path / "set" / "zero.jpg")
    for source in (tmp_path / "set", tmp_path / "set" / "**" / "*"):
        frames = flat(open_source(source))
        assert [os.fsencode(frame.path)[-8:] for frame in frames] == [b"et/a.png", b"caf\xe9.png"]
        assert not any(frame.error for frame in frames)
    assert caplog.text.count("are passed over, as no file or one that is there: ") == 2 and "pipe.mp4" in caplog.text


def test_vid_stride_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--vid-stride.*found 0"):
        open_source(write_image(tmp_path / "a.png"), vid_stride=0)


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "jpeg", "png", "tif", "tiff", "webp"])
def test_image_formats_and_unicode_names(tmp_path, suffix):
    file = write_image(tmp_path / f"Bär 猫 {suffix}.{suffix}", value=200)
    (frame,) = flat(open_source(file))
    assert frame.path == str(file) and frame.kind == "image" and not frame.error
    assert frame.image.shape == (24, 32, 3) and abs(int(frame.image.mean()) - 200) <= 2
    assert frame.title() == f"image 1/1 {file}"


def test_a_file_that_cannot_be_read_is_a_frame_with_an_error(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / "c.mp4").write_bytes(b"not a video")
    write_image(tmp_path / "d.png")
    frames = flat(open_source(tmp_path))
    assert [Path(frame.path).name for frame in frames] == ["a.png", "b.jpg", "d.png", "c.mp4"]
    assert [bool(frame.error) for frame in frames] == [False, True, False, True]
    assert all(str(tmp_path / name) in frame.error for name, frame in zip(("b.jpg", "c.mp4"), (frames[1], frames[3])))
    assert frames[3].kind == "video"


@pytest.mark.parametrize(
    ("vid_stride", "numbers"),
    [(1, list(range(1, 11))), (3, [1, 4, 7, 10]), (50, [1])],  # all; every third; more than there are
)
def test_video_frames(tmp_path, vid_stride, numbers):
    frames = flat(open_source(write_video(tmp_path / "clip.mp4"), vid_stride))
    assert [frame.frame for frame in frames] == numbers
    assert [round(frame.image.mean() / 20) for frame in frames] == numbers
    assert {(frame.frames, frame.fps, frame.kind) for frame in frames} == {(10, 20.0, "video")}
    assert frames[-1].title() == f"video 1/1 ({numbers[-1]}/10) {tmp_path / 'clip.mp4'}"


@pytest.mark.parametrize("fps", [0.5, 1000 / 1001, 240.0, 1000.0])
def test_the_rate_of_a_video_is_its_own(tmp_path, caplog, fps):
    (frame, *_) = flat(open_source(write_video(tmp_path / "clip.mp4", 3, fps)))
    assert frame.fps == pytest.approx(fps, rel=1e-3) and not caplog.records


def test_a_rate_that_cannot_be_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(utils.sources.files, "MAX_FILE_FPS", 5)
    (frame, *_) = flat(open_source(write_video(tmp_path / "clip.mp4", 3)))
    assert frame.fps == 30 and "clip.mp4: its rate reads as 20 frames a second; it counts as 30" in caplog.text


def test_windows_hold_so_many_frames_or_bytes(tmp_path, monkeypatch):
    for i in range(5):
        write_image(tmp_path / f"{i}.png")
    assert [len(frames) for frames in open_source(tmp_path, window=2)] == [2, 2, 1]
    monkeypatch.setattr(utils.sources.files, "MAX_WINDOW_BYTES", 24 * 32 * 3)  # one picture: the second exceeds it
    assert [len(frames) for frames in open_source(tmp_path, window=4)] == [2, 2, 1]


def test_files_behind_urls(tmp_path, serve):
    write_image(tmp_path / "web" / "a" / "same name.png", 50)
    write_image(tmp_path / "web" / "b" / "same name.png", 150)
    write_video(tmp_path / "web" / "clip.mp4", 2)
    base = serve(partial(QuietHandler, directory=str(tmp_path / "web")))
    urls = [f"{base}/a/same%20name.png", f"{base}/b/same%20name.png?x=1", f"{base}/clip.mp4", f"{base}/none.png"]
    frames = flat(open_source(urls))
    assert [frame.path for frame in frames] == [urls[0], urls[1], urls[3], urls[2], urls[2]]
    assert [int(frame.image.mean()) for frame in frames[:2]] == [50, 150]  # equal names are not mixed up
    assert "404" in frames[2].error and not frames[2].image
    assert [round(frame.image.mean() / 20) for frame in frames[3:]] == [1, 2]
    (tmp_path / "list.txt").write_text("\n".join(urls[:2]))
    assert len(flat(open_source(tmp_path / "list.txt"))) == 2


def test_a_lost_stream_is_opened_again_and_ends_when_it_stays_away(serve, monkeypatch, caplog):
    monkeypatch.setattr(utils.sources.streams, "RECONNECT_WAIT_S", 0.05)
    monkeypatch.setattr(MjpegHandler, "connections", 0)
    caplog.set_level("INFO", "yolov5_edgevit")
    address = serve(MjpegHandler) + "/stream"
    frames = []
    for (frame,) in open_source(address, reconnect_s=0.2):
        frames.append(frame)
        if round(frame.image.mean() / 40) >= 3:  # a frame of the third connection
            monkeypatch.setattr(MjpegHandler, "frames", 0)
    assert frames[-1].image.mean() // 40 < 6, "the stream stayed away, and was not given up"
    times_s = [frame.time_s for frame in frames]
    assert times_s == sorted(set(times_s)) and abs(times_s[-1] - time.time()) < 60
    assert frames[-1].kind == "stream" and frames[-1].path == address and frames[-1].items == 1
    numbers = [frame.frame for frame in frames]
    assert numbers == sorted(set(numbers))  # no frame twice, none after a newer one
    assert f"stream {address}: no frame; it is opened again, for 0.2 s at most" in caplog.text
    assert "is back after" in caplog.text and "ended: it did not come back within 0.2 s" in caplog.text


def test_several_streams_at_once_end_together(tmp_path):
    """Video files stand for cameras: each plays at its speed, and a list has a frame of those that have a new one."""
    files = [write_video(tmp_path / f"{i}.mp4", frames, fps=50) for i, frames in enumerate((4, 8))]
    (tmp_path / "two.streams").write_text("\n".join(map(str, files)) + "\n")
    source = open_source(tmp_path / "two.streams")
    assert isinstance(source, StreamSource) and source.realtime
    rounds = list(source)
    assert all(len({frame.item for frame in frames}) == len(frames) for frames in rounds)
    for item, last in ((1, 4), (2, 8)):
        frames = [frame for frames in rounds for frame in frames if frame.item == item]
        assert frames[-1].frame == last and round(frames[-1].image.mean() / 20) == last  # the newest always arrives
        assert frames[0].items == 2 and frames[0].path == str(files[item - 1])


def test_a_reader_that_stops_early_leaves_no_thread(tmp_path):
    """A capture that still decodes while Python ends aborts the process, with whatever exit code it had."""
    rounds = iter(cameras(tmp_path, frames=12))
    next(rounds)
    assert any(thread.name.startswith("stream ") for thread in threading.enumerate())
    rounds.close()
    assert not any(thread.name.startswith("stream ") for thread in threading.enumerate())


def cameras(folder: Path, frames: int) -> StreamSource:
    return StreamSource([str(write_video(folder / f"{i}.mp4", frames, fps=1)) for i in range(2)])


def test_only_the_newest_frame_is_kept(tmp_path):
    """A reader that is slower than the stream gets the newest frame, not the oldest that it has not seen."""
    source = StreamSource([str(write_video(tmp_path / "a.mp4", 8, fps=50))])
    changed = threading.Condition()
    stream = utils.sources.streams.Stream(source.addresses[0], 1, changed)
    stream.thread.start()
    stream.thread.join()  # the reader sleeps through the whole video
    (frame,) = source._round([stream], changed)
    assert frame.frame == 8 and round(frame.image.mean() / 20) == 8
    assert source._round([stream], changed) == []


@pytest.mark.parametrize("address", ["87", "http://127.0.0.1:9/none"])
def test_a_stream_that_cannot_be_opened(address):
    with pytest.raises(ConnectionError, match=f"{address} could not be opened"):
        next(iter(open_source(address)))


def test_a_download_from_a_server_that_is_not_there():
    (frame,) = flat(open_source("http://127.0.0.1:9/a.jpg"))
    assert frame.error.startswith("cannot download http://127.0.0.1:9/a.jpg: ") and "yourself" not in frame.error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pa@ss@host/a.jpg", "http://***@host/a.jpg"),
        ("rtsp://admin:secret@10.0.0.1:554/live", "rtsp://***@10.0.0.1:554/live"),
        ("ftp://me@host/a", "ftp://***@host/a"),
        ("http://host/a@b.jpg", "http://host/a@b.jpg"),
        ("https://host/a.jpg?w=9&access_token=abc&X-Amz-Signature=d#e", None),
        ("one rtsp://a:b@c/d, two rtsp://e:f@g/h", "one rtsp://***@c/d, two rtsp://***@g/h"),
        ("folder/a?token=b.jpg", "folder/a?token=b.jpg"),  # a file's name
    ],
)
def test_what_is_shown_of_an_address(text, expected):
    assert shown(text) == (expected or "https://host/a.jpg?w=9&access_token=***&X-Amz-Signature=***#e")


@pytest.mark.parametrize("source", ["rtsp://me:secret@127.0.0.1:9/live", "http://me:secret@127.0.0.1:9/live"])
def test_no_message_shows_the_password_of_a_stream(source, capfd):
    with pytest.raises(ConnectionError, match=r"stream .*://\*\*\*@127.0.0.1:9/live could not") as caught:
        next(iter(open_source(source)))
    assert "secret" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["cut.png", "cut.mp4", "none.jpg", "text.jpg"])
def test_messages_name_the_url(tmp_path, serve, name):
    write_image(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-40])
    (tmp_path / "cut.mp4").write_bytes(b"no video")
    (tmp_path / "text.jpg").write_text("no picture")
    url = serve(partial(QuietHandler, directory=str(tmp_path))).replace("//", "//me:secret@") + f"/{name}"
    (frame,) = flat(open_source(url))
    expected = url.replace("me:secret", "***")
    assert frame.error.startswith((f"{expected}: ", f"cannot download {expected}: "))
    assert tempfile.gettempdir() not in frame.error and "secret" not in frame.error and frame.path == expected


def fake_mss(size=(40, 30)):
    """A module like mss with two monitors; the screen's blue channel is x, green is y."""

    class Grabber:
        monitors = [dict(left=0, top=0, width=80, height=30), dict(left=0, top=0, width=40, height=30)]
        monitors.append(dict(left=40, top=0, width=40, height=30))

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            pass

        def grab(self, area):
            x, y = np.meshgrid(np.arange(area["width"]) + area["left"], np.arange(area["height"]) + area["top"])
            return np.stack([x, y, 0 * x, 0 * x + 255], -1).astype(np.uint8)

    errors = types.SimpleNamespace(ScreenShotError=RuntimeError)
    return types.SimpleNamespace(mss=Grabber, exception=errors)


@pytest.mark.parametrize(
    ("text", "left_top", "shape"),
    [
        ("screen", (0, 0), (30, 80, 3)),  # 0: all monitors
        ("screen 2", (40, 0), (30, 40, 3)),
        ("screen 2 5 6 10 8", (45, 6), (8, 10, 3)),  # an area, counted from the monitor's corner
        ("Screen 5 6 10 8", (5, 6), (8, 10, 3)),
    ],
)
def test_screen(monkeypatch, text, left_top, shape):
    monkeypatch.setitem(sys.modules, "mss", fake_mss())
    frames = iter(open_source(text))
    (frame,), (second,) = next(frames), next(frames)
    assert frame.kind == "screen" and frame.image.shape == shape and tuple(frame.image[0, 0, :2]) == left_top
    assert (frame.frame, second.frame) == (1, 2)


def test_screen_without_the_package_or_the_monitor(monkeypatch):
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(ImportError, match="pip install mss"):
        ScreenSource("screen")
    monkeypatch.setitem(sys.modules, "mss", fake_mss())
    with pytest.raises(ValueError, match="screen 7: expected a number from 0 to 2"):
        next(iter(ScreenSource("screen 7")))


def test_no_suffix_is_both_image_and_video():
    assert not set(IMG_FORMATS) & set(VID_FORMATS)
    assert isinstance(FileSource([]).files, list) and Frame("a").image is None
