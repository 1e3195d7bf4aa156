"""The share of each kind of operator in the time of an ONNX file, by ONNX Runtime's own profile."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from models.backends.onnx_session import load_onnxruntime

RUNS, WARM_UPS = 12, 2


def operator_shares(file: Path, size_px: int, threads: int = 1) -> dict[str, float]:
    """Return {operator: share of the time of all}, the greatest first. ImportError without onnxruntime."""
    onnxruntime = load_onnxruntime("the shares of operators")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_profiling, options.log_severity_level = True, 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        images = np.random.default_rng(0).random((1, 3, size_px, size_px), np.float32)
        name = session.get_inputs()[0].name
        for _ in range(WARM_UPS + RUNS):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return shares(events)


def shares(events: list[dict]) -> dict[str, float]:
    """Return the shares from the events of a profile, without those of the first WARM_UPS runs."""
    runs = [event for event in events if event.get("name") == "model_run"]
    begin = sorted(event["ts"] for event in runs)[WARM_UPS] if len(runs) > WARM_UPS else 0
    micros: Counter = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begin:
            micros[event["args"]["op_name"]] += event["dur"]
    total = sum(micros.values()) or 1
    return {name: spent / total for name, spent in micros.most_common()}
