"""Parts of the server alone: addresses, memory, pictures, batches, the container."""

import asyncio
import json
import shutil
import subprocess
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import cv2
import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi import HTTPException

from engine import options
from engine.predict.run import build_detector
from extras.serve.app import build_app
from extras.serve.batcher import Batcher
from extras.serve.deadline import within
from extras.serve.intake import is_below, prefix_parts
from extras.serve.metrics import Metrics, ModelMetrics
from extras.serve.pictures import Memory, prepare
from extras.serve.service import Service
from tests.conftest import ROOT
from tests.running_server import RunningServer
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.files.yaml import load_yaml

SERVE = ROOT / "extras" / "serve"


@pytest.mark.parametrize(
    "url, is_allowed",
    [
        ("https://host/a/x.jpg", True),
        ("https://host:443/a/x.jpg", True),
        ("https://HOST/a/x.jpg", True),
        ("https://host/a", False),
        ("https://host/a/x.jpg?size=2", True),
        ("https://host/ab.jpg", False),
        ("https://host/b/x.jpg", False),
        ("http://host/a/x.jpg", False),
        ("https://host:8443/a/x.jpg", False),
        ("https://host.evil.org/a/x.jpg", False),
        ("https://host@evil.org/a/x.jpg", False),
        ("https://evil.org/https://host/a/x.jpg", False),
        ("https://host/a/../b/x.jpg", False),
        ("https://host/a/%2e%2e/b/x.jpg", False),
        ("https://host/a/%252e%252e/b/x.jpg", False),
        ("https://host/a/..%2fb/x.jpg", False),
        ("https://host/a\\..\\b", False),
        ("https://host/a/x.jpg#fragment", False),
        ("https://host\n/a/x.jpg", False),
        ("https://[::1/a", False),
        ("https://host:99999/a", False),
        ("file:///a/x.jpg", False),
        ("", False),
    ],
)
def test_addresses_that_an_allowed_one_covers(url, is_allowed):
    assert is_below(url, prefix_parts("https://host/a/")) is is_allowed


@pytest.mark.parametrize("prefix", ["ftp://x/", "host/a", "https://user@host/", "https:///a", "https://host/../a"])
def test_prefixes_that_are_none(prefix):
    with pytest.raises(ValueError, match="--allow-url: expected http"):
        prefix_parts(prefix)


def test_memory_is_given_back_whatever_happens():
    memory = Memory(100)
    with pytest.raises(HTTPException) as refusal, memory.holding(60) as held:
        held.take(30)
        assert memory.used == 90
        held.take(20)
    assert refusal.value.status_code == 503 and memory.used == 0


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("flags, letterboxed", [({}, 64 * 64), ({"tile": 32}, 40 * 64)])
def test_pixels_that_wait_for_the_model_are_counted(checkpoint, pictures, flags, letterboxed, keep):
    """Letterboxed pictures are small; in tiles the model gets the whole one."""
    opt = options.from_kwargs("serve", {"weights": str(checkpoint(0)), "imgsz": 64, **flags})
    service = Service(opt, [])
    (model,) = service.models.by_name.values()

    async def ask():
        service.models.start()
        with service.memory.holding() as held:
            await service.detect(model, [pictures[2]], held, keep)
            return held.count

    assert asyncio.run(ask()) == 3 * (letterboxed + (40 * 64 if keep else 0))
    service.stop()
    assert service.memory.used == 0


@pytest.fixture(scope="module")
def detector(checkpoint):
    opt = options.from_kwargs("serve", {"weights": str(checkpoint(0)), "imgsz": 64, "batch_size": 4})
    return build_detector(opt)


def test_a_models_own_thresholds_are_used(checkpoint):
    file = checkpoint(0)
    ckpt = load_checkpoint(file)
    ckpt.meta["thresholds"] = {"conf": [0.4, 0.6]}
    save_checkpoint(file, ckpt)
    for given, expected in (({}, [0.4, 0.6]), ({"conf_thres": 0.3}, 0.3)):
        opt = options.from_kwargs("serve", {"weights": str(file), "imgsz": 64, **given})
        assert build_detector(opt).conf_thres == expected


