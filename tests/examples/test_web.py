"""examples/web in a real browser: the same boxes as detect.py, from a picture and from a camera, and clear errors."""

import base64
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from urllib.parse import quote

import cv2
import pytest

from tests.browser import CHROMIUM, SECONDS, Browser
from tests.conftest import ROOT
from tests.examples.reference import (
    PICTURES,
    WEIGHTS,
    assert_same_boxes,
    detected,
    export_onnx,
    write_yolov5_metadata,
)

WEB = ROOT / "examples" / "web"
FLAGS = {"raw": {}, "dynamic": {"dynamic": True}, "boxes": {"nms": True}, "image": {"embed": True}}

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason='needs "npm install" in examples/web'),
    pytest.mark.skipif(sys.platform == "win32", reason="drives the browser through a shell"),
]


class Page:
    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self, query=""):
        self.browser.call("Page.navigate", url=f"{self.address}{query}")
        self.browser.wait("document.readyState === 'complete' && !!document.getElementById('status')")

    def status(self, state) -> str:
        """The status line, once it is in this state; AssertionError with an error's line."""
        status = "document.getElementById('status')"
        wanted = f"['{state}', 'error'].includes({status}.dataset.state)"
        found, line = self.browser.wait(f"{wanted} && [{status}.dataset.state, {status}.textContent]")
        assert found == state, line
        return line

    def boxes(self) -> list:
        """As reference.detected()."""
        self.status("done")
        rows = json.loads(self.browser.evaluate("document.getElementById('result').textContent"))
        return [(row["name"], row["confidence"], tuple(row["xyxy"])) for row in rows]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function from a name of FLAGS to the ONNX file that they make."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    return cache(lambda name: export_onnx(folder / f"{name}.onnx", **FLAGS[name]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser whose camera sees the square picture."""
    folder = tmp_path_factory.mktemp("browser")
    picture = cv2.imencode(".jpg", cv2.imread(str(PICTURES["square"])), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (folder / "camera.mjpeg").write_bytes(picture * 30)
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    browser = Browser(folder, *camera, f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}")
    yield browser
    browser.close()


@contextmanager
def serving(folder, model):
    """The address that the folder's serve.py prints, without its query."""
    line = [sys.executable, str(folder / "serve.py"), "--port", "0", "--model", str(model)]
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        address, _, query = server.stdout.readline().strip().partition("?")
        assert address.startswith("http://127.0.0.1:") and query == f"model=model/{model.name}"
        yield address
    finally:
        server.terminate()
        server.wait(SECONDS)
        server.stdout.close()


@pytest.fixture(scope="module")
def served(files):
    with serving(WEB, files("raw")) as address:
        yield address


@pytest.fixture
def page(browser, served):
    page = Page(browser, served)
    yield page
    browser.call("Page.navigate", url="about:blank")


@pytest.mark.parametrize(
    "model, picture, weights",
    [
        ("raw", "square", WEIGHTS),
        ("raw", "wide", "raw"),  # a fixed size pads more than detect.py does for the .pt file
        ("dynamic", "wide", WEIGHTS),
        ("dynamic", "tall", WEIGHTS),
        ("boxes", "square", WEIGHTS),
        ("image", "square", WEIGHTS),
        ("image", "tall", WEIGHTS),
    ],
)
def test_boxes_are_those_of_detect(page, files, model, picture, weights):
    page.open()
    page.browser.choose("#model-file", files(model))
    page.status("ready")
    page.browser.choose("#picture-file", PICTURES[picture])
    found = page.boxes()
    assert_same_boxes(found, detected(files(weights) if weights in FLAGS else weights, PICTURES[picture]))
    assert [conf for _, conf, _ in found] == sorted((conf for _, conf, _ in found), reverse=True)


def test_model_picture_and_limits_are_parameters_and_sliders_need_no_new_run(page):
    picture = "data:image/jpeg;base64," + base64.b64encode(PICTURES["tall"].read_bytes()).decode()
    page.open(f"?model=model/raw.onnx&confidence=0.9&image={quote(picture)}")
    few = page.boxes()
    page.browser.evaluate(
        "document.getElementById('confidence').value = 0.25;"
        "document.getElementById('confidence').dispatchEvent(new Event('input'))"
    )
    many = page.boxes()
    assert few == [box for box in many if box[1] > 0.9] and len(few) < len(many)
    assert page.browser.evaluate("crossOriginIsolated") is True
    assert "threads: " in page.browser.evaluate("document.getElementById('speed').textContent")


def test_camera(page):
    page.open("?model=model/raw.onnx")
    page.status("ready")
    page.browser.evaluate("document.getElementById('camera').click()")
    expected = detected(WEIGHTS, PICTURES["square"])
    assert_same_boxes(page.boxes(), expected, pixels=6, confidence=0.15)  # its colours went through JPEG and YUV
    page.browser.evaluate("document.getElementById('camera').click()")
    page.browser.wait("document.getElementById('camera').textContent === 'Camera'")


@pytest.mark.parametrize(
    "query, selector, content, line",
    [
        ("?model=model/none.onnx", None, None, "model/none.onnx: the server answers 404 File not found"),
        ("", "#model-file", b"\x89PNG\r\n\x1a\n picture", "file.onnx: expected an ONNX model, found something else"),
        ("", "#model-file", b"", "file.onnx: expected an ONNX model, found something else"),
        ("", "#model-file", b"\x3a\x00", "file.onnx: expected the class names in its metadata, found none"),
        ("", "#picture-file", b"not a picture", "file.txt: expected a picture, found something that the browser"),
    ],
)
def test_errors_say_what_where_and_what_was_expected(page, tmp_path, query, selector, content, line):
    page.open(query)
    if selector:
        file = tmp_path / ("file.onnx" if selector == "#model-file" else "file.txt")
        file.write_bytes(content)
        page.browser.choose(selector, file)
    assert page.status("error").startswith(line)


def test_metadata_of_yolov5_is_read(page, files, tmp_path):
    page.open()
    page.browser.choose("#model-file", write_yolov5_metadata(files("raw"), tmp_path / "yolov5.onnx"))
    page.status("ready")
    page.browser.choose("#picture-file", PICTURES["square"])
    assert_same_boxes(page.boxes(), detected(WEIGHTS, PICTURES["square"]))


@pytest.mark.parametrize(
    "missing, state, words",
    [
        (None, "ready", "Choose a picture"),  # these three files of the runtime are enough, as examples/README.md says
        ("ort.wasm.min.mjs", "error", 'ort.wasm.min.mjs is missing: run "npm install" in examples/web'),
        ("ort-wasm-simd-threaded.wasm", "error", "raw.onnx: ort.wasm.min.mjs cannot open it: "),
    ],
)
def test_a_missing_runtime_is_named(browser, files, tmp_path, missing, state, words):
    runtime = "node_modules/onnxruntime-web/dist"
    (tmp_path / runtime).mkdir(parents=True)
    runtime_files = {"ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"} - {missing}
    for name in ("index.html", "detector.js", "serve.py", *(f"{runtime}/{name}" for name in runtime_files)):
        shutil.copy(WEB / name, tmp_path / name)
    with serving(tmp_path, files("raw")) as address:
        page = Page(browser, address)
        page.open("?model=model/raw.onnx")
        assert words in page.status(state)


def test_server_refuses_a_model_that_is_not_there(tmp_path):
    line = [sys.executable, str(WEB / "serve.py"), "--model", "none.onnx"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (1, "error: none.onnx: no such file\n")
