"""Measure exported model files on the machine where they will run. One file: copy it there, beside the model files.

    python on_device.py yolov5n-320.onnx yolov5n-640.onnx
    python on_device.py *.tflite *_ncnn_model --threads 1 4 --out figures.json

It needs NumPy and the runtimes of the files alone: onnxruntime (.onnx), openvino (NAME_openvino_model or .xml),
ai_edge_litert or tflite_runtime (.tflite), ncnn (NAME_ncnn_model). Files are timed in turns until their medians stand
still. The JSON file names the machine, the versions and the figures; train.py --latency-figures takes it. A name
MODEL-SIZE.SUFFIX, as `python -m bench latency --files-only` writes it, tells which model file it is.
"""

import argparse
import importlib
import json
import os
import platform
import re
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

WARM_UPS, LEAST_TURNS = 3, 20
STABLE = 0.03  # most that the medians of both halves of the times may differ by
RUNTIME_PACKAGES = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime", "ncnn", "numpy")
SIDES = re.compile(r"-(\d+)(?:-(int8|fp16))?(?:_\w+_model)?(?:\.\w+)*$")  # of names such as yolov5n-320-int8.tflite


def open_onnx(file, threads, size_px):
    """Return (function that runs the file once, its image size)."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    model_input = session.get_inputs()[0]
    shape = filled(model_input.shape, size_px)
    images = noise(shape, np.uint8 if "uint8" in model_input.type else np.float32)
    return (lambda: session.run(None, {model_input.name: images})), side(shape)


def open_openvino(file, threads, size_px):
    import openvino

    path = next(iter(sorted(file.glob("*.xml"))), file) if file.is_dir() else file
    core = openvino.Core()
    graph = core.read_model(str(path))
    lengths = [None if dim.is_dynamic else dim.get_length() for dim in graph.input(0).get_partial_shape()]
    shape = filled(lengths, size_px)
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(graph, "CPU", config).create_infer_request()
    images = noise(shape)
    return (lambda: request.infer({0: images}, share_inputs=True)), side(shape)


def open_tflite(file, threads, size_px):
    for package in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:
            interpreter_class = importlib.import_module(package).Interpreter
            break
        except ImportError:
            continue
    else:
        raise ImportError("needs ai_edge_litert or tflite_runtime: pip install ai-edge-litert")
    interpreter = interpreter_class(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    tensor = interpreter.get_input_details()[0]
    shape = [int(length) for length in tensor["shape"]]
    interpreter.set_tensor(tensor["index"], noise(shape, tensor["dtype"]))
    return interpreter.invoke, side(shape)


def open_ncnn(file, threads, size_px):
    import ncnn

    layers = next(iter(sorted(file.glob("*.param"))), file) if file.is_dir() else file
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(layers)) or net.load_model(str(layers.with_suffix(".bin"))):
        raise ValueError("ncnn cannot read it")
    size_px = size_px or size_of(file)
    if not size_px:
        raise ValueError("an ncnn file does not tell its image size: --size PX")
    image = ncnn.Mat(noise((3, size_px, size_px)))
    name_in, names_out = net.input_names()[0], list(net.output_names())

    def call():
        extractor = net.create_extractor()
        extractor.input(name_in, image)
        return [extractor.extract(name) for name in names_out]

    return call, size_px


# end of the file's name -> runtime as in the figures, function that opens it
OPENERS = {
    ".onnx": ("onnx", open_onnx),
    "_openvino_model": ("openvino", open_openvino),
    ".xml": ("openvino", open_openvino),
    ".tflite": ("litert", open_tflite),
    "_ncnn_model": ("ncnn", open_ncnn),
    ".param": ("ncnn", open_ncnn),
}


def filled(shape, size_px):
    """Return the lengths of an input [B, 3, H, W], [B, H, W, 3] or [H, W, 3], with numbers for those left open."""
    shape = [length if isinstance(length, int) and length > 0 else None for length in shape]
    channels_last = shape[-1] == 3
    for i, length in enumerate(shape):
        if length is None:
            is_batch, is_channels = i == 0 and len(shape) == 4, i == (len(shape) - 1 if channels_last else 1)
            if not (is_batch or is_channels or size_px):
                raise ValueError("the file takes images of any size: --size PX")
            shape[i] = 1 if is_batch else 3 if is_channels else size_px
    return shape


def side(shape):
    """Return the greatest side in pixels of images of a shape."""
    return max(length for length in shape[-3:] if length != 3)


def noise(shape, dtype=np.float32):
    values = np.random.default_rng(0).random(shape, np.float32)
    dtype = np.dtype(dtype)
    return values.astype(dtype) if dtype.kind == "f" else (values * 127).astype(dtype)


def size_of(file):
    found = SIDES.search(file.name)
    return int(found[1]) if found else None


def describe(file, runtime):
    """Return {model, runtime} by a file's name: the precision is a part of the runtime's key."""
    found = SIDES.search(file.name)
    model = file.name[: found.start()] if found else re.sub(r"(_\w+_model)?(\.\w+)*$", "", file.name)
    precision = found[2] if found and found[2] else "fp32"
    key = runtime if precision == "fp32" else f"{runtime}-{precision}"
    return {"file": file.name, "model": model, "runtime": key, "precision": precision}


def measure(files, threads, size_px, most_s):
    """Return the figures of files with so many threads, and a line for each file that cannot be run."""
    figures, calls, problems = [], [], []
    for file in files:
        try:
            runtime, opener = opener_of(file)
            call, size = opener(file, threads, size_px)
            for _ in range(WARM_UPS):
                call()
        except Exception as error:  # The runtimes' errors have no common class.
            problems.append(f"{file}: {next(iter(str(error).splitlines()), type(error).__name__)}")
            continue
        figures.append({**describe(file, runtime), "size_px": size, "threads": threads})
        calls.append(call)
    for figure, seconds in zip(figures, time_in_turns(calls, most_s)):
        low, median, high = np.quantile(seconds, (0.1, 0.5, 0.9)) * 1e3
        figure.update(median_ms=float(median), low_ms=float(low), high_ms=float(high), runs=len(seconds))
    return figures, problems


def opener_of(file):
    if not file.exists():
        raise FileNotFoundError("no such file")
    for ending, found in OPENERS.items():
        if file.name.endswith(ending):
            return found
    raise ValueError(f"expected a name that ends in {', '.join(OPENERS)}")


def time_in_turns(calls, most_s):
    """Return the seconds of every call: A B C A B C ... until all are stable or the time is over."""
    seconds, end = [[] for _ in calls], time.perf_counter() + most_s
    while calls:
        for call, own in zip(calls, seconds):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
        enough = len(seconds[0]) >= LEAST_TURNS
        if enough and (all(map(is_stable, seconds)) or time.perf_counter() > end):
            break
    return seconds


def is_stable(seconds):
    first, second = (np.median(half) for half in np.array_split(seconds, 2))
    return abs(first - second) <= STABLE * min(first, second)


def machine():
    """Return the machine's name, its processor and the versions of what is installed."""
    cpu = platform.processor() or platform.machine()
    for file, pattern in (("/proc/device-tree/model", r"(.+)"), ("/proc/cpuinfo", r"model name\s*: (.+)")):
        if os.path.exists(file):
            found = re.search(pattern, Path(file).read_text(errors="replace").replace("\0", ""))
            cpu = found[1] if found else cpu
    runtimes = {"python": platform.python_version()}
    for package in RUNTIME_PACKAGES:
        try:
            runtimes[package] = version(package)
        except PackageNotFoundError:
            continue
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    about = {"machine": platform.node(), "cpu": cpu, "cores": os.cpu_count(), "system": system}
    return {**about, "time": now, "runtimes": runtimes}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="model files or folders")
    cores = os.cpu_count() or 1
    add("--threads", nargs="+", type=int, default=sorted({1, cores}), help="numbers of threads (default: 1 and all)")
    add("--size", type=int, default=None, help="side of the image in pixels, for files that take any")
    add("--seconds", type=float, default=30.0, help="most seconds for all files with one number of threads")
    add("--out", type=Path, default=Path("latency.json"), help="where the figures go (default: latency.json)")
    opt = parser.parse_args(argv)
    if min(opt.threads) < 1:
        parser.error(f"--threads: expected whole numbers from 1, found {min(opt.threads)}")
    figures, problems = [], []
    for threads in opt.threads:
        found, failed = measure(opt.files, threads, opt.size, opt.seconds)
        figures += found
        problems += failed
        for figure in found:
            text = "{file}: {size_px} px, threads {threads}: {median_ms:.2f} ms ({low_ms:.2f} to {high_ms:.2f})"
            print(text.format(**figure))
    for problem in dict.fromkeys(problems):
        print(f"error: {problem}", file=sys.stderr)
    if figures:
        opt.out.write_text(json.dumps({**machine(), "figures": figures}, indent=1) + "\n", encoding="utf-8")
        print(opt.out)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
