"""The models of a server by name; each can be read anew while its requests go on."""

import argparse
import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from engine.predict.detector import Detector
from engine.predict.run import build_detector
from extras.serve.batcher import Batcher
from extras.serve.logs import log
from extras.serve.metrics import Metrics, ModelMetrics
from utils.general import chosen_weights

OLD_CHECK_S = 0.05


class Model:
    """A detector that is open, with its queue. The task that works it off begins with start()."""

    def __init__(self, name: str, file: str, detector: Detector, batcher: Batcher):
        self.name, self.file, self.detector, self.batcher = name, file, detector, batcher
        self.users = 0  # requests that have this very one

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.batcher.run())

    async def stop_when_unused(self) -> None:
        while self.users:
            await asyncio.sleep(OLD_CHECK_S)
        self.task.cancel()


class Models:
    """All models of a server. They are opened before it listens, so that a wrong file ends it at once."""

    def __init__(self, opt: argparse.Namespace, worker: Executor, metrics: Metrics):
        self.opt, self.worker, self.metrics = opt, worker, metrics
        self.by_name = {name: self._open(name, file) for name, file in named_files(opt.weights).items()}
        self.reloading = asyncio.Lock()
        self.tasks: set[asyncio.Task] = set()

    def _open(self, name: str, file: str) -> Model:
        detector = build_detector(argparse.Namespace(**{**vars(self.opt), "weights": [file]}))
        metrics = ModelMetrics(self.metrics, name)
        return Model(name, file, detector, Batcher(detector, self.worker, self.opt.batch_wait_ms / 1e3, metrics))

    def start(self) -> None:
        for model in self.by_name.values():
            model.start()

    @contextmanager
    def using(self, name: str) -> Iterator[Model]:
        """Give a model that stays open for the block, also if its file is read anew meanwhile."""
        model = self.by_name[name]
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1

    async def reload(self, name: str) -> bool:
        """Read a model's file anew, for the requests that come then; False if it cannot be read: the old one stays."""
        async with self.reloading:
            old = self.by_name[name]
            try:
                new = await asyncio.to_thread(self._open, name, old.file)
            except (ValueError, OSError, RuntimeError) as error:
                log("model_kept", logging.ERROR, model=name, error=str(error).splitlines()[0])
                return False
            new.start()
            self.by_name[name] = new
            self._in_background(old.stop_when_unused())
        log("model_read", model=name)
        return True

    def reload_all(self) -> None:
        """Begin to read all files anew, one after the other."""
        for name in self.by_name:
            self._in_background(self.reload(name))

    def _in_background(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)  # The loop itself would forget it.
        task.add_done_callback(self.tasks.discard)


def named_files(weights: list[str] | None) -> dict[str, str]:
    """Return {name: file} of --weights: FILE or NAME=FILE. ValueError for a name that occurs twice."""
    files: dict[str, str] = {}
    for text in weights or chosen_weights(None):
        name, has_name, file = str(text).partition("=")
        if not has_name or Path(str(text)).exists():
            file = str(text)
            name = Path(file).stem
        if name in files:
            raise ValueError(f"--weights: expected a name of its own for each model, found '{name}' twice: NAME=FILE")
        files[name] = file
    return files