def prepared(detector, picture, keep=False):
    return prepare(detector, picture, "picture 1", 10_000, Memory(1 << 20), keep)


def test_a_picture_keeps_its_pixels_only_where_they_are_drawn(detector, pictures, sizes_wh):
    for picture, (w, h) in zip(pictures, sizes_wh):
        light, whole = prepared(detector, picture), prepared(detector, picture, keep=True)
        assert light.frame.image.shape == whole.frame.image.shape == (h, w, 3)
        assert light.frame.image.strides == (0, 0, 0) and whole.frame.image.std() > 0
        np.testing.assert_array_equal(light.picture, whole.picture)


@pytest.mark.parametrize(
    "spoil, status, words",
    [
        (lambda data: data[:-30], 422, "picture 1"),
        (lambda data: b"GIF89a", 422, "it holds GIF"),
        (lambda data: data + b"\xff\xda" * 101, 422, "expected at most 100 scans in a JPEG, found 10"),
        (lambda data: cv2.imencode(".png", np.zeros((200, 51), np.uint8))[1].tobytes(), 413, "found 51 x 200"),
    ],
)
def test_pictures_that_are_unfit(detector, pictures, spoil, status, words):
    jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(pictures[0], np.uint8), 1))[1].tobytes()
    with pytest.raises(HTTPException) as refusal:
        prepared(detector, spoil(jpeg))
    assert refusal.value.status_code == status and words in refusal.value.detail


def run_batcher(detector, wait_s, story):
    """What story(batcher) returns while a Batcher works, and how many pictures its batches had."""
    metrics = Metrics()

    async def run():
        with ThreadPoolExecutor(1) as worker:
            batcher = Batcher(detector, worker, wait_s, ModelMetrics(metrics, "a"))
            task = asyncio.ensure_future(batcher.run())
            found = await story(batcher)
            task.cancel()
            return found

    found = asyncio.run(run())
    buckets = {
        s.labels["le"]: s.value for s in metrics.batch_pictures.collect()[0].samples if s.name.endswith("_bucket")
    }
    return found, buckets


def test_pictures_of_one_shape_go_together_and_get_the_boxes_that_they_get_alone(detector, pictures):
    pairs = [prepared(detector, picture) for picture in [*pictures, *pictures] * 2]
    alone = [detector.detect([one])[0][1].boxes for one in pairs]

    async def all_at_once(batcher):
        return await asyncio.gather(*map(batcher.detect, pairs))

    found, buckets = run_batcher(detector, 0.05, all_at_once)
    for result, boxes in zip(found, alone):
        np.testing.assert_allclose(result.boxes, boxes, atol=1e-4)
    assert buckets["+Inf"] <= 5 and buckets["4.0"] == buckets["+Inf"] and buckets["1.0"] <= 1


def test_the_wait_has_a_bound_and_is_left_out_where_nobody_is_expected(detector, pictures):
    """A picture waits for one that is expected and never comes, and not at all without one."""
    one = prepared(detector, pictures[0])

    async def timed(batcher, is_expecting):
        start = asyncio.get_running_loop().time()
        if is_expecting:
            with batcher.expecting():
                await batcher.detect(one)
        else:
            await batcher.detect(one)
        return asyncio.get_running_loop().time() - start

    waited, _ = run_batcher(detector, 0.5, lambda batcher: timed(batcher, True))
    direct, _ = run_batcher(detector, 60, lambda batcher: timed(batcher, False))
    assert waited >= 0.5 and direct < 30


def test_who_does_not_wait_any_more_is_left_out_and_an_error_is_everyones(detector, pictures):
    one = prepared(detector, pictures[0])
    broken = prepared(detector, pictures[0])
    broken.picture = broken.picture[..., :1]  # a shape that the model does not take

    async def story(batcher):
        gone = asyncio.ensure_future(batcher.detect(one))
        await asyncio.sleep(0)
        gone.cancel()
        both = await asyncio.gather(batcher.detect(broken), batcher.detect(one), return_exceptions=True)
        return both, len(batcher.queue)

    ((error, result), waiting), buckets = run_batcher(detector, 0, story)
    assert isinstance(error, Exception) and len(result.boxes) > 0 and waiting == 0
    assert buckets["+Inf"] == 1


