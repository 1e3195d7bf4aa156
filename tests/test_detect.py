"""detect.py as its users start it: a command line and an exit code; and run() from Python."""

import http.server
import signal
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

import detect
from tests.conftest import ROOT
from tests.scripts import run_script
from tests.tiny_detector import write_tiny_weights


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


@pytest.fixture
def pictures(tmp_path):
    """Two folders with pictures of the same name, one with a unicode name."""
    rng = np.random.default_rng(0)
    for name in ("a/bus.jpg", "b/bus.jpg", "b/Straße 猫.png"):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (64, 48))
        file.write_bytes(cv2.imencode(file.suffix, noise)[1].tobytes())
    return tmp_path / "pictures"


def command(tmp_path, *flags, code: int = 0) -> subprocess.CompletedProcess:
    """Run detect.py in tmp_path; assert its exit code."""
    done = run_script("detect.py", *flags, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_is_instant_because_it_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['detect.py', '--help']; import runpy\n"
        "try: runpy.run_path('detect.py', run_name='__main__')\n"
        "finally: print([m for m in ('torch', 'cv2', 'numpy', 'yaml', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "--save-txt" in done.stdout and done.stdout.rstrip().endswith("[]")


def test_the_detection_path_does_not_import_what_it_does_not_need(weights, pictures):
    code = (
        "import sys, detect\n"
        f"detect.run(weights={str(weights)!r}, source={str(pictures / 'a')!r}, nosave=True)\n"
        "print([m for m in ('pandas', 'matplotlib', 'tensorboard', 'timm', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_command_line(tmp_path, weights, pictures):
    flags = ["--weights", weights, "--source", pictures / "**" / "*.*", "--save-txt", "--save-csv", "--save-crop"]
    done = command(tmp_path, *flags, "--project", "out")
    out = tmp_path / "out" / "exp"
    assert sorted(file.name for file in out.iterdir() if file.suffix != ".csv" and file.is_file()) == [
        "Straße 猫.png", "bus.jpg", "bus_2.jpg",
    ]  # fmt: skip
    assert sorted(file.name for file in (out / "labels").iterdir()) == ["Straße 猫.txt", "bus.txt", "bus_2.txt"]
    assert f"image 1/3 {pictures / 'a' / 'bus.jpg'}: 64x64 " in done.stdout or "48x64 " in done.stdout
    assert "Speed: " in done.stdout and f"Results saved to {out.relative_to(tmp_path)}" in done.stdout
    assert "3 label files in out/exp/labels" in done.stdout
    assert cv2.imread(str(out / "bus.jpg")).tobytes() != cv2.imread(str(out / "bus_2.jpg")).tobytes()


def test_broken_pictures_do_not_stop_the_run_but_count(tmp_path, weights, pictures):
    (pictures / "b" / "aaa.jpg").write_bytes(b"\xff\xd8\xff broken")
    done = command(tmp_path, "--weights", weights, "--source", pictures / "b", "--project", "out", code=1)
    assert "1 file could not be read:" in done.stdout and str(pictures / "b" / "aaa.jpg") in done.stdout
    assert sorted(file.name for file in (tmp_path / "out" / "exp").iterdir()) == ["Straße 猫.png", "bus.jpg"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source", "missing.jpg"], ["error: source 'missing.jpg' does not exist"]),
        (["--source", "empty"], ["no image or video in folder 'empty'", "jpg", "mp4"]),
        (["--source", "pictures/a", "--weights", "none.pt"], ["none.pt"]),
        (["--source", "pictures/a", "--weights", "none.onnx"], ["none.onnx", "no such file"]),
        (["--source", "pictures/a", "--device", "7"], ["device '7'"]),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, pictures, flags, words):
    (tmp_path / "empty").mkdir()
    done = command(tmp_path, *flags, code=1)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not (tmp_path / "runs").exists()
    for word in words:
        assert word in done.stderr


def test_an_unknown_flag_names_the_nearest(tmp_path):
    assert "did you mean --save-txt?" in command(tmp_path, "--save-text", code=2).stderr


class EndlessCamera(http.server.BaseHTTPRequestHandler):
    """An MJPEG stream that goes on until the client leaves."""

    def do_GET(self):
        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n")
        except ConnectionError:
            pass

    def log_message(self, *args):
        pass


def test_ctrl_c_ends_a_stream_and_leaves_a_whole_video(tmp_path, weights):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EndlessCamera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--weights", weights, "--source", f"http://127.0.0.1:{server.server_port}/cam", "--project", "out"]
    line = [sys.executable, "-u", str(ROOT / "detect.py"), *map(str, flags)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        frames = 0
        while frames < 5 and (text := process.stdout.readline()):
            frames += text.startswith("stream 1/1")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        server.shutdown()
        server.server_close()
    assert process.returncode == 130 and "interrupted" in errors, errors
    (video,) = (tmp_path / "out" / "exp").glob("*.mp4")
    capture = cv2.VideoCapture(str(video))
    # the frame of the last line may still have been on its way into the file
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) >= frames - 1 and capture.read()[1].shape == (48, 64, 3)


def test_run_from_python(tmp_path, weights, pictures):
    results = detect.run(weights=weights, source=pictures / "a", project=tmp_path / "out", img=64, conf_thres=0.3)
    assert [r.path for r in results] == [str(pictures / "a" / "bus.jpg")]
    assert results[0].boxes.shape[1] == 6 and results[0].image is None and results[0].error == ""
    assert (tmp_path / "out" / "exp" / "bus.jpg").is_file()
    with pytest.raises(TypeError, match="no option 'conf_thresh' .did you mean conf_thres"):
        detect.run(conf_thresh=0.3)
