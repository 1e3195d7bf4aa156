"""A session of onnxruntime: its threads, devices and errors. Needs no torch."""

import os
from collections.abc import Iterator
from functools import cached_property, partial

import numpy as np

from models.backends.base import MOST_AT_ONCE, require
from utils.data.ahead import map_ahead
from utils.general import usable_cores

NUMPY_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


def load_onnxruntime(purpose: str, module: str = "onnxruntime"):
    """Import onnxruntime, or a module of it, with its telemetry off; ImportError with the pip line if it is missing.

    Its builds for all systems send what they run, and number the machine by a file below the home folder. The variable
    counts when onnxruntime is first imported, and stays as it is where the user has set it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return require(module, "onnx", purpose)


class OnnxRuntime:
    """A session of onnxruntime.

    strings: the metadata. input_shape: of the first input. output_shapes: of all. None is for what is dynamic.
    can_run_each: whether run_each() is the fastest way for several pictures, as on a CPU.
    """

    def __init__(self, path, device="", threads: int = 0):
        self.onnxruntime = load_onnxruntime(f"{path}")
        self.onnxruntime.disable_telemetry_events()  # for the case that another program has imported it before
        self.path, self.threads, self.stamp = path, threads, stamp_of(path)
        self.providers = providers_for(device, self.onnxruntime.get_available_providers())
        self.session = self._open(threads)
        self.device = "cuda" if "CUDAExecutionProvider" in self.session.get_providers() else "cpu"
        if str(device) and self.device == "cpu" and len(self.providers) > 1:
            raise ValueError(f"--device {device}: onnxruntime could not start CUDA; use --device cpu")
        self.can_run_each = self.device == "cpu"
        self.strings = self.session.get_modelmeta().custom_metadata_map
        self.input = self.session.get_inputs()[0]
        self.dtype = np.dtype(NUMPY_TYPES.get(self.input.type, np.float32))
        self.input_shape = known_sizes(self.input.shape)
        self.output_shapes = [known_sizes(output.shape) for output in self.session.get_outputs()]

    def _open(self, threads: int):
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # takes a fifth less memory, and as long
        # Threads that wait at work, as they do by default, take the processor from whatever else the program does
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        try:
            return self.onnxruntime.InferenceSession(str(self.path), options, providers=self.providers)
        except load_errors() as error:
            reason = str(error).strip().splitlines()[0].split(" : ", 3)[-1]  # without the name and number of the error
            raise ValueError(f"{self.path}: expected an ONNX file that onnxruntime can run: {reason}") from None

    @property
    def pictures_at_once(self) -> int:
        """Number of runs that share the threads in run_each()."""
        return min(self.threads or usable_cores(), MOST_AT_ONCE)

    @cached_property
    def shared_session(self):
        """Return the session of runs that share the threads; the first one, if the file is another one by now."""
        if self.pictures_at_once == 1 or stamp_of(self.path) != self.stamp:
            return self.session
        session = self._open((self.threads or usable_cores()) // self.pictures_at_once)
        return session if stamp_of(self.path) == self.stamp else self.session

    def run(self, array: np.ndarray, session=None) -> list:
        """Return all outputs, as arrays, for the array of the first input, which gets the type that the file takes.

        session: another one than that in which a run has all threads.
        """
        return (session or self.session).run(None, {self.input.name: array.astype(self.dtype, copy=False)})

    def run_each(self, arrays: list) -> Iterator[list]:
        """Yield what run() returns for each of several arrays, in order; several runs at once share the threads."""
        return map_ahead(partial(self.run, session=self.shared_session), arrays, self.pictures_at_once)


def stamp_of(path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced; None where there is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def known_sizes(shape) -> list[int | None]:
    return [n if isinstance(n, int) and n > 0 else None for n in shape]


def load_errors() -> tuple:
    """Return the classes of onnxruntime's errors, which have no common one of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return tuple(e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception))


def providers_for(device, available: list) -> list:
    """Return onnxruntime's execution providers for a --device value; ValueError if they are not `available`."""
    name = str(device).strip().lower().removeprefix("cuda").removeprefix(":")
    has_cuda = "CUDAExecutionProvider" in available
    if name == "cpu" or (not str(device) and not has_cuda):
        return ["CPUExecutionProvider"]
    if not has_cuda or not (name.isdigit() or name == ""):
        raise ValueError(f"--device {device}: this onnxruntime offers {', '.join(available)}; use --device cpu")
    return [("CUDAExecutionProvider", {"device_id": int(name or 0)}), "CPUExecutionProvider"]
