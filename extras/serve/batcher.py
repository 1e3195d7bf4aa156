"""Pictures of many requests go through a model together, and none waits for others longer than a bound."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.predict.detector import Detector, Prepared, Result
from extras.serve.deadline import within
from extras.serve.metrics import ModelMetrics


@dataclass(eq=False)
class Waiting:
    """A picture in the queue."""

    prepared: Prepared
    answer: asyncio.Future  # its Result
    since_s: float = field(default_factory=time.perf_counter)


class Batcher:
    """The queue in front of a detector. Pictures of one letterboxed shape go together, the longest waiting one first.

    A picture waits at most `wait_s` for others, and not at all if none is on its way. `worker` has one thread, and all
    models share it, so that they do not take the processor from each other.
    """

    def __init__(self, detector: Detector, worker: Executor, wait_s: float, metrics: ModelMetrics):
        self.detector, self.worker, self.wait_s, self.metrics = detector, worker, wait_s, metrics
        self.queue: list[Waiting] = []
        self.on_their_way = 0  # pictures that are being decoded
        self.changed = asyncio.Event()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Let the queue know that a picture is on its way while the block runs."""
        self.on_their_way += 1
        try:
            yield
        finally:
            self.on_their_way -= 1
            self.changed.set()

    async def detect(self, prepared: Prepared) -> Result:
        """Return the Result of a picture when its turn has come."""
        waiting = Waiting(prepared, asyncio.get_running_loop().create_future())
        self.queue.append(waiting)
        self.changed.set()
        return await waiting.answer

    async def run(self) -> None:
        """Work through the queue until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            start_s = time.perf_counter()
            try:
                reports = await loop.run_in_executor(self.worker, self.detector.detect, [w.prepared for w in batch])
            except Exception as error:  # Whoever asked gets it; the others of the queue must go on.
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            self.metrics.batch([start_s - w.since_s for w in batch], time.perf_counter() - start_s)
            for waiting, (_, result, _) in zip(batch, reports):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)

    async def _next_batch(self) -> list[Waiting]:
        while True:
            await self._wait_for(1)
            if self.queue:
                await self._wait_for(self.detector.batch_size, self.queue[0].since_s + self.wait_s)
            if batch := self._fitting():
                self.queue = [waiting for waiting in self.queue if waiting not in batch]
                return batch

    async def _wait_for(self, count: int, end_s: float | None = None) -> None:
        """Wait until so many pictures fit together; with `end_s` until then at most, and only for those expected."""
        while len(self._fitting()) < count:
            if end_s is not None and not self.on_their_way:
                return
            self.changed.clear()
            try:
                rest_s = None if end_s is None else max(end_s - time.perf_counter(), 0)
                await within(rest_s, self.changed.wait())
            except asyncio.TimeoutError:
                return

    def _fitting(self) -> list[Waiting]:
        """Return the next batch as the queue is now, without those that nobody waits for any more."""
        self.queue = [waiting for waiting in self.queue if not waiting.answer.done()]
        if not self.queue:
            return []
        shape = self.queue[0].prepared.picture.shape
        return [w for w in self.queue if w.prepared.picture.shape == shape][: self.detector.batch_size]
