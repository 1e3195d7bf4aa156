"""All that the routes share: models, threads, limits, counters."""

import argparse
import asyncio
import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

from fastapi import HTTPException

from engine.predict.detector import Result
from extras.serve.intake import Intake
from extras.serve.metrics import Metrics
from extras.serve.models import Model, Models
from extras.serve.pictures import Held, Memory, prepare
from utils.general import usable_cores

LONGEST_RETRY_S = 60
TIME_TO_WAIT = 0.5  # the part of a request's time limit that the queue may take, as far as is known


class Service:
    """The state of a server, from its options and tokens. It opens the models."""

    def __init__(self, opt: argparse.Namespace, tokens: list[str]):
        self.opt, self.metrics, self.intake = opt, Metrics(), Intake(opt)
        self.tokens = [digest(token) for token in tokens]
        self.memory = Memory(int(opt.memory_mb * 1e6))
        self.decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="detect")
        self.models = Models(opt, self.worker, self.metrics)
        self.pictures = 0  # that are worked on or wait
        self.is_stopping = False
        self.metrics.gauge("serve_pictures_at_hand", "Pictures worked on or waiting", lambda: self.pictures)
        self.metrics.gauge("serve_held_bytes", "Bytes of bodies and pixels", lambda: self.memory.used)

    def check_queue(self, count: int) -> None:
        """Refuse (429) pictures for which the queue has no room, or that it would not reach in time."""
        each_s = self.metrics.seconds_per_picture
        room = max(min(self.opt.queue, self.opt.timeout_s * TIME_TO_WAIT / each_s), 1)
        if self.pictures and self.pictures + count > room:
            retry_s = min(max(math.ceil(self.pictures * each_s), 1), LONGEST_RETRY_S)
            raise HTTPException(429, f"{self.pictures} pictures are waiting already", {"Retry-After": str(retry_s)})

    async def detect(self, model: Model, pictures: list[bytes], held: Held, keep: bool) -> list[Result]:
        """Return the Results of pictures, with `keep` their pixels too; one that is unfit refuses the whole request."""
        self.check_queue(len(pictures))
        self.pictures += len(pictures)
        tasks = [asyncio.ensure_future(self._detect(model, *item, held, keep)) for item in enumerate(pictures, 1)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # of the others, if one is unfit
                task.cancel()
            self.pictures -= len(pictures)

    async def _detect(self, model: Model, number: int, data: bytes, held: Held, keep: bool) -> Result:
        arguments = model.detector, data, f"picture {number}", int(self.opt.max_mpx * 1e6), self.memory, keep
        with model.batcher.expecting():
            prepared = await asyncio.get_running_loop().run_in_executor(self.decoders, prepare, *arguments)
        held.take(prepared.picture.nbytes + (prepared.frame.image.nbytes if keep else 0))
        return await model.batcher.detect(prepared)

    def stop(self) -> None:
        self.decoders.shutdown(cancel_futures=True)
        self.worker.shutdown(cancel_futures=True)


def digest(token: str) -> bytes:
    """Return what is compared in place of a token: it has one length for all."""
    return hashlib.sha256(token.encode()).digest()
