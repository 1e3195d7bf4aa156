"""The files that are timed: every model file with random weights, written for each runtime and kept.

A file stands in FOLDER/MODEL-KEY/, where KEY is a digest of its model file, of the number of classes and of all sources
in models/: what is found there was written from these, and is not written again.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from extras.latency.runtimes import Runtime
from utils.console.processes import run_process
from utils.general import ROOT, check_yaml

EXPORT_S, MEMORY_S = 1800, 300  # most seconds of a process
NC = 80  # classes, where nobody says how many


def model_files() -> list[Path]:
    """Return the model files that are compared by default: every EdgeViT detector, YOLOv5n and YOLOv5s."""
    folder = ROOT / "models"
    return [*sorted(folder.glob("yolov5_edgevit*.yaml")), folder / "yolov5n.yaml", folder / "yolov5s.yaml"]


def written_file(cfg, size_px: int, runtime: Runtime, folder: Path, nc: int = NC) -> Path:
    """Return the model file `cfg` as the runtime wants it; it is written if it is not there.

    The weights are random numbers: they do not change how long it takes. RuntimeError that says why if it cannot be
    written.
    """
    cfg = check_yaml(cfg)
    precision = "" if runtime.file_precision == "fp32" else f"-{runtime.file_precision}"
    name = f"{cfg.stem}-{size_px}{precision}{runtime.format.suffixes[0]}"
    file = folder / f"{cfg.stem}-{source_key(cfg, nc)}" / name
    if not file.exists():
        job = {"task": "write", "cfg": str(cfg), "nc": nc, "size_px": size_px, "runtime": runtime.key}
        run_worker({**job, "file": str(file.absolute())}, EXPORT_S)
    return file


def source_key(cfg: Path, nc: int) -> str:
    """Return a digest of all that decides what is written for a model file."""
    digest = hashlib.sha256(str(nc).encode())
    for file in [cfg, *sorted((ROOT / "models").rglob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def memory_mb(file: Path, size_px: int, runtime: Runtime) -> float | None:
    """Return the most memory (MB) that a process holds which opens the file and runs it, Python included."""
    job = {"task": "memory", "file": str(file.absolute()), "size_px": size_px, "runtime": runtime.key}
    return run_worker(job, MEMORY_S)["memory_mb"]


def run_worker(job: dict, most_s: float) -> dict:
    """Do the job in a process of its own, as a crash must cost one file only. RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        command = [sys.executable, "-m", "extras.latency.worker", json.dumps(job)]
        answer = run_process(command, log, most_s)
        if error := answer.get("error"):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
            last = lines[-1].strip() if lines and "see " in error else ""
            raise RuntimeError(f"{error.split(', see ')[0]}{f': {last}' if last else ''}")
        return answer


def write_file(cfg: str, nc: int, size_px: int, runtime: Runtime, file: Path) -> None:
    """Write the file, whole or not at all. The runtime's packages raise what they like."""
    from extras.latency.model import export, random_model

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".write-") as folder:
        part = Path(folder) / file.name
        export(random_model(cfg, nc), size_px, runtime, part)
        os.replace(part, file)
