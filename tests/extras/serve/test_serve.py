"""serve.py as its users meet it: a process on a port of this machine, without PyTorch."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import httpx
import numpy as np
import pytest
from conftest import ROOT

import detect
import serve
from engine import options
from extras.serve.models import named_files
from tests.running_server import RunningServer


@pytest.fixture(scope="module")
def server(folder):
    with RunningServer(f"{folder}/a.onnx", f"second={folder}/b.onnx") as server:
        yield server


def post(server, picture: bytes, headers=None, **params) -> httpx.Response:
    headers = {"Content-Type": "image/png", **(headers or {})}
    return server.client.post("/v1/detect", content=picture, params=params, headers=headers)


def files(pictures) -> list:
    return [("image", (f"secret-name-{i}.png", io.BytesIO(data))) for i, data in enumerate(pictures)]


def records_of(result, number: int) -> list:
    return [
        {"image": number, **dict(zip(("xmin", "ymin", "xmax", "ymax"), box))}
        | {"confidence": round(conf, 5), "class": int(cls), "name": result.names[int(cls)]}
        for *box, conf, cls in result.boxes.tolist()
    ]


@pytest.mark.parametrize("model, file", [(None, "a"), ("a", "a"), ("second", "b")])
def test_boxes_are_those_of_detect_py(server, folder, pictures, model, file):
    expected = detect.run(weights=f"{folder}/{file}.onnx", source=f"{folder}/*.png", nosave=True)
    assert all(len(result.boxes) > 1 for result in expected)
    params = {"format": "pandas", **({"model": model} if model else {})}
    for data, result in zip(pictures, expected):
        assert post(server, data, **params).json() == records_of(result, 1)
    together = server.client.post("/v1/detect", files=files(pictures), params=params)
    assert together.json() == [row for i, result in enumerate(expected, 1) for row in records_of(result, i)]


def test_tiles_find_what_detect_py_finds_in_tiles(folder, tmp_path):
    tiles = {"tile": 64, "overlap": 0.25, "imgsz": 64}
    noise = np.random.default_rng(1).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), cv2.resize(noise, (250, 200)))
    source = {"weights": f"{folder}/a.onnx", "source": str(tmp_path / "large.png"), "nosave": True}
    (expected,), (whole,) = detect.run(**source, **tiles), detect.run(**source, imgsz=64)
    assert len(expected.boxes) > len(whole.boxes) > 0
    flags = [word for key, value in tiles.items() for word in (f"--{key}", value)]
    with RunningServer(f"{folder}/a.onnx", flags=flags) as server:
        answer = post(server, (tmp_path / "large.png").read_bytes(), format="pandas")
    assert answer.json() == records_of(expected, 1) and not server.errors


def test_coco_is_read_by_pycocotools(server, pictures, sizes_wh):
    coco_module = pytest.importorskip("pycocotools.coco")
    answer = server.client.post("/v1/detect", files=files(pictures))
    data = answer.json()
    assert [(image["width"], image["height"]) for image in data["images"]] == sizes_wh
    coco = coco_module.COCO()
    coco.dataset = data
    coco.createIndex()
    found = coco.loadRes(data["annotations"])
    assert len(found.anns) == len(data["annotations"]) > 3
    assert [category["name"] for category in data["categories"]] == ["box", "disc"]


def test_yolo_text_is_that_of_save_txt(server, folder, pictures, tmp_path):
    detect.run(
        weights=f"{folder}/a.onnx", source=f"{folder}/*.png", nosave=True, save_txt=True, save_conf=True,
        project=str(tmp_path),
    )  # fmt: skip
    texts = [(tmp_path / "exp" / "labels" / f"{i}.txt").read_text() for i in range(3)]
    assert server.client.post("/v1/detect", files=files(pictures), params={"format": "yolo"}).json() == texts


def test_drawn_picture(server, pictures):
    answer = post(server, pictures[0], format="jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    plain = cv2.imdecode(np.frombuffer(pictures[0], np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == plain.shape and np.abs(drawn.astype(int) - plain).mean() > 5


def test_confidence_of_a_request(server, pictures):
    records = post(server, pictures[0], format="pandas").json()
    middle = sorted(record["confidence"] for record in records)[len(records) // 2] + 1e-5
    expected = [record for record in records if record["confidence"] >= middle]
    assert post(server, pictures[0], format="pandas", conf=middle).json() == expected


@pytest.mark.parametrize(
    "body, headers, params, status, words",
    [
        (b"", {}, {}, 422, "empty body"),
        (b"GIF89a" + bytes(100), {}, {}, 422, "picture 1: not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), {}, {}, 422, "picture 1"),
        (b"x", {"Content-Type": "text/plain"}, {}, 415, "expected a Content-Type"),
        (b"x", {"Content-Type": "multipart/form-data"}, {}, 400, "boundary"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=y"}, {}, 400, "cannot be read"),
        (b'{"urls": ["http://127.0.0.1/x.jpg"]}', {"Content-Type": "application/json"}, {}, 403, "--allow-url"),
        (bytes(21_000_000), {}, {}, 413, "at most 20,000,000 bytes"),
        (b"x", {}, {"model": "third"}, 404, "expected a model of a, second, found 'third'"),
        (b"x", {}, {"format": "xml"}, 422, "coco"),
        (b"x", {}, {"conf": "2"}, 422, "less than or equal to 1"),
    ],
)
def test_refusals(server, body, headers, params, status, words):
    answer = post(server, body, headers, **params)
    assert answer.status_code == status and words in str(answer.json()["detail"])
    assert server.client.get("/healthz").json() == {"status": "alive"}


def test_one_unfit_picture_refuses_the_request(server, pictures):
    answer = server.client.post("/v1/detect", files=files([pictures[0], pictures[1][:-20]]))
    assert answer.status_code == 422 and answer.json()["detail"].startswith("picture 2: cut: the PNG chunk")
    answer = server.client.post("/v1/detect", files=files(pictures), params={"format": "jpeg"})
    assert answer.status_code == 422 and "expected one picture, found 3" in answer.json()["detail"]
    assert server.client.post("/v1/detect", files=files(pictures * 6)).status_code == 400


def test_pages_state_and_counters(server, pictures):
    parser = pytest.importorskip("prometheus_client.parser")
    post(server, pictures[0])
    assert server.client.get("/readyz").json() == {"status": "ready"}
    assert [model["name"] for model in server.client.get("/v1/models").json()] == ["a", "second"]
    assert "/v1/detect" in server.client.get("/openapi.json").json()["paths"]
    families = {
        family.name: family for family in parser.text_string_to_metric_families(server.client.get("/metrics").text)
    }
    values = {
        sample.labels["model"]: sample.value
        for sample in families["serve_pictures"].samples
        if sample.name.endswith("_total")
    }
    assert values["a"] > 0 and families["serve_held_bytes"].samples[0].value == 0
    assert families["serve_pictures_at_hand"].samples[0].value == 0
    for path in ("/", "/docs"):
        answer = server.client.get(path)
        assert answer.headers["content-type"].startswith("text/html") and answer.headers["x-frame-options"] == "DENY"
        assert "https://" not in answer.text


def test_reload_needs_tokens(server):
    assert server.client.post("/v1/models/a/reload").status_code == 403


def test_log_has_lines_of_json_and_nothing_of_the_request(server, pictures):
    answer = server.client.post("/v1/detect", files=files(pictures), headers={"Authorization": "Bearer secret-token"})
    time.sleep(0.2)
    (line,) = [line for line in server.events("request") if line["id"] == answer.headers["x-request-id"]]
    assert line["pictures"] == 3 and line["bytes"] == sum(map(len, pictures)) and line["status"] == 200
    assert line["objects"] == len(answer.json()["annotations"])
    assert "secret" not in "".join(server.lines) and not server.errors


def test_tokens_and_reload_without_a_lost_request(folder, pictures, tmp_path):
    (tmp_path / "tokens.txt").write_text("first-token\n\nsecond-token\n")
    model = tmp_path / "best.onnx"
    model.write_bytes((folder / "a.onnx").read_bytes())
    with RunningServer(str(model), flags=["--token-file", tmp_path / "tokens.txt"]) as server:
        for path in ("/v1/models", "/metrics"):
            refused = server.client.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert post(server, pictures[0], {"Authorization": "Bearer first-toke"}).status_code == 401
        server.client.headers["Authorization"] = "Bearer second-token"
        answers = reload_between_requests(server, pictures[0], model, folder / "b.onnx")
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 2  # the old model's and the new one's
        model.write_bytes(b"no model")
        before = post(server, pictures[0]).text
        refused = server.client.post("/v1/models/best/reload")
        assert refused.status_code == 422 and post(server, pictures[0]).text == before == answers[-1].text
        assert server.stop() == 0
    assert len(server.events("model_read")) == 1 and len(server.events("model_kept")) == 1
    assert not any(f"{name}-token" in line for line in server.lines for name in ("first", "second"))


def reload_between_requests(server, picture, model, other) -> list:
    """The answers to requests of four clients before, while and after `model` becomes `other`."""
    answers, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            answers.append(post(server, picture))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.5)
        other_bytes = model.with_name("new.onnx")
        other_bytes.write_bytes(other.read_bytes())
        other_bytes.replace(model)
        assert server.client.post("/v1/models/best/reload").json() == {"name": "best"}
        answers.append(post(server, picture))
        time.sleep(0.5)
        is_over.set()
        for client in clients:
            client.result()
    return [*answers, post(server, picture)]


def test_a_full_queue_addresses_and_a_stop_in_between(folder, pictures, host):
    """Of 40 requests at once some are refused with 429; SIGTERM comes while four pictures are worked on."""
    flags = ["--queue", 4, "--max-pictures", 4, "--imgsz", 640, "--allow-url", host, "--drain-s", 1]
    with RunningServer(f"{folder}/a.onnx", flags=flags) as server, ThreadPoolExecutor(40) as pool:
        addresses_below_an_allowed_one(server, host, pictures[0])
        answers = list(pool.map(lambda _: post(server, pictures[1]), range(40)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429} and codes.count(200) >= 4
        retries = {answer.headers["retry-after"] for answer in answers if answer.status_code == 429}
        assert all(1 <= int(seconds) <= 60 for seconds in retries)
        last = pool.submit(server.client.post, "/v1/detect", files=files(pictures[1:2] * 4))
        while "serve_pictures_at_hand 4.0" not in server.client.get("/metrics").text and not last.done():
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        answer = ready(server)
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        assert server.process.wait(60) == 0
        assert last.result().status_code == 200
    assert server.events()[-1]["event"] == "stopped" and not server.errors


def ready(server) -> httpx.Response:
    """The first answer of /readyz that is not 200."""
    while (answer := httpx.get(f"{server.url}/readyz", trust_env=False)).status_code == 200:
        time.sleep(0.01)
    return answer


def test_limits_of_memory_pixels_and_connections(folder, pictures):
    flags = ["--memory-mb", 0.01, "--max-mpx", 0.003, "--max-mb", 0.1, "--receive-s", 0.5, "--connections", 2]
    with RunningServer(f"{folder}/a.onnx", flags=flags) as server:
        assert post(server, bytes(50_000)).status_code == 503
        answer = post(server, pictures[1])
        assert answer.status_code == 413 and answer.json()["detail"] == (
            "picture 1: expected at most 3,000 pixels, found 64 x 64"
        )
        slow_clients(server)
        too_many_connections(server)
        time.sleep(0.1)
        assert server.client.get("/healthz").status_code == 200
    assert not server.errors


def slow_clients(server) -> None:
    """A body that does not come is answered with 408, a request line that does not end is cut off."""
    head = "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    assert raw(server.port, head.encode()).startswith(b"HTTP/1.1 408")
    assert raw(server.port, b"GET / HT") == b""
    assert raw(server.port, b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000).startswith(b"HTTP/1.1 400")


def too_many_connections(server) -> None:
    server.client.close()
    time.sleep(0.1)
    with socket.create_connection(("127.0.0.1", server.port)), socket.create_connection(("127.0.0.1", server.port)):
        answer = raw(server.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 5" in answer
    body = answer.split(b"\r\n\r\n")[1]
    assert f"content-length: {len(body)}".encode() in answer and json.loads(body)
    server.client = httpx.Client(base_url=server.url, trust_env=False)


def raw(port: int, data: bytes) -> bytes:
    """All that the server sends after these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


