"""The page of serve.py in a real browser: a token, the boxes of a chosen picture, the camera."""

import sys

import cv2
import pytest

from tests.browser import CHROMIUM, Browser
from tests.conftest import ROOT
from tests.running_server import RunningServer

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(sys.platform == "win32", reason="drives the browser through a shell"),
]

PICTURE = ROOT / "data" / "images" / "shapes" / "shapes1.jpg"
TEXTS = "[...document.querySelectorAll('#rows tr')].map(row => row.innerText)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser whose camera sees the picture."""
    folder = tmp_path_factory.mktemp("browser")
    jpeg = cv2.imencode(".jpg", cv2.imread(str(PICTURE)))[1].tobytes()
    (folder / "camera.mjpeg").write_bytes(jpeg * 30)
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    browser = Browser(folder, *camera, f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}")
    yield browser
    browser.close()


def test_token_picture_and_camera(folder, browser):
    (folder / "tokens.txt").write_text("open-sesame\n")
    with RunningServer(f"{folder}/a.onnx", flags=["--token-file", folder / "tokens.txt"]) as server:
        server.client.headers["Authorization"] = "Bearer open-sesame"
        picture = {"image": (folder / "1.png").read_bytes()}
        boxes = server.client.post("/v1/detect?format=pandas", files=picture).json()
        browser.call("Page.navigate", url=f"http://localhost:{server.port}/")
        browser.wait("document.getElementById('status')?.textContent.includes('expected a token')")
        browser.evaluate("token.value = 'open-sesame'; token.dispatchEvent(new Event('change'))")
        browser.wait("model.value === 'a'")
        browser.choose("#file", folder / "1.png")
        rows = browser.wait(f"{TEXTS}.length === {len(boxes)} && {TEXTS}")
        assert [row.split("\t")[:2] for row in rows] == [[b["name"], f"{b['confidence']:.3f}"] for b in boxes]
        browser.evaluate("rows.replaceChildren(); camera.click()")
        browser.wait(f"document.getElementById('status').innerText.includes('frames a second') && {TEXTS}.length")
        browser.evaluate("camera.click()")
        assert browser.evaluate("camera.innerText") == "Start the camera"
