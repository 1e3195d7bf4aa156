"""A time limit for asyncio's work that loses no cancellation."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

CANCEL_EVERY_S = 0.1
T = TypeVar("T")


async def within(seconds: float | None, work: Coroutine[object, object, T]) -> T:
    """Return what `work` returns; cancel it, and raise asyncio.TimeoutError, if it takes longer. None: no limit.

    Before Python 3.12 asyncio.wait_for swallows a cancellation that comes just when its own work has ended, and what
    should have ended goes on. Here none is swallowed, and one that `work` swallows is repeated.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_EVERY_S)
