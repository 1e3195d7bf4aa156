"""extras.download.files against a real server on this machine, and zip files that mean harm."""

import hashlib
import socket
import stat
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from extras.download import files as downloads
from extras.download.files import attempt_download, download, safe_unzip
from utils.sources.urls import Limits

CONTENT = bytes(i * 7 % 251 for i in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT. The path says how: /plain knows no Range, /break ends halfway once, /always-break every time,
    /error answers 500, /length keeps the length to itself, /old says that nothing lies behind any start. Three never
    end: /slow sends a byte now and then, /endless as many as it can, /headings one more heading each time."""

    def do_GET(self):
        start = self.headers.get("Range")
        self.path = self.path.partition("?")[0]
        self.server.secrets.append(self.headers.get("Authorization"))
        if self.path in ("/slow", "/endless", "/headings"):
            return self.send_without_end()
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/file")
            return self.end_headers()
        self.server.requests.append((self.path, start))
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/error":
            return self.send_error(500)
        if start and (self.path == "/old" or int(start[6:-1]) >= len(CONTENT)):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            return self.end_headers()
        first = int(start[6:-1]) if start and self.path != "/plain" else 0
        body = CONTENT[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.path != "/length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/always-break" or (self.path == "/break" and not first):
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def send_without_end(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"" if self.path == "/headings" else b"\r\n"))
        part = {"/slow": b"x", "/endless": bytes(100_000), "/headings": b"X-More: x\r\n"}[self.path]
        with suppress(OSError):
            while True:
                self.wfile.write(part)
                time.sleep(0 if self.path == "/endless" else 0.05)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.secrets = [], []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("path", ["/file", "/plain", "/length", "/break"])
def test_download(server, tmp_path, path):
    file = tmp_path / "sub" / "f.bin"
    assert download(server.url + path, file, sha256=SHA256, min_bytes=1000) == file
    assert file.read_bytes() == CONTENT and [p.name for p in file.parent.iterdir()] == ["f.bin"]


@pytest.mark.parametrize(
    ("path", "limits", "words"),
    [
        ("/slow", Limits(0.3), "has not come within 0.3 seconds"),
        ("/headings", Limits(0.3), "has not come within 0.3 seconds"),
        ("/endless", Limits(30, 1), "is larger than 1 MB"),
        ("/file", Limits(30, 0.2), "is larger than 0.2 MB"),  # which its heading says
    ],
)
def test_a_body_without_end(server, tmp_path, path, limits, words):
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"{path}: {words}"):
        download(server.url + path, tmp_path / "f", limits=limits)
    assert time.monotonic() - start < 5 and not (tmp_path / "f").exists()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1_000_000


@pytest.mark.parametrize("path", ["/file", "/elsewhere"])
def test_a_password_goes_to_its_own_host_alone(server, tmp_path, path):
    server.url = server.url.replace("http://", "http://me:se%40cret@")
    download(server.url + path, tmp_path / "f", sha256=SHA256)
    expected = ["Basic bWU6c2VAY3JldA=="]
    assert server.secrets == (expected if path == "/file" else [*expected, None])


@pytest.mark.parametrize("path", ["/missing", "/error", "/always-break", "/slow", "/file"])
def test_no_message_shows_a_password(server, tmp_path, path):
    url = server.url.replace("http://", "http://me:secret@") + path + "?size=9&token=secret"
    with pytest.raises((OSError, ValueError), match=r"http://\*\*\*@127.0.0.1:\d+") as caught:
        download(url, tmp_path / "f", sha256="0" * 64, limits=Limits(0.5))
    assert "secret" not in str(caught.value)


def test_a_file_that_exists_is_not_fetched(server, tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    download(server.url + "/file", tmp_path / "f", sha256=SHA256.upper())
    assert server.requests == []


def test_a_file_that_exists_with_other_content_is_left_alone(server, tmp_path):
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(ValueError, match="f exists already: expected sha256"):
        download(server.url + "/file", tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "path, kept, ranges",
    [
        ("/file", CONTENT[:1000], ["bytes=1000-"]),  # the rest alone is fetched
        ("/plain", CONTENT[:1000], ["bytes=1000-"]),  # a server that cannot resume sends all, and nothing is doubled
        ("/file", CONTENT, ["bytes=300000-"]),  # all was there, only the last step was missing
        ("/file", CONTENT + b"x", ["bytes=300001-", None]),  # longer than the file: from the start
        ("/old", CONTENT[:1000], ["bytes=1000-", None]),
    ],
)
def test_resume_of_an_interrupted_download(server, tmp_path, path, kept, ranges):
    (tmp_path / "f.part").write_bytes(kept)
    download(server.url + path, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT and not (tmp_path / "f.part").exists()
    assert [start for _, start in server.requests] == ranges


def test_a_connection_that_breaks_again_keeps_what_came(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"ended after .* bytes; 225,000 bytes are kept in .*f\.part"):
        download(server.url + "/always-break", tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f.part").read_bytes() == CONTENT[:225_000] and not (tmp_path / "f").exists()
    download(server.url + "/file", tmp_path / "f", sha256=SHA256)
    assert [start for _, start in server.requests] == [None, "bytes=150000-", "bytes=225000-"]


@pytest.mark.parametrize(
    "path, arguments, error, message",
    [
        ("/missing", {}, FileNotFoundError, "the server answers 404"),
        ("/error", {}, ConnectionError, "the server answers 500"),
        ("/file", {"sha256": "0" * 64}, ValueError, f"expected sha256 {'0' * 64}, found {SHA256}"),
        ("/file", {"min_bytes": 10**6}, ValueError, "expected at least 1,000,000 bytes, found 300,000"),
    ],
)
def test_what_is_wrong_leaves_nothing_behind(server, tmp_path, path, arguments, error, message):
    with pytest.raises(error, match=message):
        download(server.url + path, tmp_path / "f", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_refused_connection_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:  # bound but not listening
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match=r"cannot download http://.*refused.* put the file at .*f yourself"):
            download(f"http://127.0.0.1:{free.getsockname()[1]}/f", tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_a_server_that_says_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectionError, match="timed out"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/f", tmp_path / "f")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/f", "yolov5n.pt"])
def test_only_http(tmp_path, url):
    with pytest.raises(ValueError, match="expected a http:// or https:// URL, found"):
        download(url, tmp_path / "f")


def test_release_names_come_from_the_release(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RELEASE_URL", server.url + "/")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="yolov5n6.pt: expected at least 1,000,000 bytes, found 300,000"):
        attempt_download("yolov5n6.pt")
    assert server.requests == [("/yolov5n6.pt", None)] and not list(tmp_path.iterdir())
    (tmp_path / "yolov5n6.pt").write_bytes(b"mine")
    assert attempt_download("yolov5n6.pt").read_bytes() == b"mine" and len(server.requests) == 1


@pytest.mark.parametrize(
    "name, message",
    [
        ("yolov5n7.pt", "weights 'yolov5n7.pt' not found; did you mean yolov5n"),
        ("runs/none/best.pt", "weights 'runs/none/best.pt' not found$"),
    ],
)
def test_no_other_name_is_downloaded(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        attempt_download(name)


def test_unzip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/images/1.jpg", b"one")
        archive.writestr("set/labels/", b"")
        archive.writestr("set/readme.txt", b"theirs")
    (tmp_path / "out" / "set").mkdir(parents=True)
    (tmp_path / "out" / "set" / "readme.txt").write_bytes(b"mine")
    assert safe_unzip(tmp_path / "a.zip", tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out/set/images/1.jpg").read_bytes() == b"one"
    assert (tmp_path / "out/set/readme.txt").read_bytes() == b"mine"  # what exists stays
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["set"]  # no temporary folder


def member(name, mode=None, flags=0):
    info = zipfile.ZipInfo("x")
    info.filename = name
    info.flag_bits |= flags
    if mode:
        info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "info, message",
    [
        (member("../evil.txt"), r"member '\.\./evil.txt' would land outside"),
        (member("a/../../evil.txt"), "would land outside"),
        (member("/tmp/evil.txt"), "would land outside"),
        (member("..\\evil.txt"), "would land outside"),  # a path on Windows
        (member("C:/evil.txt"), "would land outside"),
        (member("link", stat.S_IFLNK | 0o777), "member 'link' is a link"),
    ],
)
def test_unzip_refuses_members_that_leave_the_folder(tmp_path, info, message):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.txt", b"good")
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(ValueError, match=message + ".*nothing was unpacked"):
        safe_unzip(tmp_path / "a.zip", tmp_path / "deep" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_unzip_refuses_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ZIP_ALLOWANCE_BYTES", 0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    with pytest.raises(ValueError, match="would unpack to 10,000,000 bytes, more than"):
        safe_unzip(tmp_path / "a.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_unzip_refuses_what_is_encrypted_or_broken(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("f", b"content")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.find(b"PK\x01\x02")
    (tmp_path / "encrypted.zip").write_bytes(data[: entry + 8] + b"\x01" + data[entry + 9 :])
    changed = data.find(b"content")
    (tmp_path / "changed.zip").write_bytes(data[:changed] + b"C" + data[changed + 1 :])
    (tmp_path / "short.zip").write_bytes(data[:-10])
    out = tmp_path / "out"
    for name, message in (
        ("encrypted", "is encrypted"),
        ("changed", "not a readable zip"),
        ("short", "not a readable"),
    ):
        with pytest.raises(ValueError, match=message):
            safe_unzip(tmp_path / f"{name}.zip", out)
        assert not out.exists() or not list(out.iterdir()), name