@pytest.mark.slow
def test_openvino_serves_the_same_boxes(folder, checkpoint, pictures):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    import export

    (other,) = export.run(weights=str(checkpoint(0)), include="openvino", dynamic=True)
    with RunningServer(f"{folder}/a.onnx", f"other={other.file}") as server:
        ask = lambda **params: server.client.post(  # noqa: E731
            "/v1/detect", params={"format": "pandas", **params}, files={"image": pictures[0]}
        ).json()
        ours, others = ask(), ask(model="other")
        assert [box["class"] for box in ours] == [box["class"] for box in others]
        assert [box["xmin"] for box in ours] == pytest.approx([box["xmin"] for box in others], abs=1)


def test_a_cancellation_that_is_swallowed_is_repeated():
    async def stubborn():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def broken():
        raise KeyError("a bug")

    start = time.perf_counter()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(within(0.05, stubborn()))
    assert time.perf_counter() - start < 30
    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(within(30, broken()))


@pytest.mark.parametrize("turns", range(5))
def test_a_cancellation_is_not_lost_when_the_work_has_just_ended(turns):
    async def story():
        end = asyncio.get_running_loop().create_future()

        async def work():
            await end

        async def outer():
            await within(60, work())
            await asyncio.sleep(60)

        task = asyncio.ensure_future(outer())
        await asyncio.sleep(0.01)
        end.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        return task.cancelled()

    assert asyncio.run(story())


def test_an_answer_that_is_late_and_a_bug_inside(checkpoint, pictures, caplog):
    """The queue is not worked off here, so that time runs out; then something breaks that never should."""
    opt = options.from_kwargs("serve", {"weights": str(checkpoint(0)), "timeout_s": 0.05})
    service = Service(opt, [])

    async def ask():
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            late = await client.post("/v1/detect", files={"image": pictures[0]})
            service.intake = None
            return late, await client.post("/v1/detect", files={"image": pictures[0]})

    late, broken = asyncio.run(ask())
    service.stop()
    assert (late.status_code, late.headers["retry-after"]) == (503, "5") and "no time" in late.json()["detail"]
    assert broken.status_code == 500 and "its log says why" in broken.json()["detail"]
    assert service.memory.used == service.pictures == 0
    (record,) = [record for record in caplog.records if record.message == "failure"]
    assert record.exc_info and record.fields["id"] == broken.headers["x-request-id"]


def copied_sources() -> list[str]:
    """The files and folders of the project that are copied into the image."""
    text = (SERVE / "Dockerfile").read_text()
    return [line.split()[1] for line in text.splitlines() if line.startswith("COPY ")]


def test_the_container_runs_without_rights():
    service = load_yaml(SERVE / "compose.yaml")["services"]["detection"]
    assert service["user"] == "1000:1000" and service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert (SERVE / "Dockerfile").read_text().index("\nUSER app\n") > 0
    assert all((ROOT / source).exists() for source in copied_sources())


@pytest.mark.slow
def test_the_files_and_packages_of_the_image_are_enough(folder, pictures, tmp_path):
    """What the Dockerfile copies and installs, in an environment of its own, answers."""
    for source in copied_sources():
        copy = partial(shutil.copytree, dirs_exist_ok=True) if (ROOT / source).is_dir() else shutil.copy
        (tmp_path / "app" / source).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, tmp_path / "app" / source)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    requirements = tmp_path / "app" / "extras" / "serve" / "requirements.txt"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    command = [python, "serve.py", "--weights", f"{folder}/a.onnx", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path / "app", stdout=subprocess.PIPE, text=True) as process:
        port = next(json.loads(line)["port"] for line in process.stdout if "listening" in line)
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/detect", files={"image": pictures[0]}, trust_env=False)
        page = httpx.get(f"http://127.0.0.1:{port}/docs", trust_env=False)
        process.terminate()
    assert process.returncode == 0 and answer.json()["annotations"] and page.status_code == 200
