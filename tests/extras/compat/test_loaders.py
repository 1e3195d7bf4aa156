"""YOLOv5's loaders: its tuples, and the attributes that scripts read from them."""

import sys

import cv2
import numpy as np
import pytest

from extras.compat.loaders import LoadImages, LoadScreenshots, LoadStreams
from tests.utils.sources.test_files import fake_mss, write_image, write_video


def test_load_images_yields_yolov5_tuples(tmp_path):
    write_image(tmp_path / "a.png", 10, (48, 64))
    write_video(tmp_path / "b.mp4", 2)
    loader = LoadImages(tmp_path, img_size=64, stride=32)
    assert len(loader) == 2
    (path, im, im0, cap, text), *video = list(loader)
    assert path == str(tmp_path / "a.png") and im.shape == (3, 64, 64) and im0.shape == (48, 64, 3)
    assert im.flags.c_contiguous and im.dtype == np.uint8 and im[0, 0, 0] == 114 and im[0, 32, 32] == 10
    assert cap is None and text == f"image 1/2 {path}: "
    assert len(video) == 2 and video[0][4] == f"video 2/2 (1/2) {tmp_path / 'b.mp4'}: " and loader.mode == "video"
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="a.png"):
        next(iter(LoadImages(tmp_path)))


def test_load_images_gives_rgb(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (1, 2, 3)  # blue, green, red
    cv2.imwrite(str(tmp_path / "a.png"), image)
    _, im, im0, *_ = next(iter(LoadImages(tmp_path, img_size=32)))
    assert im[:, 0, 0].tolist() == [3, 2, 1] and im0[0, 0].tolist() == [1, 2, 3]


def test_load_streams_and_screenshots(tmp_path, monkeypatch):
    (tmp_path / "x.streams").write_text(str(write_video(tmp_path / "a.mp4", 3, fps=50)))
    loader = LoadStreams(str(tmp_path / "x.streams"), img_size=64)
    assert len(loader) == 1
    paths, im, im0, cap, text = list(loader)[-1]
    assert im.shape == (1, 3, 64, 64) and im0[0].shape == (48, 64, 3) and (cap, text) == (None, "")
    assert paths == [str(tmp_path / "a.mp4")]
    monkeypatch.setitem(sys.modules, "mss", fake_mss())
    path, im, im0, cap, text = next(iter(LoadScreenshots("screen 1", img_size=64)))
    assert path == "screen 1" and im.shape == (3, 64, 64) and im0.shape == (30, 40, 3)
    with pytest.raises(ValueError, match="LoadImages reads files"):
        LoadImages("rtsp://host/stream")
    with pytest.raises(ValueError, match="LoadStreams reads webcams"):
        LoadStreams(tmp_path / "a.mp4")


def test_what_scripts_read_from_load_images(tmp_path):
    write_image(tmp_path / "a.png", 10, (48, 64))
    write_video(tmp_path / "b.mp4", 3)
    loader = LoadImages(tmp_path, img_size=64, stride=64, auto=False, vid_stride=1)
    assert (loader.nf, loader.video_flag, loader.mode, loader.cap) == (2, [False, True], "image", None)
    assert (loader.img_size, loader.stride, loader.auto, loader.vid_stride) == (64, 64, False, 1)
    seen = [(loader.count, loader.frame, loader.frames) for _ in loader]
    assert seen == [(1, 0, 0), (1, 1, 3), (1, 2, 3), (1, 3, 3)] and loader.count == 2
    assert next(loader := LoadImages(tmp_path))[0] == str(tmp_path / "a.png")
    next(loader)
    assert next(iter(loader))[0] == str(tmp_path / "a.png") and len(list(loader)) == 4


def test_what_scripts_read_from_load_streams(tmp_path):
    files = [write_video(tmp_path / "a.mp4", 2, fps=50), write_video(tmp_path / "b.mp4", 4, fps=25)]
    (tmp_path / "x.streams").write_text("\n".join(map(str, files)))
    loader = LoadStreams(str(tmp_path / "x.streams"), img_size=64)
    assert (loader.mode, loader.count, loader.imgs) == ("stream", 0, [None, None])
    assert loader.sources == [str(file) for file in files]
    counts = [loader.count for _ in loader]
    assert counts == list(range(len(counts))) and loader.fps == [50, 25] and loader.frames == [2, 4]
    assert [image.shape for image in loader.imgs] == [(48, 64, 3)] * 2 and loader.rect