class Host(SimpleHTTPRequestHandler):
    """A web server for the files of a folder; an address with "moved" in it leads to another one."""

    def do_GET(self):
        if "moved" in self.path:
            self.send_response(302)
            self.send_header("Location", "/0.png")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host(folder):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, directory=str(folder))) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()


def addresses_below_an_allowed_one(server, host, picture) -> None:
    def ask(body):
        return server.client.post("/v1/detect", json=body)

    assert ask({"urls": [f"{host}/0.png"]}).json() == post(server, picture).json()
    for url, status in (("/moved.png", 424), ("/9.png", 424), ("/../0.png", 403), (".evil.org/0.png", 403)):
        assert ask({"urls": [host + url]}).status_code == status
    assert ask({"urls": []}).status_code == ask({"url": 1}).status_code == 422
    assert ask({"urls": [host] * 5}).status_code == 413


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--token-file", "{folder}/empty.txt"], "expected a token on each line"),
        (["--port", "{port}"], "cannot listen there: Address already in use"),
        (["--port", "70000"], "--port must be a whole number between 0 and 65535"),
        (["--queue", "2"], "--max-pictures: expected at most --queue 2, found 16"),
        (["--batch-size", "0"], "--batch-size: expected a whole number from 1, found 0"),
    ],
)
def test_errors_are_one_line(folder, flags, words, monkeypatch, capsys):
    (folder / "empty.txt").write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = [flag.format(folder=folder, port=taken.getsockname()[1]) for flag in flags]
        monkeypatch.setattr(sys, "argv", ["serve.py", *flags])
        assert options.start("serve", serve.main) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_a_model_that_cannot_be_opened_ends_it(folder):
    command = [sys.executable, str(ROOT / "serve.py"), "--weights", "no.onnx", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (1, "error: no.onnx: no such file\n")


@pytest.mark.parametrize(
    "weights, expected",
    [(["x/a.onnx", "b=c.pt"], {"a": "x/a.onnx", "b": "c.pt"}), (["a.onnx", "x/a.pt"], "found 'a' twice: NAME=FILE")],
)
def test_names_of_models(weights, expected):
    if isinstance(expected, dict):
        assert named_files(weights) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            named_files(weights)
