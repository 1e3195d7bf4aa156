"""serve.py under the load of many clients, against detect.py's own loop and a plain Flask API, in the same runtime.

All three run on the same cores, and take turns; the clients take some of their time.
"""

import http.client
import json
import os
import re
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from bench.harness import Row, cpu_seconds, project_command
from bench.inputs import picture_list
from bench.load import Load, load
from bench.rows.detect import boxes_differ
from utils.general import ROOT

CLIENTS, SIZE_PX = 64, 640
PICTURES, QUICK_PICTURES = 64, 16
ROUND_S, QUICK_ROUND_S = 20.0, 4.0
DETECT_MARK, FLASK_MARK = 1 / 0.9, 1.0
PATH = "/v1/detect?format=pandas"
COLUMNS = ("class", "xmin", "ymin", "xmax", "ymax", "confidence")
WARM_UP_S = 1.0


def measurements(settings):
    files = Path(picture_list(settings, QUICK_PICTURES if settings.quick else PICTURES)).read_text().splitlines()
    model, bodies = exported(settings), [Path(file).read_bytes() for file in files]
    loop = DetectLoop(model, settings)
    with ExitStack() as stack:
        ours = stack.enter_context(serving(model))
        flask = stack.enter_context(serving_with_flask(model))
        for name, server in (("serve.py", ours), ("Flask", flask)):
            if difference := servers_differ(server, bodies, loop.boxes()):
                yield Row(name, status="unequal", note=difference)
                return
            load(server.port, PATH, bodies, CLIENTS, WARM_UP_S)
        rounds = [(loop.ms(), ours.ms(bodies, settings), flask.ms(bodies, settings)) for _ in range(settings.pairs)]
        yield from rows(rounds, ours.all, flask.all, settings)


def rows(rounds: list, ours: Load, flask: Load, settings):
    """Yield a row for each opponent; figures are milliseconds for a picture."""
    detect_ms, ours_ms, flask_ms = (sorted(column) for column in zip(*rounds))
    middle = len(rounds) // 2
    what = f"serve.py, {CLIENTS} clients, {SIZE_PX} px, a picture" + ", processor time" * (settings.clock == "cpu")
    for reference, times, column, mark, note in (
        ("detect.py's loop", detect_ms, 0, DETECT_MARK, ours.summary()),
        ("Flask", flask_ms, 2, FLASK_MARK, f"Flask: {flask.summary()}"),
    ):
        ratios = [found[1] / found[column] for found in rounds]
        row = Row(what, reference, ratios=ratios, ours=ours_ms[middle], theirs=times[middle], mark=mark, note=note)
        yield row


def exported(settings) -> Path:
    """Return the weights as an ONNX file for any size and batch."""
    import export

    file = Path(settings.folder, "serve.pt")
    file.write_bytes(Path(settings.weights).read_bytes())
    (result,) = export.run(weights=str(file), include="onnx", dynamic=True)
    return Path(result.file)


class DetectLoop:
    """What detect.py does with a list of pictures, without its start and its files."""

    def __init__(self, model: Path, settings):
        from engine import options
        from engine.predict.run import build_detector

        count = QUICK_PICTURES if settings.quick else PICTURES
        source = str(picture_list(settings, count))
        self.opt = options.from_kwargs("detect", {"weights": str(model), "source": source, "imgsz": SIZE_PX})
        self.detector, self.cpu = build_detector(self.opt), settings.clock == "cpu"
        self.count = count

    def results(self) -> list:
        from engine.predict.detector import in_order
        from engine.predict.run import detections
        from utils.sources.files import open_source

        return [result for result, _ in in_order(detections(self.detector, open_source(self.opt.source)))]

    def boxes(self) -> list:
        """Return [n, 6] for each picture: class, xyxy, confidence."""
        return [result.boxes[:, [5, 0, 1, 2, 3, 4]] for result in self.results()]

    def ms(self) -> float:
        read_clock = cpu_seconds if self.cpu else time.perf_counter
        start = read_clock()
        self.results()
        return 1e3 * (read_clock() - start) / self.count


class Server:
    """A server in a process of its own, and all that its clients have seen."""

    def __init__(self, process, port: int):
        self.process, self.port, self.all = process, port, Load()

    def ms(self, bodies: list, settings) -> float:
        start = self.cpu_s()
        found = load(self.port, PATH, bodies, CLIENTS, QUICK_ROUND_S if settings.quick else ROUND_S)
        self.all.add(found)
        if found.errors:
            raise RuntimeError(f"{found.errors} requests failed: {dict(found.statuses)}")
        seconds = self.cpu_s() - start if settings.clock == "cpu" else found.elapsed_s
        return 1e3 * seconds / found.statuses[200]

    def cpu_s(self) -> float:
        """Processor time of the server's process (Linux)."""
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(argv, log: Path):
    """Give a Server when it has written its port into `log`, as a number or as JSON; end it afterwards."""
    with open(log, "w") as file:  # A pipe that nobody reads would stop it.
        process = subprocess.Popen(argv, cwd=ROOT, stdout=file, stdin=subprocess.DEVNULL)
    try:
        while (port := port_in(log)) is None:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(argv[1:3])} has ended with exit code {process.returncode}")
            time.sleep(0.05)
        yield Server(process, port)
    finally:
        process.terminate()
        process.wait()


def port_in(log: Path) -> int | None:
    found = re.search(r'^(?:.*"port": )?(\d+)\b.*\n', log.read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def serving(model: Path):
    command = project_command("serve.py", "--weights", model, "--imgsz", SIZE_PX, "--port", 0)
    return running(command.argv, model.with_name("serve.log"))


def serving_with_flask(model: Path):
    return running(project_command("-m", "bench.plain.flask_api", model, SIZE_PX).argv, model.with_name("flask.log"))


def servers_differ(server: Server, bodies: list, expected: list) -> str:
    """Say what differs between the boxes of a server and those of detect.py."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for number, (body, boxes) in enumerate(zip(bodies, expected), 1):
        connection.request("POST", PATH, body, {"Content-Type": "image/jpeg"})
        records = json.loads(connection.getresponse().read())
        found = np.array([[record[column] for column in COLUMNS] for record in records]).reshape(-1, 6)
        if difference := boxes_differ(found, np.asarray(boxes, float)):
            return f"picture {number}: {difference}"
    return "" if any(map(len, expected)) else "there is no box on any picture to compare"
